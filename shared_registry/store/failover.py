"""Replaces connections to a server that is not the primary any more.

A demoted primary keeps its connections. It replies to writes with READONLY, but it goes on replying to reads, and an
XREAD waits forever. So only the READONLY replies show that another server is the primary. After such a reply, every
older connection is closed, an idle one at once and one in use after its call. A new connection asks for the address
again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator

from redis import exceptions

from shared_registry.store.call_counts import CallCounts

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 2.0
"""The pause between two rounds of closing, because the address may still lead to the demoted server."""
QUIET_SECONDS = 10.0
_LOST = (exceptions.ReadOnlyError, exceptions.ClusterDownError, exceptions.BusyLoadingError)
# The word is at the start of a reply. Redis 6.2 puts it inside the text of an error in a script.
_LOST_REPLY = re.compile(r"(?:^|: -)(?:READONLY|UNBLOCKED|MASTERDOWN|CLUSTERDOWN|LOADING)\b")
_READ_ONLY_REPLY = re.compile(r"(?:^|: -)READONLY\b")
_CAUSES = 4
logger = logging.getLogger(__name__)


def is_read_only(error: BaseException | None) -> bool:
    """Return whether a server refused a write because it is a replica."""
    return any(isinstance(one, exceptions.ReadOnlyError) or _READ_ONLY_REPLY.search(str(one)) for one in _chain(error))


def is_lost(error: BaseException | None) -> bool:
    """Return whether an error means that the server is not the primary, or is not the primary at present.

    LOADING counts as such an error. A restarted server cannot send it on an old connection, but a demoted server that
    copies the new primary's data can. Clients for sentinels and clusters wrap the server's error in another one.
    """
    return any(isinstance(one, _LOST) or _LOST_REPLY.search(str(one)) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_CAUSES):
        if error is None:
            return
        yield error
        if isinstance(error.__context__, exceptions.ReadOnlyError):  # a sentinel client raises another error instead
            yield error.__context__
        error = error.__cause__


class Failover:
    """The failover state that all clients of one registry share.

    Attributes:
        generation: Rises when all connections made before are to be closed.
        is_due: `renew` has connections to close.
        sweeps: Rises when a generation ends, and again after idle connections were first closed.
        answers: The number of calls that Redis has answered.
        asks_after_errors: A failed connection is a reason for `renew` too.
        calls: Counts the calls of these clients.
        on_moved: Called when a generation ends: the next server may lack writes that the last one has acknowledged.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self.generation = 0
        self.sweeps = 0
        self.is_due = False
        self.answers = 0
        self.asks_after_errors = False
        self.calls = CallCounts()
        self._now = now
        self._is_first_sweep = False
        self._renewals: list[Callable[[], Awaitable[None]]] = []
        self._pause = FIRST_PAUSE_SECONDS
        self._lost_at = self._next_at = float("-inf")
        self.on_moved: list[Callable[[], None]] = []

    def add(self, renewal: Callable[[], Awaitable[None]]) -> None:
        """Add a function that `renew` calls. It closes idle connections of an earlier generation."""
        self._renewals.append(renewal)

    def ended(self, error: BaseException | None, *, is_late: bool, answers: int, sweeps: int) -> None:
        """Record how a call ended.

        Args:
            error: The error that it raised; `None` for a reply.
            is_late: The call was cancelled because no reply came in time.
            answers: The value of `answers` when the call began.
            sweeps: The value of `sweeps` when the call began.
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
        """Close idle connections of an earlier generation."""
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
        """End a generation of connections, because the primary or the slot's owner has moved."""
        self.generation += 1
        self.sweeps += 1
        self.is_due = self._is_first_sweep = True
        for call in self.on_moved:
            call()

    def lose(self, reason: str) -> None:
        """Record that the server is lost. Do nothing during the pause after an earlier loss."""
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
