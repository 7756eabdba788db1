"""Processes of the demo: bound to it, and read line by line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared_registry.demo import replica as demo_replica
from shared_registry.demo.router import Report
from shared_registry.embedded.bound_process import BoundProcess

LOG_LINES = 20
REPORTS_KEPT = 1000
_REPLICA = str(Path(demo_replica.__file__).absolute())
_ROUTER = "import sys; sys.path[:] = sys.argv[2:]; from shared_registry.demo.router import main; main(sys.argv[1])"
"""Imports from where this process does, not from whatever lies in the current directory."""


class Child:
    """A process that dies with this one, and whose JSON lines are handed on as they come.

    Attributes:
        name: What the demo calls it.
        has_crashed: Whether it has ended by itself.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_crashed = False
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._process: BoundProcess | None = None
        self._pipe: asyncio.ReadTransport | None = None

    @property
    def pid(self) -> int | None:
        """The process id; `None` before the start and after `kill()`."""
        return self._process.pid if self._process else None

    @property
    def log(self) -> str:
        """The last lines that it printed besides JSON, such as a traceback."""
        return "\n".join(self._log)

    def kill(self) -> None:
        """End it by SIGKILL. Returns when it is gone; twice is harmless."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
        self._pipe = self._process = None

    async def run(self, argv: list[str], on_message: Callable[[dict[str, Any]], None]) -> None:
        """Start it, and hand every JSON line that it prints to `on_message`."""
        read_end, write_end = os.pipe()
        source = os.fdopen(read_end, "rb", buffering=0)
        with os.fdopen(write_end, "wb", buffering=0) as output:
            process = self._process = BoundProcess(argv, cwd=Path("/"), output=output)

        def end() -> None:
            self.has_crashed = self._process is process

        lines = _Lines(on_message, self._log.append, end)
        self._pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: lines, source)


class ReplicaProcess(Child):
    """One mock replica. It keeps its port, and so its url, over restarts."""

    port = 0

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{demo_replica.HOST}:{self.port}"

    async def start(self) -> None:
        """Start it; it listens some moments later."""
        await self.run([sys.executable, "-I", _REPLICA, "--name", self.name, "--port", str(self.port)], self._take_port)

    def _take_port(self, message: dict[str, Any]) -> None:
        self.port = message["port"]


class RouterProcess(Child):
    """One router, and what it has reported, latest last."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reports: deque[Report] = deque(maxlen=REPORTS_KEPT)

    @property
    def latest(self) -> Report | None:
        """What it reported last; `None` before the first report."""
        return self.reports[-1] if self.reports else None

    async def start(self, settings: dict[str, Any]) -> None:
        """Start it with a `RouterConfig`'s settings."""
        argv = [sys.executable, "-c", _ROUTER, json.dumps(settings | {"router_id": self.name}), *_search_path()]
        await self.run(argv, lambda message: self.reports.append(Report(**message)))


def _search_path() -> list[str]:
    """Return where this process imports from; an empty entry is the current directory."""
    return [str(Path(entry).absolute()) for entry in sys.path]


class _Lines(asyncio.Protocol):
    """Cuts output into lines: JSON objects, and the rest."""

    def __init__(
        self, on_message: Callable[[dict[str, Any]], None], on_text: Callable[[str], None], on_end: Callable[[], None]
    ) -> None:
        self._on_message = on_message
        self._on_text = on_text
        self._on_end = on_end
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                self._on_message(json.loads(line))
            else:
                self._on_text(line.decode(errors="replace"))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self._on_end()
