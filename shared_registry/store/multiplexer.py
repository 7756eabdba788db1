"""Sends the calls of many tasks over one connection. Calls that are made in one turn of the event loop are one write.

Replies come in the order of the commands. So a caller that is cancelled costs nothing: its reply is read and dropped.
A connection that fails ends all calls that are under way on it, and the next call makes a new connection. A connection
on which no reply comes in time, or that is outdated after a failover, gets no more calls; it is closed after its last
reply.

redis-py makes the connections, packs and parses. Only public methods of its connections are used.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from redis import exceptions
from redis.asyncio import ConnectionPool

from shared_registry.aio.time_limit import time_limit
from shared_registry.store.failover import Failover
from shared_registry.store.lane import TICKS, SharedAlarm
from shared_registry.store.lua import Script
from shared_registry.store.packing import pack

OnReply = Callable[[Any], None]


class NoReply(exceptions.TimeoutError):
    """A command was not answered within the maximum time of a call."""


class NotSent(exceptions.ConnectionError):
    """The connection failed, or could not be made, before the command was sent."""


class Closed(exceptions.ConnectionError):
    """The connections were closed while the command was under way."""


class PendingReply:
    """The reply to one command, or the error reply. It may be awaited once.

    Attributes:
        command: The packed command; unused if there is a script.
        script: The script to run.
        words: Its key, and its arguments.
        argument: What a script for many calls needs of this one; see `Together`.
        sends_text: Whether to send the script's text in any case.
        is_bounded: The call ends with `NoReply` after the maximum time of a call. Otherwise its caller bounds it.
        on_reply: Called with the reply, also if the caller has been cancelled meanwhile. Such an answer can be
            cancelled only before its command is sent. After that, the caller's cancellation takes effect when the
            reply has come, or after the maximum time of a call.
    """

    __slots__ = (
        "_is_under_way",
        "_reply",
        "argument",
        "command",
        "is_bounded",
        "on_reply",
        "script",
        "sends_text",
        "words",
    )
    argument: str
    command: bytes

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        script: Script | None,
        words: tuple[str, ...],
        on_reply: OnReply | None,
        *,
        is_bounded: bool = True,
    ) -> None:
        self._reply: asyncio.Future[Any] = loop.create_future()
        self._is_under_way = self.sends_text = False
        self.script = script
        self.words = words
        self.on_reply = on_reply
        self.is_bounded = is_bounded

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the reply."""
        try:
            return (yield from self._reply)
        except asyncio.CancelledError:
            while self._is_under_way:
                self._reply = self._reply.get_loop().create_future()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    yield from self._reply
            raise
        except Exception:
            del self  # The error refers to this frame, and this answer to the error: a cycle would keep the callers.
            raise

    def packed(self, known: set[str]) -> bytes:
        """Return the command. A script that was not sent on its connection before is sent as text.

        Otherwise the first call of a script after a restart of the server would be refused, and sent again behind the
        calls that were made after it: a session would ask for the slot that the one before it is about to release.

        Args:
            known: The digests of the scripts that were sent on the connection. A new one is added.
        """
        script = self.script
        if script is None:
            return self.command
        if script.digest in known and not self.sends_text:
            return pack(("EVALSHA", script.digest, "1", *self.words))
        known.add(script.digest)
        return pack(("EVAL", script.text, "1", *self.words))

    def cancel(self) -> bool:
        """Give up the call, if that is possible now. Return whether it was."""
        return not self._is_under_way and self._reply.cancel()

    def done(self) -> bool:
        """Return whether the call has ended, or was cancelled before it was sent."""
        return not self._is_under_way and self._reply.done()

    def begin(self) -> None:
        """Record that the command is sent."""
        self._is_under_way = self.on_reply is not None

    def answered(self, reply: Any) -> None:
        """Record the reply. One that comes after the end of the call is dropped."""
        if isinstance(reply, Exception):
            self.failed(reply)
            return
        if self._is_under_way and self.on_reply is not None:
            self._is_under_way = False
            self.on_reply(reply)
        if not self._reply.done():
            self._reply.set_result(reply)

    def failed(self, error: Exception) -> None:
        """Record that there is no reply."""
        self._is_under_way = False
        if not self._reply.done():
            self._reply.set_exception(error)


class _Batch:
    """Calls that were made at about the same time, so that one alarm bounds them all."""

    __slots__ = ("answers", "begun_at", "last", "line", "replies_before")

    def __init__(self, line: _Line, begun_at: float) -> None:
        self.line = line
        self.begun_at = begun_at
        self.replies_before = line.replies
        self.answers: list[PendingReply] = []
        self.last = 0

    def ring(self) -> None:
        """End the calls that were not answered in time."""
        self.line.is_late(self)


class Multiplexer:
    """Sends commands over one connection at a time. Safe for concurrent use within an event loop."""

    def __init__(self, pool: ConnectionPool, *, seconds: float, failover: Failover) -> None:
        """Connect nothing yet.

        Args:
            pool: Provides the connections.
            seconds: The maximum time of a call, and of connecting.
            failover: A connection of an earlier generation gets no more calls.
        """
        self._pool = pool
        self._seconds = seconds
        self._failover = failover
        self._line: _Line | None = None
        failover.add(self.close_outdated)
        self._tasks: dict[_Line, asyncio.Task[None]] = {}

    def call(self, command: bytes, *, is_bounded: bool = False, on_reply: OnReply | None = None) -> PendingReply:
        """Send a packed command at the end of this turn of the event loop.

        Args:
            command: The packed command.
            is_bounded: See `PendingReply`.
            on_reply: See `PendingReply`; only for a call that is bounded.

        Raises (when the result is awaited):
            NoReply: No reply came in time.
            ConnectionError: The connection failed, or could not be made. What was sent may have been executed.
            ResponseError: The error reply.
        """
        answer = PendingReply(asyncio.get_running_loop(), None, (), on_reply, is_bounded=is_bounded)
        answer.command = command
        self.submit(answer)
        return answer

    def call_script(self, script: Script, words: tuple[str, ...], on_reply: OnReply | None = None) -> PendingReply:
        """Run a script, within the maximum time of a call, as `call` sends a command.

        A script that the server does not know is sent again as text.

        Args:
            script: The script.
            words: The key, and the arguments.
            on_reply: See `PendingReply`.
        """
        answer = PendingReply(asyncio.get_running_loop(), script, words, on_reply)
        self.submit(answer)
        return answer

    def submit(self, answer: PendingReply) -> None:
        """Send the command of an answer; see `call`."""
        line = self._line
        if line is None or not line.is_open or line.generation != self._failover.generation:
            line = self._replace(line)
        line.add(answer)

    async def close_outdated(self) -> None:
        """Close a connection of an earlier generation after its last reply, also if no further call is made."""
        if self._line is not None and self._line.generation != self._failover.generation:
            self._line.retire()
            self._line = None

    async def close(self) -> None:
        """End all calls, and return the connections to the pool."""
        self._line = None
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks.values() if task.get_loop() is loop]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _replace(self, old: _Line | None) -> _Line:
        if old is not None and old.is_of_this_loop:
            old.retire()
        line = self._line = _Line(self._pool, self._failover.generation, self._seconds, self.submit)
        task = self._tasks[line] = asyncio.get_running_loop().create_task(line.run())
        line.task = task
        task.add_done_callback(lambda _: self._tasks.pop(line, None))
        return line


class _Line:
    """One connection and the calls on it.

    Attributes:
        generation: The generation of the connection; see `Failover`.
        replies: The number of replies so far.
        task: Runs the line.
    """

    task: asyncio.Task[None]

    def __init__(
        self, pool: ConnectionPool, generation: int, seconds: float, submit: Callable[[PendingReply], None]
    ) -> None:
        self.generation = generation
        self.replies = 0
        self._pool = pool
        self._seconds = seconds
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._alarm = SharedAlarm(seconds)
        self._is_retired = False
        self._batch: _Batch | None = None
        self._unsent: list[_Batch] = []
        self._sent: deque[PendingReply] = deque()
        self._batches: deque[_Batch] = deque()
        self._count = 0
        self._known: set[str] = set()
        self._idle: asyncio.Future[None] | None = None

    @property
    def is_of_this_loop(self) -> bool:
        """Whether it belongs to the event loop that runs. Another one may have been closed before its tasks ended."""
        return self._loop is asyncio.get_running_loop()

    @property
    def is_open(self) -> bool:
        """Whether the line takes calls."""
        return not self._is_retired and self.is_of_this_loop

    def add(self, answer: PendingReply) -> None:
        """Add a call."""
        batch, now = self._batch, self._loop.time()
        if batch is None or now - batch.begun_at > self._seconds / TICKS:
            batch = self._batch = _Batch(self, now)
            self._unsent.append(batch)
            self._alarm.set(batch.ring)
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)
        batch.answers.append(answer)

    def retire(self) -> None:
        """Take no more calls, and close the connection after the last reply."""
        if not self._is_retired:
            self._is_retired = True
            self._end_if_done()

    def is_late(self, batch: _Batch) -> None:
        """End the calls of a batch. If no reply has come since they were made, retire the connection."""
        for answer in batch.answers:
            if answer.is_bounded:
                answer.failed(NoReply(f"Redis did not answer within {self._seconds:g} s"))
        if self.replies == batch.replies_before:
            self._is_retired = True
        if self._is_retired:
            self._end_if_done()

    def _end_if_done(self) -> None:
        """End a retired line if no caller waits for it any more; otherwise look again later."""
        if all(answer.done() for batch in (*self._batches, *self._unsent) for answer in batch.answers):
            self.task.cancel()
        else:
            self._alarm.set(self._end_if_done)

    async def run(self) -> None:
        """Connect, and send and receive until the connection fails or the line is retired and done."""
        error: Exception | None = None
        try:
            async with time_limit(self._seconds):
                connection = await self._pool.get_connection()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write(connection))
                    await self._read(connection)
            finally:
                await connection.disconnect(nowait=True)
                await self._pool.release(connection)
        except TimeoutError:
            error = NoReply(f"Redis did not answer within {self._seconds:g} s: no connection could be made")
        except ExceptionGroup as group_error:
            error = group_error.exceptions[0]
        except Exception as any_error:  # noqa: BLE001  every caller gets it
            error = any_error
        finally:
            self._is_retired = True
            self._fail_all(error)

    def _fail_all(self, error: Exception | None) -> None:
        self._alarm.call_off(self._end_if_done)
        for batches, kind in ((self._batches, exceptions.ConnectionError), (self._unsent, NotSent)):
            for batch in batches:
                self._alarm.call_off(batch.ring)
                for answer in batch.answers:
                    if not answer.done():
                        answer.failed(_failure(error, kind))
        self._batch = None  # its answers keep the errors, and these the callers
        self._batches.clear()
        self._unsent.clear()
        self._sent.clear()

    async def _write(self, connection: Any) -> None:
        while True:
            if not self._unsent:
                self._idle = self._loop.create_future()
                await self._idle
            batches, self._unsent, self._batch = self._unsent, [], None
            commands: list[bytes] = []
            for batch in batches:
                for answer in batch.answers:
                    if not answer.done():
                        answer.begin()
                        commands.append(answer.packed(self._known))
                        self._sent.append(answer)
                batch.last = self._count + len(commands)
                self._batches.append(batch)
            self._count += len(commands)
            self._end_batches()
            if commands:
                if not connection.is_connected:
                    raise exceptions.ConnectionError("the connection was closed")
                await connection.send_packed_command(commands, check_health=False)

    async def _read(self, connection: Any) -> None:
        sent, batches = self._sent, self._batches
        while True:
            try:
                reply = await connection.read_response()
            except exceptions.ResponseError as error:
                reply = error
            if not sent:
                raise exceptions.ConnectionError("the server sent a reply to no command")
            self.replies += 1
            answer = sent.popleft()
            if isinstance(reply, exceptions.NoScriptError) and answer.script and not answer.sends_text:
                answer.sends_text = True
                self._submit(answer)
            else:
                answer.answered(reply)
            if self.replies >= batches[0].last:
                self._end_batches()

    def _end_batches(self) -> None:
        """Call off the alarms of answered batches."""
        while self._batches and self._batches[0].last <= self.replies:
            self._alarm.call_off(self._batches.popleft().ring)
        if self._is_retired:
            self._end_if_done()


def _failure(error: Exception | None, kind: type[exceptions.ConnectionError]) -> Exception:
    """Return an error for one caller: errors that several tasks raise at once would mix up their tracebacks."""
    if error is None:
        return Closed("the client was closed")
    failure = NoReply(str(error)) if isinstance(error, NoReply) else kind(str(error))
    failure.__cause__ = error
    return failure
