"""What becomes of connections to a server that is not the primary any more.

A demoted primary keeps its connections. It answers writes with READONLY and goes on answering reads, XREAD for ever, so
that nothing but these answers says that the primary is elsewhere. After one of them every connection that was made
before is closed: an idle one at once, one in use after its call. A new one asks for the address again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator

from redis import exceptions

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 2.0
"""Between two rounds of closing: the address may lead to the demoted server for a while, or for good."""
QUIET_SECONDS = 10.0
_LOST = (exceptions.ReadOnlyError, exceptions.ClusterDownError, exceptions.BusyLoadingError)
# As a reply begins, or within the text of an error in a script as Redis 6.2 puts it.
_LOST_REPLY = re.compile(r"(?:^|: -)(?:READONLY|UNBLOCKED|MASTERDOWN|CLUSTERDOWN|LOADING)\b")
_READ_ONLY_REPLY = re.compile(r"(?:^|: -)READONLY\b")
_CAUSES = 4
logger = logging.getLogger(__name__)


def is_read_only(error: BaseException | None) -> bool:
    """Tell whether a server refused a write because it is a replica."""
    return any(isinstance(one, exceptions.ReadOnlyError) or _READ_ONLY_REPLY.search(str(one)) for one in _chain(error))


def is_lost(error: BaseException | None) -> bool:
    """Tell whether an error says that the server that gave it is not the primary, or not for now.

    LOADING is among them: a server that was restarted has no old connection to give it on; one that was demoted and
    copies the new primary's data does. Clients for sentinels and clusters wrap what a server answered.
    """
    return any(isinstance(one, _LOST) or _LOST_REPLY.search(str(one)) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_CAUSES):
        if error is None:
            return
        yield error
        if isinstance(error.__context__, exceptions.ReadOnlyError):  # what a client for sentinels puts another for
            yield error.__context__
        error = error.__cause__


class Failover:
    """Shared by all clients of one registry.

    Attributes:
        generation: Rises when the connections made until then are to be closed.
        is_due: `renew` has something to do.
        sweeps: Rises when a generation ends, and when idle connections were first closed after it.
        answers: How many calls Redis has answered.
        asks_after_errors: Failed connections are a reason for `renew`, too.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self.generation = 0
        self.sweeps = 0
        self.is_due = False
        self.answers = 0
        self.asks_after_errors = False
        self._now = now
        self._is_first_sweep = False
        self._renewals: list[Callable[[], Awaitable[None]]] = []
        self._pause = FIRST_PAUSE_SECONDS
        self._lost_at = self._next_at = float("-inf")

    def add(self, renewal: Callable[[], Awaitable[None]]) -> None:
        """Have `renew` call this, which closes idle connections made in an earlier generation."""
        self._renewals.append(renewal)

    def ended(self, error: BaseException | None, *, is_late: bool, answers: int, sweeps: int) -> None:
        """Take note of how a call ended.

        Args:
            error: What it raised.
            is_late: It was cut off because no reply came in time.
            answers: What `answers` was when it began.
            sweeps: What `sweeps` was when it began.
        """
        if sweeps != self.sweeps:
            self.is_due = True  # its connection may have been in use when the others were closed
        if error is None:
            self.answers += 1
        elif is_late:
            if answers == self.answers:  # and no other call had a reply meanwhile
                self.lose("it did not answer in time")
        elif isinstance(error, exceptions.RedisError | exceptions.RedisClusterException | OSError):
            if is_lost(error):
                self.lose(str(error) or type(error).__name__)
            elif isinstance(error, exceptions.ResponseError):
                self.answers += 1
            elif self.asks_after_errors:
                self.lose(str(error) or type(error).__name__)

    async def renew(self) -> None:
        """Close what is idle and was made in an earlier generation."""
        self.is_due = False
        try:
            for renewal in self._renewals:
                try:
                    await renewal()
                except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
                    logger.debug("redis: connections could not be renewed: %s", error)
        except BaseException:
            self.is_due = True
            raise
        if self._is_first_sweep:
            self._is_first_sweep = False
            self.sweeps += 1

    def moved(self) -> None:
        """Have the connections made until now closed: what they lead to is known to have moved."""
        self.generation += 1
        self.sweeps += 1
        self.is_due = self._is_first_sweep = True

    def lose(self, reason: str) -> None:
        """Take the server for lost, unless it was a moment ago."""
        now = self._now()
        if now < self._next_at:
            return
        if now - self._lost_at > QUIET_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
            logger.info("redis: the server is not the primary, or is lost; connecting anew: %s", reason)
        self._lost_at = now
        self._next_at = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        self.moved()
