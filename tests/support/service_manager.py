"""systemd's side of sd_notify(3): a real datagram socket, by path or with an abstract name."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from pathlib import Path
from typing import Self


class ServiceManager:
    """Receives the notices of a service.

    Attributes:
        name: The socket's name, for NOTIFY_SOCKET.
        notices: What has come, each a mapping, oldest first; signs of life are only counted.
        signs_of_life: How many came.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Make the socket. Without a directory it has an abstract name."""
        text = f"sr-test-{secrets.token_hex(6)}"
        self.name = f"@{text}" if directory is None else str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{text}" if directory is None else self.name)
        self._socket.setblocking(False)
        self.notices: list[dict[str, str]] = []
        self.signs_of_life = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read(self) -> list[dict[str, str]]:
        """Read what has come meanwhile, and return all notices."""
        with contextlib.suppress(BlockingIOError):
            while text := self._socket.recv(65536).decode():
                fields = dict(line.split("=", 1) for line in text.splitlines())
                if fields == {"WATCHDOG": "1"}:
                    self.signs_of_life += 1
                else:
                    self.notices.append(fields)
        return self.notices

    def has(self, name: str, value: str = "1") -> bool:
        """Return whether a notice with this field has come."""
        return any(fields.get(name) == value for fields in self.read())

    async def quiet_for(self, seconds: float) -> None:
        """Read for some time, so that what must not come would have come."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.read()
            await asyncio.sleep(0.02)
