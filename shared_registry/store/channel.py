"""Calls of the Lua commands. A call waits for its turn in a lane, and a timeout bounds it from then on.

Commands are called by digest. Every reply is a status word and values.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import NamedTuple

from redis import exceptions

from shared_registry.errors import StoreUnavailable
from shared_registry.store.client import Client
from shared_registry.store.failover import Failover
from shared_registry.store.failures import FAILURES, meaning_of
from shared_registry.store.keys import Keys
from shared_registry.store.lane import Lane, SharedAlarm
from shared_registry.store.lua import assemble, command_names


class Reply(NamedTuple):
    """The reply of a command."""

    status: str
    values: list[str]


class Script(NamedTuple):
    """A command's text and its digest."""

    text: str
    digest: str


@functools.cache
def scripts() -> Mapping[str, Script]:
    """Return all commands by name. They are read from disk once."""
    texts = {name: assemble(name) for name in command_names()}
    return MappingProxyType(
        {
            name: Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
            for name, text in texts.items()
        }
    )


class Channel:
    """A client and the lane in which its calls wait for their turn. Safe for concurrent use within an event loop.

    Attributes:
        lane: The lane of this channel.
    """

    def __init__(
        self, client: Client, keys: Keys, lane: Lane, *, timeout_seconds: float, failover: Failover | None = None
    ) -> None:
        """Connect nothing yet.

        Args:
            client: See `client.connect`.
            keys: The namespace.
            lane: Limits the calls that run at once. It must have been made with the same timeout.
            timeout_seconds: The maximum time of a call, from its turn on.
            failover: Replaces the connections after the primary is lost.
        """
        self.lane = lane
        self._client = client
        self._key = keys.meta
        self._timeout_seconds = timeout_seconds
        self._failover = failover
        self._scripts = scripts()

    def bounded(self, *, patience_seconds: float | None = None) -> bounded:
        """Return a `bounded` context for calls to the client in this channel's lane."""
        return bounded(
            self._timeout_seconds, lane=self.lane, patience_seconds=patience_seconds, failover=self._failover
        )

    async def run(
        self,
        name: str,
        args: Sequence[str],
        *,
        patience_seconds: float | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> Reply:
        """Call a command by its digest, or by its text if the server does not know it after a restart or a failover.

        If the call is cancelled, the command may or may not have been executed.

        Args:
            name: The name of the command's file in `lua/`.
            args: The arguments (ARGV) in the order of the file's header.
            patience_seconds: How long to wait for the turn; `None` for as long as Redis answers.
            on_sent: Called when the call gets its turn, before it is sent. If it raises, the call is not sent.

        Raises:
            StoreError: See `bounded`.
        """
        script = self._scripts[name]
        async with self.bounded(patience_seconds=patience_seconds):
            if on_sent is not None:
                on_sent()
            try:
                reply = await self._client.evalsha(script.digest, 1, self._key, *args)
            except exceptions.NoScriptError:
                reply = await self._client.eval(script.text, 1, self._key, *args)
        return Reply(reply[0], reply[1:])


class bounded:  # noqa: N801  reads as a statement: `async with bounded(1.0): …`
    """Bounds the time of the Redis calls in its block, and converts failures to the error tree.

    It replaces `asyncio.timeout` and keeps its rules. If the deadline passes first, the block is cancelled; a
    cancellation from elsewhere stays a cancellation. Time during which the event loop was blocked does not count,
    and neither does the wait for a turn in the lane. One object does all this, because every call pays for it.

    Raises:
        StoreUnavailable: No connection, no reply in time, or a server that is loading, failing over or out of
            memory.
        Busy: The lane gave no turn in time.
        StoreRefused: Wrong credentials or missing rights.
        KeyConflict: A key holds another type.
        StoreError: Any other error reply.
    """

    __slots__ = (
        "_alarm",
        "_answers",
        "_cancels",
        "_failover",
        "_is_late",
        "_lane",
        "_patience_seconds",
        "_replies",
        "_seconds",
        "_sweeps",
        "_task",
    )

    def __init__(
        self,
        seconds: float,
        *,
        lane: Lane | None = None,
        patience_seconds: float | None = None,
        failover: Failover | None = None,
    ) -> None:
        """Prepare one use.

        Args:
            seconds: The maximum time of the block.
            lane: The lane in which the block waits for its turn. It must have been made with the same time.
            patience_seconds: How long to wait for the turn; `None` for as long as Redis answers.
            failover: Renews connections before the block if necessary, and records how the block ended.
        """
        self._seconds = seconds
        self._lane = lane
        self._patience_seconds = patience_seconds
        self._alarm = SharedAlarm(seconds) if lane is None else lane.alarm
        self._is_late = False
        self._failover = failover
        self._answers = self._sweeps = 0

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("`bounded` should be used inside a task")
        self._task = task
        self._cancels = task.cancelling()
        lane = self._lane
        if lane is not None:
            if not lane.enter():
                await lane.wait(self._patience_seconds)
            self._replies = lane.replies
        self._alarm.set(self._ring)
        failover = self._failover
        if failover is not None:
            self._answers = failover.answers
            self._sweeps = failover.sweeps
            if failover.is_due:
                await self._renew(failover)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.call_off(self._ring)
        lane = self._lane
        if lane is not None:
            if error is None:
                lane.answered()
            else:
                self._record_error(lane, error)
            lane.leave()
        self._end(error)

    def _ring(self) -> None:
        self._is_late = True
        self._task.cancel()

    async def _renew(self, failover: Failover) -> None:
        try:
            await failover.renew()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        self._sweeps = failover.sweeps

    def _record_error(self, lane: Lane, error: BaseException) -> None:
        """Record in the lane how the block failed, for the calls that wait there."""
        if isinstance(error, asyncio.CancelledError):
            if self._is_late:
                lane.unanswered(self._replies, self._lateness)
        elif isinstance(error, exceptions.ResponseError):
            lane.answered()
        elif isinstance(error, FAILURES):
            lane.failed(str(meaning_of(error)))

    def _end(self, error: BaseException | None) -> None:
        failover = self._failover
        if failover is not None:
            if error is None and self._sweeps == failover.sweeps:
                failover.answers += 1  # as `ended` does; this saves a call in the usual case
            else:
                failover.ended(error, is_late=self._is_late, answers=self._answers, sweeps=self._sweeps)
        cancels = self._task.uncancel() if self._is_late else self._task.cancelling()
        if cancels > self._cancels:
            if not isinstance(error, asyncio.CancelledError):
                # `asyncio.wait_for` of Python 3.11, which redis-py uses, drops a cancellation that comes together with
                # the result.
                raise asyncio.CancelledError
        elif self._is_late and isinstance(error, asyncio.CancelledError):
            raise StoreUnavailable(self._lateness) from error
        if isinstance(error, FAILURES):
            raise meaning_of(error) from error

    @property
    def _lateness(self) -> str:
        return f"Redis did not answer within {self._seconds:g} s"
