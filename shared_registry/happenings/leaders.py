"""What happens to the leadership: for all routers, and to this router's own terms."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from shared_registry.happenings.happening import Happening
from shared_registry.model import Leader


class TermEnd(enum.Enum):
    """Why a term of this router ended.

    `RESIGNED`: it stopped, or its settings changed. `LOST`: it could not renew its lease in time, or another router
    leads. `DEPOSED`: an operator asked for that. `BLIND`: this router cannot probe for reasons of its own.
    `CONTRADICTED`: other routers reach replicas that this one does not.
    """

    RESIGNED = "resigned"
    LOST = "lost"
    DEPOSED = "deposed"
    BLIND = "blind"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderChanged(Happening):
    """Another router leads, or none does. All routers learn that.

    Attributes:
        leader: The leader; `None` if there is none.
        former: The leader before; `None` if there was none.
        by: Who asked the former leader to step down; empty if nobody did.
        reason: Why, as far as that is known.
    """

    leader: Leader | None
    former: Leader | None
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermBegan(Happening):
    """This router was elected, and leads.

    Attributes:
        epoch: The number of the term.
    """

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TermEnded(Happening):
    """This router does not lead any more.

    Attributes:
        epoch: The number of the term.
        end: Why it ended.
        reason: The same for people; empty if there is nothing to add.
    """

    epoch: int
    end: TermEnd
    reason: str = ""
