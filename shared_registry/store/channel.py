"""Calls of the Lua commands. A call waits for its turn in a lane, and a timeout bounds it from then on.

Commands are called by digest. Every reply is a status word and values.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from redis import exceptions

from shared_registry.aio.completion import completed
from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.store.client import Client
from shared_registry.store.failover import Failover
from shared_registry.store.failures import FAILURES, meaning_of, was_cut_off
from shared_registry.store.keys import Keys
from shared_registry.store.lane import Lane, SharedAlarm
from shared_registry.store.lua import Script, assemble_all
from shared_registry.store.multiplexed import MultiplexedClient
from shared_registry.store.multiplexer import NoReply, OnReply
from shared_registry.store.script_calls import ScriptCalls
from shared_registry.store.together import Split, Together

T = TypeVar("T")


class Reply(NamedTuple):
    """The reply of a command."""

    status: str
    values: list[str]


@functools.cache
def scripts() -> Mapping[str, Script]:
    """Return all commands by name. They are read from disk once."""
    return MappingProxyType({name: Script.of(text) for name, text in assemble_all().items()})


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """What is the same at each call of one command.

    Attributes:
        name: The name of the command's file in `lua/`.
        parse: Returns the result, from the words of a reply.
        script: The text.
        first: The key, and the arguments (ARGV) before those of a call.
        together: Sends a call together with others of its kind, if it is usual.
        repeats: Whether to run the command once more if the connection broke with the call on it. That is no outage:
            Redis may serve all other routers. A second run must change nothing more.
    """

    name: str
    parse: Callable[[list[str]], T]
    script: Script
    first: tuple[str, ...]
    together: Together | None = None
    repeats: bool = False


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
        self._multiplexed = client if isinstance(client, MultiplexedClient) else None
        self._key = keys.meta
        self._timeout_seconds = timeout_seconds
        self._failover = failover or Failover()
        self._calls = ScriptCalls(client)
        self._commands: dict[str, Command[Reply]] = {}

    @property
    def keeps_order(self) -> bool:
        """Whether calls are executed in the order in which they were made, because one connection brings them all."""
        return self._multiplexed is not None

    def bounded(self, *, patience_seconds: float | None = None) -> bounded:
        """Return a `bounded` context for calls to the client in this channel's lane."""
        return bounded(
            self._timeout_seconds, lane=self.lane, patience_seconds=patience_seconds, failover=self._failover
        )

    def command(
        self,
        name: str,
        parse: Callable[[list[str]], T],
        *,
        first: Sequence[str] = (),
        together: Together | None = None,
        repeats: bool = False,
    ) -> Command[T]:
        """Return a command of this channel's namespace; see `Command`. `first` is without the key."""
        return Command(name, parse, scripts()[name], (self._key, *first), together, repeats)

    def together(self, name: str, args: Sequence[str], split: Split) -> Together | None:
        """Return what sends calls together, if the client can do that; see `Together`.

        Args:
            name: The command for many calls.
            args: Its arguments before those of the calls.
            split: See `Together`.
        """
        if self._multiplexed is None:
            return None
        return Together(self._multiplexed.multiplexer, scripts()[name], (self._key, *args), split)

    def run(
        self, name: str, args: Sequence[str], *, on_sent: Callable[[], None] | None = None
    ) -> Coroutine[Any, Any, Reply]:
        """Call a command once; see `call`.

        Args:
            name: The name of the command's file in `lua/`.
            args: The arguments (ARGV) in the order of the file's header.
            on_sent: See `call`.
        """
        command = self._commands.get(name)
        if command is None:
            command = self._commands[name] = self.command(name, _whole)
        return self.call(command, args, on_sent=on_sent)

    def call(
        self,
        command: Command[T],
        args: Sequence[str],
        *,
        patience_seconds: float | None = None,
        on_sent: Callable[[], None] | None = None,
        on_reply: OnReply | None = None,
        usual: str | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Call a command by its digest, or by its text if the server does not know it after a restart or a failover.

        If the call is cancelled, the command may or may not have been executed. With `on_reply`, a cancellation takes
        effect when the reply has come.

        Args:
            command: The command.
            args: The arguments (ARGV) in the order of the file's header, after the first ones.
            patience_seconds: How long to wait for the turn; `None` for as long as Redis answers.
            on_sent: Called when the call gets its turn, before it is sent. If it raises, the call is not sent.
            on_reply: Called with the words of the reply, also if the caller has been cancelled meanwhile.
            usual: The call's argument in a command for many calls, if the call is usual.

        Raises (when the result is awaited):
            StoreError: See `bounded`.
        """
        if self._multiplexed is None:
            return self._call_bounded(command, args, patience_seconds, on_sent, on_reply)
        return self._call_multiplexed(self._multiplexed, command, args, patience_seconds, on_sent, on_reply, usual)

    async def _call_multiplexed(
        self,
        client: MultiplexedClient,
        command: Command[T],
        args: Sequence[str],
        patience_seconds: float | None,
        on_sent: Callable[[], None] | None,
        on_reply: OnReply | None,
        usual: str | None,
    ) -> T:
        lane, failover, may_repeat = self.lane, self._failover, command.repeats
        begun_at = time.monotonic()
        while True:
            if not lane.enter():
                await self._turn(patience_seconds)
            replies, answers, sweeps = lane.replies, failover.answers, failover.sweeps
            try:
                if failover.is_due:
                    await failover.renew()
                    sweeps = failover.sweeps
                if on_sent is not None:
                    on_sent()
                words = (*command.first, *args)
                reply = await client.call_script(command.script, words, on_reply, command.together, usual)
            except FAILURES as error:
                failure = self._failure(error, replies, answers, sweeps)
                try:
                    if not may_repeat or not was_cut_off(failure):
                        failover.calls.failed(failure)
                        raise failure from error
                finally:
                    del failure  # it refers to this frame: a cycle would keep the callers, and what they hold
                may_repeat = False
            except BaseException:
                lane.leave()
                raise
            else:
                break
        lane.leave_answered()
        if sweeps == failover.sweeps:
            failover.answers += 1  # as `ended` does; this saves a call in the usual case
        else:
            failover.ended(None, is_late=False, answers=answers, sweeps=sweeps)
        failover.calls.seconds[command.name].add(time.monotonic() - begun_at)
        return command.parse(reply)

    async def _turn(self, patience_seconds: float | None) -> None:
        try:
            await self.lane.wait(patience_seconds)
        except StoreError as error:
            self._failover.calls.failed(error)
            raise

    def _failure(self, error: Exception, replies: int, answers: int, sweeps: int) -> StoreError:
        """Record how a call failed, and leave the lane. Return the error to raise."""
        lane, is_late = self.lane, isinstance(error, NoReply)
        failure = StoreUnavailable(str(error)) if is_late else meaning_of(error)
        failure.__cause__ = error
        if is_late:
            lane.unanswered(replies, str(error))
        elif isinstance(error, exceptions.ResponseError):
            lane.answered()
        else:
            lane.failed(str(failure))
        lane.leave()
        self._failover.ended(error, is_late=is_late, answers=answers, sweeps=sweeps)
        return failure

    async def _call_bounded(
        self,
        command: Command[T],
        args: Sequence[str],
        patience_seconds: float | None,
        on_sent: Callable[[], None] | None,
        on_reply: OnReply | None,
    ) -> T:
        calls, begun_at = self._failover.calls, time.monotonic()
        run = functools.partial(self._run, command.script, (*command.first, *args), patience_seconds, on_sent, on_reply)
        try:
            try:
                reply = await run()
            except StoreUnavailable as error:
                if not command.repeats or not was_cut_off(error):
                    raise
                reply = await run()
        except StoreError as error:
            calls.failed(error)
            raise
        calls.seconds[command.name].add(time.monotonic() - begun_at)
        return command.parse(reply)

    async def _run(
        self,
        script: Script,
        words: tuple[str, ...],
        patience_seconds: float | None,
        on_sent: Callable[[], None] | None,
        on_reply: OnReply | None,
    ) -> list[str]:
        is_sent = False

        async def run() -> list[str]:
            nonlocal is_sent
            async with self.bounded(patience_seconds=patience_seconds):
                if on_sent is not None:
                    on_sent()
                is_sent = True
                reply = await self._calls.execute(script, words)
            if on_reply is not None:
                on_reply(reply)
            return reply

        return await (run() if on_reply is None else completed(run(), is_begun=lambda: is_sent))


def _whole(words: list[str]) -> Reply:
    return Reply(words[0], words[1:])


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
        quiet_seconds: float = 0.0,
    ) -> None:
        """Prepare one use.

        Args:
            seconds: The maximum time of the block.
            lane: The lane in which the block waits for its turn. It must have been made with the same time.
            patience_seconds: How long to wait for the turn; `None` for as long as Redis answers.
            failover: Renews connections before the block if necessary, and records how the block ended.
            quiet_seconds: How long the server does not answer if it has nothing to say. Without a lane.
        """
        self._seconds = seconds
        self._lane = lane
        self._patience_seconds = patience_seconds
        self._alarm = SharedAlarm(seconds, quiet_seconds=quiet_seconds, is_shared=False) if lane is None else lane.alarm
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
