"""The demo's child processes. They end with the demo, and their output is read line by line."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared_registry.demo import replica as demo_replica
from shared_registry.embedded.bound_process import BoundProcess

HOST = demo_replica.HOST
LOG_LINES = 20
_REPLICA = str(Path(demo_replica.__file__).absolute())
_COMMAND = (sys.executable, "-P", "-m", "shared_registry")
"""The command `shared-registry`, which need not be on the PATH. With -P it does not import from the current directory,
but from the same places as this process."""


class Child:
    """A child process that ends with this process. Each JSON line that it prints is passed to a callback.

    Attributes:
        name: The name of the process in the demo.
        has_ended: Whether the process has ended by itself.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_ended = False
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._process: BoundProcess | None = None
        self._pipe: asyncio.ReadTransport | None = None

    @property
    def pid(self) -> int | None:
        """The process id; `None` before the start and after `kill()`."""
        return self._process.pid if self._process else None

    @property
    def exit_status(self) -> int | None:
        """The exit status if the process has ended by itself; otherwise `None`. Also `None` after `kill()`."""
        return self._process.poll() if self._process else None

    @property
    def log(self) -> str:
        """The last lines that the process printed, such as a traceback."""
        return "\n".join(self._log)

    def kill(self) -> None:
        """End the process by SIGKILL, and return after it has ended. Twice is harmless."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
        self._pipe = self._process = None

    async def run(self, argv: Sequence[str], on_message: Callable[[dict[str, Any]], None]) -> None:
        """Start the process, and pass every JSON line that it prints to `on_message`."""
        self.has_ended = False
        read_end, write_end = os.pipe()
        source = os.fdopen(read_end, "rb", buffering=0)
        with os.fdopen(write_end, "wb", buffering=0) as output:
            process = self._process = BoundProcess(argv, cwd=Path("/"), output=output, env=_environment())

        def end() -> None:
            self.has_ended = self._process is process

        lines = _Lines(on_message, self._log.append, end)
        self._pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: lines, source)


class ReplicaProcess(Child):
    """One mock replica. It keeps its port, and therefore its url, over restarts."""

    port = 0

    @property
    def url(self) -> str:
        """The url at which the replica serves."""
        return f"http://{HOST}:{self.port}"

    async def start(self) -> None:
        """Start the replica. It listens some moments later."""
        argv = [sys.executable, "-I", _REPLICA, "--name", self.name, "--port", str(self.port)]
        await self.run(argv, self._take_port)

    def _take_port(self, message: dict[str, Any]) -> None:
        self.port = message["port"]


class RouterProcess(Child):
    """One router: the command `shared-registry serve`.

    Attributes:
        url: The url at which the router serves; empty until it listens.
    """

    url = ""

    async def start(self, config: Path) -> None:
        """Start the router with a YAML file. It listens some moments later."""
        argv = [*_COMMAND, "serve", "--config", str(config), "--json"]
        await self.run(argv, self._take_line)

    def _take_line(self, line: dict[str, Any]) -> None:
        self.url = line.get("url", self.url)
        self._log.append(str(line.get("message", line)))


class CommandProcess(Child):
    """One `shared-registry` command that ends by itself, as an operator types it."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(shlex.join(["shared-registry", *arguments]))
        self._arguments = arguments

    async def start(self, redis_url: str, namespace: str) -> None:
        """Start the command for a registry."""
        argv = [*_COMMAND, "--redis", redis_url, "--namespace", namespace, *self._arguments]
        await self.run(argv, lambda message: self._log.append(json.dumps(message)))


def _environment() -> dict[str, str]:
    """Return this process's environment without the registry's settings, and with its import paths as PYTHONPATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHARED_REGISTRY_")}
    paths = [str(Path(entry).absolute()) for entry in sys.path]  # an empty entry is the current directory
    return kept | {"PYTHONPATH": os.pathsep.join(paths)}


class _Lines(asyncio.Protocol):
    """Splits output into lines, and passes on JSON objects and other lines separately."""

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
