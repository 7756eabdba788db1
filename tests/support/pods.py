"""Pods: `shared-registry join` as a process beside a mock replica; what a router makes of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from shared_registry import NoHealthyReplica, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from tests.support.programs import free_port
from tests.support.until import until

TTL = 5.0


def pod_settings(server: EmbeddedServer, namespace: str, **more: Any) -> RouterConfig:
    probes = {"health_check_interval_seconds": 0.3, "fast_interval_seconds": 0.1}
    return RouterConfig(redis_url=server.url, namespace=namespace, **(probes | more))


def serves(registry: SharedReplicaRegistry) -> bool:
    with contextlib.suppress(NoHealthyReplica):
        return registry.select() is not None
    return False


async def event_kinds(registry: SharedReplicaRegistry) -> list[EventKind]:
    return [event.kind for event in await registry.events()]


class Pod:
    """`shared-registry join` in a process group of its own, with a replica as its command."""

    def __init__(self, redis_url: str, namespace: str, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._where = ("--redis", redis_url, "--namespace", namespace)
        self._seen: set[int] = set()

    async def start(
        self, *options: str, command: tuple[str, ...] | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Start it; without a command of its own it runs a mock replica. Adds to the environment."""
        if command is None:
            command = (sys.executable, "-m", "tests.support.replica_server", "--port", str(self.port))
        words = ("-m", "shared_registry", "join", *self._where, "--url", self.url, "--ttl", f"{TTL:g}", *options)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            *(("--", *command) if command else ()),
            start_new_session=True,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )

    async def until_it_says(self, text: str) -> str:
        """Wait until its log has this text; return the log since the last call."""
        log, stderr = "", self.process.stderr
        assert stderr is not None
        while text not in log:
            line = await asyncio.wait_for(stderr.readline(), 30)
            assert line, log
            log += line.decode()
        return log

    async def child(self) -> int:
        """Return the process id of its command."""
        await until(self._children, "a child")
        return self._children()[0]

    def _children(self) -> list[int]:
        pid = self.process.pid
        with contextlib.suppress(OSError):
            found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            self._seen.update(found)
            return found
        return []

    async def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and log."""
        _, errors = await asyncio.wait_for(self.process.communicate(), 60)
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()

    async def clean_up(self) -> None:
        if not hasattr(self, "process"):
            return
        self._children()
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        for child in self._seen:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # also what it has started


Pods = Callable[..., Pod]


@contextlib.asynccontextmanager
async def pods_of(redis_url: str, namespace: str) -> AsyncIterator[Pods]:
    """Make pods; whatever is left of them ends with the context."""
    made: list[Pod] = []

    def make(**options: Any) -> Pod:
        made.append(Pod(redis_url, namespace, **options))
        return made[-1]

    try:
        yield make
    finally:
        for pod in made:
            await pod.clean_up()
