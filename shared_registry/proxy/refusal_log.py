"""Logs what the router refuses: the first time at once, and then as counts, so that a flood does not fill the log."""

from __future__ import annotations

import logging
from collections import Counter

PERIOD_SECONDS = 10.0
"""How long refusals of one kind are counted before the next line about them."""
logger = logging.getLogger(__name__)


class RefusalLog:
    """Logs and counts refusals by kind. There are few kinds: a status or close code, and an error's code.

    Attributes:
        counts: The number of all refusals so far, by kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._kinds: dict[str, _Count] = {}

    def note(self, kind: str, reason: str, request_id: bytes, now: float) -> None:
        """Log a refusal, or count it if one of its kind was logged within the last `PERIOD_SECONDS`.

        Args:
            kind: The status and the error's code, such as "503 gpu_unavailable".
            reason: The reason for people.
            request_id: The id of the request.
            now: The time, on the clock of `report`.
        """
        self.counts[kind] += 1
        count = self._kinds.get(kind)
        if count is None:
            self._kinds[kind] = _Count(now)
            name = request_id.decode()
            extra = {"request_id": name}
            logger.warning("router: refused a request: %s (%s; request %s)", kind, reason, name, extra=extra)
        else:
            count.more += 1
            count.reason = reason

    def report(self, now: float, *, is_last: bool = False) -> None:
        """Log the counts of the kinds whose time has passed. Called periodically.

        Args:
            now: The time.
            is_last: Log all counts, because the router ends.
        """
        for kind, count in tuple(self._kinds.items()):
            seconds = now - count.since
            if seconds < PERIOD_SECONDS and not is_last:
                continue
            if not count.more:
                del self._kinds[kind]  # the next one is logged at once again
                continue
            logger.warning("router: refused %d more in %.0f s: %s (%s)", count.more, seconds, kind, count.reason)
            self._kinds[kind] = _Count(now)


class _Count:
    """The refusals of one kind since the last line about them."""

    __slots__ = ("more", "reason", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.more = 0
        self.reason = ""
