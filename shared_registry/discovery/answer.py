"""What a source of discovery answers, and the interface of a source."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared_registry.model import ReplicaEndpoint


@dataclass(frozen=True, slots=True)
class Found:
    """One replica that a source has.

    Attributes:
        endpoint: Its spec, validated.
        draining: Why it takes no new sessions, such as "terminating"; empty if it takes them.
        is_new_welcome: Whether it is registered if it is not yet. A pod that is not ready, or that terminates, is not.
        keeps_capacity: Whether a replica that is registered keeps its capacity, because that is not known now.
        keeps_state: Whether it goes on draining if it does, because it is not known whether it takes sessions.
    """

    endpoint: ReplicaEndpoint
    draining: str = ""
    is_new_welcome: bool = True
    keeps_capacity: bool = False
    keeps_state: bool = False


@dataclass(frozen=True, slots=True)
class SourceAnswer:
    """All replicas that a source has, or why that is not known.

    Attributes:
        found: The replicas.
        failure: Why the source could not be asked, or its answer cannot be believed; empty if neither. Then nothing is
            changed.
        is_partial: Whether a part of the answer is missing. Then a replica that is not in it has not vanished.
    """

    found: Sequence[Found] = ()
    failure: str = ""
    is_partial: bool = False


class DiscoverySource(Protocol):
    """A source of discovery. It keeps what it needs between answers, so that a new one begins for each term."""

    def answers(self) -> AsyncGenerator[SourceAnswer, None]:
        """Yield an answer at each change, and at least one in each `interval_seconds` of the source, without end.

        Failures are answers too. An exception is a fault of the program: it is logged, and the source is asked anew.
        """
