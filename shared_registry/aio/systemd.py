"""Tells systemd what a service does, by the protocol of sd_notify(3): datagrams to the socket that it names.

systemd names the socket only to services of `Type=notify`. Everywhere else nothing is sent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping

MICROSECONDS = 1_000_000
logger = logging.getLogger(__name__)


class ServiceNotifier:
    """Sends notices about this process. It never blocks, and never raises: a service must not depend on being heard.

    Attributes:
        watchdog_seconds: How long the service may be silent before systemd takes it for dead; `None` if it is not
            watched.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Set up.

        Args:
            environ: The environment in which systemd has started this process.
        """
        self._address = _address_of(environ.get("NOTIFY_SOCKET", ""))
        self._is_ready = self._is_stopping = self._has_failed = False
        self.watchdog_seconds = _watchdog_seconds(environ) if self._address else None

    def ready(self, status: str) -> None:
        """Say that the service does its work."""
        if not self._is_stopping:
            self._is_ready = True
            self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Describe the state of the service in one line, for people."""
        if not self._is_stopping:
            self._send(f"STATUS={status}")

    def begin_reload(self) -> None:
        """Say that the service reads its settings. Nothing is sent before the service is ready."""
        if self._is_ready and not self._is_stopping:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def end_reload(self) -> None:
        """Say that the service has read its settings."""
        if self._is_ready and not self._is_stopping:
            self._send("READY=1")

    def stopping(self, status: str, *, seconds: float) -> None:
        """Say that the service stops, and ask for time.

        Args:
            status: A line for people.
            seconds: How long that may take. systemd waits for that long, even if its own limit is lower.
        """
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={round(seconds * MICROSECONDS)}")

    def alive(self) -> None:
        """Say that the service lives."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # noqa: FBT003
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                logger.warning("systemd: cannot be told %s: %s", lines[0], error)
        else:
            self._has_failed = False


def _address_of(text: str) -> str | None:
    """Return the address of a socket as `sendto` takes it; `None` if there is none that can be used."""
    if not text or not hasattr(socket, "AF_UNIX"):
        return None
    if text.startswith("/"):
        return text
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    logger.warning("systemd: NOTIFY_SOCKET is %r, which cannot be used; nothing is sent", text)
    return None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the time in the environment, if it is meant for this process."""
    if environ.get("WATCHDOG_PID") not in (None, "", str(os.getpid())):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
        return microseconds / MICROSECONDS if microseconds > 0 else None
    return None
