"""The results of probes that Redis does not have yet, in the order of their reports.

Thousands may wait at once, so each step touches only the results that it takes out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from shared_registry.leader.authority import Mandate
from shared_registry.model import ProbeResult

RESULTS_AT_ONCE = 60
BEHIND = 2 * RESULTS_AT_ONCE
"""From how many results on that wait, replicas are not probed whose result would have to wait, too.

They do not include those of settled replicas where these might keep others waiting for ever.
"""


class Finding(NamedTuple):
    """A result, the mandate under which its probe began, and until when it says something about the replica.

    `is_awaited` is whether the replica was not healthy when its probe began.
    """

    result: ProbeResult
    mandate: Mandate
    good_until: float
    is_awaited: bool


class Unreported:
    """The waiting results, a queue for each mandate. Those of the earliest mandate come first.

    Attributes:
        at_once: How many results the next report takes at most. A report stops after some changes of status, so after
            one that stopped early the next one is not larger than what was done, and then they grow again.
    """

    def __init__(self) -> None:
        self.at_once = RESULTS_AT_ONCE
        self._queues: list[deque[Finding]] = []  # none is empty
        self._keys: Counter[str] = Counter()
        self._awaited = 0

    def add(self, found: Finding) -> None:
        """Take a result, as the last one of its mandate."""
        self._keys[found.result.key] += 1
        self._awaited += found.is_awaited
        for queue in self._queues:
            if queue[0].mandate is found.mandate or queue[0].mandate == found.mandate:
                queue.append(found)
                return
        self._queues.append(deque([found]))

    def take(self) -> list[Finding]:
        """Return the next results of one mandate. They count as waiting until they are done or forgotten."""
        if not self._queues:
            return []
        queue = self._queues[0]
        taken = [queue.popleft() for _ in range(min(len(queue), self.at_once))]
        if not queue:
            del self._queues[0]
        return taken

    def end(self, taken: Sequence[Finding], done: int) -> None:
        """Take note that a report did the first `done` of these results. The others come next."""
        self.forget(taken[:done])
        self.at_once = done if done < len(taken) else min(2 * self.at_once, RESULTS_AT_ONCE)
        if done < len(taken):
            self._put_back(taken[done:])

    def _put_back(self, taken: Sequence[Finding]) -> None:
        for queue in self._queues:
            if queue[0].mandate == taken[0].mandate:
                queue.extendleft(reversed(taken))
                return
        self._queues.insert(0, deque(taken))

    def forget(self, taken: Sequence[Finding]) -> None:
        """Count results that were taken as waiting no more."""
        for found in taken:
            key = found.result.key
            self._awaited -= found.is_awaited
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]

    def clear(self) -> None:
        """Forget all results."""
        self._queues.clear()
        self._keys.clear()
        self._awaited = 0

    def is_behind(self, key: str) -> bool:
        """Return whether many results wait, and one of this replica among them."""
        return key in self._keys and self.is_crowded

    @property
    def is_crowded(self) -> bool:
        """Whether many results wait."""
        return sum(map(len, self._queues)) > BEHIND

    @property
    def is_waiting(self) -> bool:
        """Whether there are results that were not taken."""
        return bool(self._queues)

    @property
    def is_full(self) -> bool:
        """Whether many results of replicas that were not healthy wait."""
        return self._awaited > BEHIND
