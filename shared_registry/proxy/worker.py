"""One worker of a router: a process that serves its share of the clients on the common port, as a router of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence

from shared_registry.aio.process_channel import ProcessChannel
from shared_registry.aio.stop_signals import SERVICE_STOP_SIGNALS, StopRequest
from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.proxy.app import Router, Work
from shared_registry.proxy.server import serve_clients
from shared_registry.proxy.worker_messages import Alive, Begin, Joined, Opened, Reload, Stop

ALIVE_SECONDS = 1.0
"""The time between two messages of a worker that its event loop runs."""
logger = logging.getLogger(__name__)


class Worker:
    """The side of the worker."""

    def __init__(
        self,
        channel: ProcessChannel,
        begin: Begin,
        *,
        on_reload: Callable[[RouterConfig], None],
        beside: Sequence[Work] = (),
    ) -> None:
        """Set up.

        Args:
            channel: The messages to and from the parent.
            begin: The parent's first message.
            on_reload: Called with the settings in force when they have changed.
            beside: Further works that run beside the router until it ends.
        """
        self._on_reload = on_reload
        self._beside = beside
        self._channel = channel
        self._begin = begin
        self._stop = StopRequest()

    async def serve(self, listener: socket.socket) -> None:
        """Serve clients from a listening socket until the parent says stop or ends, and the sessions have ended.

        Signals that reach the worker itself have no further effect than the parent's first request to stop: whether
        the grace period ends is up to the parent, which receives the same signals.

        Raises:
            RegistryError: The worker cannot run.
        """
        loop = asyncio.get_running_loop()
        for number in SERVICE_STOP_SIGNALS:
            if number != signal.SIGINT:  # which a terminal sends to the parent as well
                loop.add_signal_handler(number, self._begin_stop)
        await serve_clients(
            self._begin.config,
            self._stop,
            wait_seconds=self._begin.wait_seconds,
            listener=listener,
            worker=self._begin.number,
            beside=[self._obey, self._report_joined, self._report_opened, self._show_life, *self._beside],
        )

    def _begin_stop(self) -> None:
        if not self._stop.asked.is_set():
            self._stop.ask()

    async def _obey(self, router: Router) -> None:
        """Do what the parent says. If it has ended, stop as if it had said so: nobody else would ever stop this."""
        router.on_reload.append(self._on_reload)
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Stop):
                self._begin_stop()
                if message.is_urgent:
                    self._stop.ask()
            elif isinstance(message, Reload):
                try:
                    router.reload(message.config)
                except ConfigError as error:  # the parent has checked them, so this does not happen
                    logger.warning("reload: nothing has changed: %s", error)
        if self._stop.urgent.is_set():
            os._exit(1)  # the parent was told to end at once
        if not self._stop.asked.is_set():
            logger.warning("router: the parent process has ended; stopping")
        self._begin_stop()

    async def _report_joined(self, router: Router) -> None:
        await router.joined.wait()
        self._channel.send(Joined())

    async def _report_opened(self, router: Router) -> None:
        await router.settled()
        self._channel.send(Opened())

    async def _show_life(self, _: Router) -> None:
        while True:
            self._channel.send(Alive())
            await asyncio.sleep(ALIVE_SECONDS)
