"""Who is told what this router's probes find out, apart from the shared state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared_registry.probing.outcome import ProbeOutcome
from shared_registry.probing.probe_counts import ProbeCounts
from shared_registry.probing.trouble_log import TroubleLog

Retain = Callable[[Iterable[str]], None]
Forget = Callable[[str], None]


class Testify(Protocol):
    """Counts a session that could not connect to a replica, which this router's probe has reached since."""

    def __call__(self, key: str, *, probed_at: float) -> Awaitable[None]:
        """Count it.

        Args:
            key: The replica's canonical url.
            probed_at: When the probe began, or before that the lookup of the replica's name, on the monotonic clock.
        """


async def _ignore(key: str, *, probed_at: float) -> None:
    """Count nothing."""


@dataclass(frozen=True)
class ProbeListeners:
    """What is called with the results of probes.

    Attributes:
        trouble_log: Logs probes that this router could not make.
        on_reach: Called with canonical urls of replicas, and whether this router reaches them.
        retain: Called with the probed urls when any of them may have changed, to close connections to other urls.
        forget: Called with the url at which a replica was probed that no longer is, to close the connection to it.
        testify: Called when a probe has reached a replica to which a session could not connect before.
        counts: Counts the probes.
    """

    trouble_log: TroubleLog
    on_reach: Callable[[Sequence[str], bool], None]
    retain: Retain | None = None
    forget: Forget | None = None
    testify: Testify = _ignore
    counts: ProbeCounts = field(default_factory=ProbeCounts)

    def note(self, outcome: ProbeOutcome) -> None:
        """Count a probe. Log where trouble of this router's own begins and ends."""
        self.counts.add(outcome)
        if outcome.trouble is not None:
            self.trouble_log.note(outcome.trouble)
        elif outcome.error is None:
            self.trouble_log.connected()

    def note_well(self, seconds: Sequence[float]) -> None:
        """Count successes that took so long each; see `note`."""
        self.counts.ended_well(seconds)
        self.trouble_log.connected()
