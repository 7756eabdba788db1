"""Calls of the Lua commands: in their turn, bounded, by digest, answered by a status word and values."""

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
    """What a command answered."""

    status: str
    values: list[str]


class Script(NamedTuple):
    """A command's text, and its digest."""

    text: str
    digest: str


@functools.cache
def scripts() -> Mapping[str, Script]:
    """Return all commands by name, as read from disk once."""
    texts = {name: assemble(name) for name in command_names()}
    return MappingProxyType(
        {
            name: Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
            for name, text in texts.items()
        }
    )


class Channel:
    """A client, and the lane in which its calls wait for their turn. Safe for concurrent use within an event loop.

    Attributes:
        lane: Who waits.
    """

    def __init__(
        self, client: Client, keys: Keys, lane: Lane, *, timeout_seconds: float, failover: Failover | None = None
    ) -> None:
        """Set up.

        Args:
            client: See `client.connect`.
            keys: The namespace.
            lane: Its calls may take as long as the timeout.
            timeout_seconds: The longest that a call may take, from its turn on.
            failover: What becomes of the connections when the primary is lost.
        """
        self.lane = lane
        self._client = client
        self._key = keys.meta
        self._timeout_seconds = timeout_seconds
        self._failover = failover
        self._scripts = scripts()

    def bounded(self, *, patience_seconds: float | None = None) -> bounded:
        """Bound a block of calls to the client; see `bounded`."""
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
        """Call a command by its digest, and by its text where the server does not know it (a restart, a failover).

        Cancelled it may or may not have been executed.

        Args:
            name: Of the file in `lua/`.
            args: As its header lists them.
            patience_seconds: How long to wait for the turn; `None` for as long as Redis answers.
            on_sent: Called when the turn has come. What it raises ends the call before anything is sent.

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
    """Bounds what is done with Redis in its block, and turns failures into the error tree.

    It stands in for `asyncio.timeout` and keeps its rules: a deadline that comes first cancels the block, and a
    cancellation from elsewhere stays one. One object for all of it, since every call pays for it. Time in which the
    event loop was held up does not count, nor does waiting for one's turn in a lane.

    Raises:
        StoreUnavailable: No connection, no answer in time, or a server that is loading, failing over or out of
            memory.
        Busy: No turn in the lane in time.
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
        """Set up for one use.

        Args:
            seconds: The longest that the block may take.
            lane: Where it waits for its turn; its calls may take as long.
            patience_seconds: How long it may wait for that; `None` for as long as Redis answers.
            failover: Is told how the block ended, and renews connections before it, if need be.
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
                lane.heard()
            else:
                self._tell(lane, error)
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

    def _tell(self, lane: Lane, error: BaseException) -> None:
        """Let those who wait in the lane know how it went."""
        if isinstance(error, asyncio.CancelledError):
            if self._is_late:
                lane.unanswered(self._replies, self._lateness)
        elif isinstance(error, exceptions.ResponseError):
            lane.heard()
        elif isinstance(error, FAILURES):
            lane.failed(str(meaning_of(error)))

    def _end(self, error: BaseException | None) -> None:
        failover = self._failover
        if failover is not None:
            if error is None and self._sweeps == failover.sweeps:
                failover.answers += 1  # as `ended` does, which nearly every call can do without
            else:
                failover.ended(error, is_late=self._is_late, answers=self._answers, sweeps=self._sweeps)
        cancels = self._task.uncancel() if self._is_late else self._task.cancelling()
        if cancels > self._cancels:
            if not isinstance(error, asyncio.CancelledError):
                # `asyncio.wait_for` of Python 3.11, which redis-py uses, drops a cancellation that meets the result.
                raise asyncio.CancelledError
        elif self._is_late and isinstance(error, asyncio.CancelledError):
            raise StoreUnavailable(self._lateness) from error
        if isinstance(error, FAILURES):
            raise meaning_of(error) from error

    @property
    def _lateness(self) -> str:
        return f"Redis did not answer within {self._seconds:g} s"
