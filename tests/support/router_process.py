"""A process of one or more routers that says on stdout, in JSON lines, what becomes of them. SIGTERM stops it cleanly.

    python -m tests.support.router_process '{"routers": 5, "replicas": ["http://…"], "config": {…}}'

Each line has the router's key, what happened (`ready`, `leading` with the epoch, `following`, `stopped`) and when, on
the clock of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared_registry.config import RouterConfig
from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.model import ReplicaEndpoint
from shared_registry.registry.facade import SharedReplicaRegistry

POLL_SECONDS = 0.005
_ROOT = Path(__file__).parents[2]


def write_event(router: SharedReplicaRegistry, what: str) -> None:
    epoch = router.leader.epoch if router.leader else None
    line = {"router": router.router_key, "what": what, "epoch": epoch, "at": time.time()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def report_leadership(router: SharedReplicaRegistry) -> None:
    is_leader, last_epoch = False, 0
    while True:
        if router.is_leader != is_leader:
            # That it leads it knows first from the reply to its campaign; the epoch comes with the event stream.
            leader = router.leader
            is_known = leader is not None and leader.router == router.router_key and leader.epoch != last_epoch
            if is_leader or is_known:
                is_leader = not is_leader
                last_epoch = leader.epoch if leader is not None else last_epoch
                write_event(router, "leading" if is_leader else "following")
        await asyncio.sleep(POLL_SECONDS)


async def run(settings: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    endpoints = [ReplicaEndpoint(url) for url in settings["replicas"]]
    config = RouterConfig(replicas=endpoints, **settings["config"])
    async with contextlib.AsyncExitStack() as stack:
        reporters = []
        routers = [SharedReplicaRegistry(config) for _ in range(settings["routers"])]
        for router in routers:
            await stack.enter_async_context(router)
            reporters.append(asyncio.create_task(report_leadership(router)))
            write_event(router, "ready")
        await stop.wait()
        for reporter in reporters:
            reporter.cancel()
    for router in routers:
        write_event(router, "stopped")


class RouterProcess:
    """Such a process, as its parent sees it. It ends with the parent, whatever happens."""

    def __init__(self, output: Path, *, routers: int, replicas: list[str], config: dict[str, Any]) -> None:
        self._output = output
        settings = json.dumps({"routers": routers, "replicas": replicas, "config": config})
        with output.open("wb") as file:
            command = [sys.executable, "-m", "tests.support.router_process", settings]
            self._process = BoundProcess(command, cwd=_ROOT, output=file)

    @property
    def pid(self) -> int:
        return self._process.pid

    def lines_of(self, what: str) -> list[dict[str, Any]]:
        """Return the lines that say this, oldest first. A process that died by itself fails the test."""
        if self._process.poll() not in (None, 0, -signal.SIGKILL):
            raise AssertionError(f"the router process ended: {self._output.read_text()}")
        return [line for line in self._lines() if line["what"] == what]

    def routers(self) -> set[str]:
        return {line["router"] for line in self._lines()}

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        """End it cleanly."""
        self._process.stop(grace_seconds=15.0)

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self._output.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                yield json.loads(line)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
