"""An event loop on virtual time for several simulated processes. It opens no socket and never sleeps.

When nothing is ready, the clock jumps to the next timer. Every callback belongs to the process in whose context it was
scheduled, so that one process can be stopped while the others run.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import sys
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_Base: Any = asyncio.AbstractEventLoop
"""Most of what it has a simulation needs not."""

MOST_CALLBACKS_AT_ONCE = 200_000
"""Without the time moving. More of them are a loop without an end."""
_process: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


class Livelock(Exception):
    """Callbacks go on without time passing."""


class Handle:
    """A callback that is scheduled. It stands for that of asyncio, whose checks take much of the time here."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "time")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context, time: float = 0.0
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.is_cancelled = False
        self.time = time

    def cancel(self) -> None:
        self.is_cancelled = True
        self.args = ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.time


class Process:
    """A simulated process: what its callbacks are, and whether they run.

    Attributes:
        name: For messages.
        is_paused: Nothing of it runs, as after SIGSTOP.
        is_dead: Nothing of it will run again, as after SIGKILL.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_paused = False
        self.is_dead = False
        self.ready: deque[Handle] = deque()
        self.received: list[Handle] = []
        self.due: list[Handle] = []
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.context = contextvars.Context()
        self.context.run(_process.set, self)

    def pause(self) -> None:
        """Stop it."""
        self.is_paused = True

    def kill(self) -> None:
        """End it without a chance to clean up."""
        self.is_dead = True
        for handles in (self.ready, self.received, self.due):
            handles.clear()

    def alive_tasks(self) -> list[asyncio.Task[Any]]:
        return [task for task in self.tasks if not task.done()]


class VirtualLoop(_Base):  # type: ignore[misc]
    """See the module.

    Attributes:
        connect: Makes the connections of `create_connection`; see `network`.
        failures: What went wrong in callbacks and tasks that nobody awaited.
    """

    def __init__(self, *, start_at: float = 1000.0) -> None:
        self._now = start_at
        self._timers: list[tuple[float, int, Handle, Process, bool]] = []
        self._sequence = 0
        self._busy: dict[Process, None] = {}
        self._is_closed = self._is_running = False
        self.failures: list[str] = []
        self.connect: Callable[..., Coroutine[Any, Any, Any]] | None = None
        self._asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()
        self.main = self.add_process("simulation")

    def add_process(self, name: str) -> Process:
        return Process(name)

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        self._is_closed = True
        self._timers.clear()

    # Callbacks

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        if context is None:
            context = contextvars.copy_context()
            process = _process.get(self.main)
        else:
            process = context.get(_process, self.main)
        handle = Handle(callback, args, context)
        if not process.is_dead:
            process.ready.append(handle)
            self._busy[process] = None
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        raise NotImplementedError("a simulation has no threads")

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        if context is None:
            context = contextvars.copy_context()
        handle = Handle(callback, args, context, when)
        self._add_timer(when, handle, context.get(_process, self.main), is_received=False)
        return handle

    def deliver(self, when: float, process: Process, callback: Callable[..., object], *args: Any) -> None:
        """Call something of a process at that time that it does when it reads its sockets."""
        self._add_timer(when, Handle(callback, args, process.context, when), process, is_received=True)

    def _add_timer(self, when: float, handle: Handle, process: Process, *, is_received: bool) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, handle, process, is_received))

    # Tasks

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # its parameters differ between Python versions
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)
        (_process.get(self.main) if context is None else context.get(_process, self.main)).tasks.add(task)
        return task

    def start(self, process: Process, work: Coroutine[Any, Any, T], *, name: str = "") -> asyncio.Task[T]:
        """Run work in a process."""
        return process.context.copy().run(lambda: self.create_task(work, name=name or process.name))

    # Running

    def run_until_complete(self, future: Coroutine[Any, Any, T]) -> T:
        """Run until the work of the main process is done."""
        asyncio._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._asyncgens.add, finalizer=self._finalize)
        self._is_running = True
        try:
            task = self.start(self.main, future)
            while not task.done():
                self._run_ready()
                if not task.done():
                    self._advance()
            return task.result()
        finally:
            self._is_running = False
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)

    def _run_ready(self) -> None:
        """Run what can run now."""
        count = 0
        busy = self._busy
        while busy:
            for process in list(busy):
                ready = process.ready
                for _ in range(len(ready)):
                    if process.is_paused or not ready:
                        break
                    handle = ready.popleft()
                    if not handle.is_cancelled:
                        count += 1
                        try:
                            handle.context.run(handle.callback, *handle.args)
                        except (SystemExit, KeyboardInterrupt):
                            raise
                        except BaseException as error:  # noqa: BLE001  as asyncio's own loops do
                            self._note_failure(handle, error)
                if process.is_paused or not ready:
                    busy.pop(process, None)
            if count > MOST_CALLBACKS_AT_ONCE:
                raise Livelock(f"at {self._now:.3f} callbacks go on without an end")

    def _note_failure(self, handle: Handle, error: BaseException) -> None:
        context = {"message": f"exception in {handle.callback}", "exception": error}
        handle.context.run(self.call_exception_handler, context)

    def _advance(self) -> None:
        """Let time pass until something is due."""
        timers = self._timers
        while True:
            if not timers:
                raise Livelock("nothing will ever happen again")
            when, _, handle, process, is_received = heapq.heappop(timers)
            if handle.is_cancelled or process.is_dead:
                continue
            self._now = max(self._now, when)
            if not process.is_paused:
                process.ready.append(handle)
                self._busy[process] = None
                return
            (process.received if is_received else process.due).append(handle)

    def resume(self, process: Process) -> None:
        """Let a process go on. As in asyncio, it reads its sockets before it looks at its timers."""
        process.is_paused = False
        process.ready.extend(process.received)
        process.ready.extend(process.due)
        process.received.clear()
        process.due.clear()
        self._busy[process] = None

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._is_closed:
            self.create_task(generator.aclose())

    # The rest of what asyncio needs

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        process = _process.get(self.main)
        error = context.get("exception")
        self.failures.append(f"{process.name}: {context.get('message')}: {error!r}")

    async def shutdown_asyncgens(self) -> None:
        """Nothing is left to do: generators end with their process."""

    async def create_connection(  # a simulation needs a part of the parameters
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str = "", port: int = 0, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        if self.connect is None:
            raise ConnectionRefusedError
        transport, protocol = await self.connect(protocol_factory, host, port)
        return transport, protocol


def current_process() -> Process:
    """Return the process whose callback runs."""
    return _process.get()
