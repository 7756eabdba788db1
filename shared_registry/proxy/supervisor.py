"""Runs the workers of one router: processes that share its port, each a router of its own in the registry.

This process binds the port, and holds a listening socket for each worker. A client that connects while its worker is
dead waits in that socket's queue for the next worker, which starts at once. A worker that keeps dying is started again
after a growing pause; meanwhile its socket is closed, so that the system sends new clients to the other workers.

If the parent process ends, however it ends, its workers see the end of their channels, and stop as on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.process_channel import ProcessChannel
from shared_registry.aio.stop_signals import StopRequest
from shared_registry.config import RouterConfig
from shared_registry.config.reload_rules import Reloaded, merge_all
from shared_registry.errors import ConfigError
from shared_registry.proxy import listening
from shared_registry.proxy.reloading import Reloading
from shared_registry.proxy.worker_messages import Begin, Failed, Joined, Opened, Reload, Stop

STEADY_SECONDS = 5.0
"""A worker that did not live for this time twice in a row is started again after a pause, and not at once."""
LONGEST_PAUSE_SECONDS = 10.0
SIGNAL_CODE = 128
"""Added to the number of a signal that ended a worker, as shells do."""
SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Only the main process of a service talks to systemd."""
logger = logging.getLogger(__name__)


@dataclass
class _Place:
    """A worker's place, which one process after the other takes.

    Attributes:
        number: The worker's number, from 1.
        listener: The socket whose clients it serves; `None` while it is closed.
        process: The worker that is running.
        channel: The messages to and from it.
        has_opened: Whether it places sessions.
        alive_at: When it last said that it lives, on the event loop's clock.
        failure: The reason that it gave for not running.
        code: The worst exit code so far, of those that count.
    """

    number: int
    listener: socket.socket | None
    process: asyncio.subprocess.Process | None = None
    channel: ProcessChannel | None = None
    has_opened: bool = False
    alive_at: float = 0.0
    failure: str = ""
    code: int = 0


class WorkersFailed(Exception):
    """The workers could not be started.

    Attributes:
        code: The exit code of the worker that failed first.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Supervisor:
    """Starts the workers, starts those again that die, and stops them.

    Attributes:
        config: The settings in force.
        url: The router's url; empty before it listens.
        on_reload: Called with the settings in force after each reload. They must not raise.
        opened: Set once all workers at once place sessions, or have waited long enough for that at their start.
        joined: Set once a worker has joined the registry.
    """

    def __init__(
        self,
        config: RouterConfig,
        stop: StopRequest,
        reloading: Reloading,
        command: Sequence[str],
        *,
        wait_seconds: float | None,
        as_json: bool,
    ) -> None:
        """Set up; nothing is started before `run()`.

        Args:
            config: The router's settings.
            stop: The request to stop.
            reloading: Reads the settings again.
            command: Starts a worker. The numbers of the descriptors of its listening socket and of its channel are
                appended.
            wait_seconds: How long a worker tries to reach Redis at its start; `None` has no limit.
            as_json: Whether workers log in JSON.
        """
        self.config = config
        self.on_reload: list[Callable[[RouterConfig], None]] = []
        self.url = ""
        self.opened = asyncio.Event()
        self.joined = asyncio.Event()
        self._stop = stop
        self._reloading = reloading
        self._command = command
        self._wait_seconds = wait_seconds
        self._as_json = as_json
        self._port = 0
        self._places: list[_Place] = []
        self._failure: WorkersFailed | None = None

    async def run(self, on_listening: Callable[[str], None], beside: Sequence[WorkBesideWorkers] = ()) -> int:
        """Run the workers until all have ended after a request to stop. Return the worst of their exit codes.

        If this is cancelled, the workers are killed.

        Args:
            on_listening: Called with the router's url as soon as it listens.
            beside: Works that run beside the workers until all have ended. Each is called with the supervisor.

        Raises:
            ConfigError: It cannot listen on the configured host and port.
            WorkersFailed: A worker ended before any worker had joined the registry. The others were stopped.
        """
        with listening.listeners(self.config, self.config.workers) as sockets:
            self.url, self._port = listening.url_of(sockets[0], self.config), sockets[0].getsockname()[1]
            self._places = [_Place(number, listener) for number, listener in enumerate(sockets, 1)]
            on_listening(self.url)
            async with asyncio.TaskGroup() as tasks:
                others = [
                    tasks.create_task(self._pass_on_stop()),
                    tasks.create_task(self._reloading.run(self._reload)),
                    *(tasks.create_task(work(self)) for work in beside),
                ]
                keeping = [tasks.create_task(self._keep(place)) for place in self._places]
                await asyncio.wait(keeping)
                for task in others:
                    task.cancel()
        if self._failure is not None:
            raise self._failure
        return max(place.code for place in self._places)

    async def end_silent_workers(self, seconds: float) -> None:
        """Kill workers whose event loop has not run for some time, until cancelled. They are started again.

        A worker must be found silent twice: this process may have been stopped itself, and not have read its messages.
        """
        loop, suspects = asyncio.get_running_loop(), set[asyncio.subprocess.Process]()
        while True:
            await asyncio.sleep(seconds / 4)
            silent_since = loop.time() - seconds
            silent = {
                place.process: place
                for place in self._places
                if place.process is not None and place.has_opened and place.alive_at < silent_since
            }
            for process in silent.keys() & suspects:
                logger.error(
                    "router: worker %d has not responded for %g s; killing it", silent[process].number, seconds
                )
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            suspects = set(silent)

    async def _keep(self, place: _Place) -> None:
        """Keep a worker running until the request to stop, and then until its end."""
        loop, backoff = asyncio.get_running_loop(), Backoff(longest_seconds=LONGEST_PAUSE_SECONDS, rng=random.Random())
        short_lives = 0
        while not self._stop.asked.is_set():
            if short_lives <= 1:
                backoff.reset()
            else:
                await self._pause(place, backoff.next_seconds())
                if self._stop.asked.is_set() or not self._has_listener(place):
                    continue
            begun_at = loop.time()
            code = await self._run_worker(place)
            short_lives = short_lives + 1 if loop.time() - begun_at < STEADY_SECONDS else 0
            if self._stop.asked.is_set():
                place.code = code
            elif self.joined.is_set():
                end = _described(code) + (f": {place.failure}" if place.failure else "")
                logger.warning("router: worker %d %s; starting it again", place.number, end)
            else:
                reason = place.failure or f"worker {place.number} {_described(code)} before it had started"
                self._failure = WorkersFailed(code, reason)
                self._stop.ask()
                self._stop.ask()

    async def _pause(self, place: _Place, seconds: float) -> None:
        """Wait without a listening socket: clients that it has are sent away, and new ones come to other workers."""
        if place.listener is not None:
            place.listener.close()
            place.listener = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.asked.wait()

    def _has_listener(self, place: _Place) -> bool:
        """Return whether there is a listening socket; open one if it was closed."""
        if place.listener is None:
            try:
                place.listener = listening.another(self.config, self._port)
            except ConfigError as error:
                logger.warning("router: worker %d: %s", place.number, error)
        return place.listener is not None

    async def _run_worker(self, place: _Place) -> int:
        """Run a worker to its end. Return its exit code."""
        listener = place.listener
        if listener is None:
            raise AssertionError("a worker needs a listening socket")
        ours, theirs = socket.socketpair()
        with theirs:
            handles = listener.fileno(), theirs.fileno()
            environment = {name: text for name, text in os.environ.items() if name not in SYSTEMD_VARIABLES}
            process = await asyncio.create_subprocess_exec(
                *self._command, *map(str, handles), stdin=asyncio.subprocess.DEVNULL, pass_fds=handles, env=environment
            )
        place.process, place.failure = process, ""
        try:
            place.channel = channel = await ProcessChannel.over(ours)
            channel.send(Begin(self.config, place.number, self.url, self._wait_seconds, self._as_json))
            self._send_stop(place)
            while (message := await channel.receive()) is not None:
                self._note(place, message)
            return _code_of(await process.wait())
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            if place.channel is not None:
                place.channel.close()
            place.process = place.channel = None
            place.has_opened = False

    def _note(self, place: _Place, message: object) -> None:
        place.alive_at = asyncio.get_running_loop().time()
        if isinstance(message, Joined):
            self.joined.set()
        elif isinstance(message, Opened):
            place.has_opened = True
            if all(one.has_opened for one in self._places):
                self.opened.set()
        elif isinstance(message, Failed):
            place.failure = message.text

    async def _pass_on_stop(self) -> None:
        await self._stop.asked.wait()
        for place in self._places:
            if place.listener is not None:
                place.listener.close()  # first: the last that holds it is the worker, which takes who came until then
                place.listener = None
            self._send_stop(place)
        await self._stop.urgent.wait()
        for place in self._places:
            self._send_stop(place)

    def _send_stop(self, place: _Place) -> None:
        if place.channel is not None and self._stop.asked.is_set():
            place.channel.send(Stop(self._stop.urgent.is_set()))

    def _reload(self, config: RouterConfig) -> list[tuple[str, Reloaded]]:
        results = merge_all(self.config, config)
        self.config = results[0][1].config
        for apply in self.on_reload:
            apply(self.config)
        for place in self._places:
            if place.channel is not None:
                place.channel.send(Reload(self.config))
        return results


def _code_of(status: int) -> int:
    return status if status >= 0 else SIGNAL_CODE - status


def _described(code: int) -> str:
    if code <= SIGNAL_CODE:
        return f"has ended with exit code {code}"
    number = code - SIGNAL_CODE
    known = {one.value: one.name for one in signal.Signals}
    return f"was ended by {known.get(number, f'signal {number}')}"


WorkBesideWorkers = Callable[[Supervisor], Coroutine[Any, Any, None]]
"""A work that runs beside the workers until it is cancelled."""
