"""The cluster on which docs/cli.md shows its commands: two routers, three replicas, a Redis, sessions.

    unshare -rnu python -m tests.support.command_page

runs the commands of the page in their order, with a host name and a network of its own, and prints as JSON what each
printed. Before a block something may have to happen: a session ends, a replica dies. `BEFORE` says what.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis

from shared_registry import Lease, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.demo import replica
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.command import ROOT, environment
from tests.support.shown_commands import read_shown
from tests.support.until import until

PAGE = ROOT / "docs" / "cli.md"
REDIS_PORT = 6379
NAMESPACE = "pool"
URLS = {f"gpu-{number}": f"http://127.0.0.1:800{number}" for number in (1, 2, 3)}
SECONDS = 30.0
FILES = {
    "router.yaml": "router:\n  port: 9001\n",
    "broken.yaml": "router:\n  lease_seconds: 1\n  renew_interval_seconds: 1\n  replicas:\n"
    "    - {url: 'http://127.0.0.1:8001', wieght: 2}\n",
    "key.txt": "sk-Zk0vRg4yQ0cVv3u2nM1zqH8tT6b5kPjWx7YdLsEaFio\n",
}

SCRIPT_SECONDS = 300.0


def print_page() -> list[list[list[str]]]:
    """Return what each command of the page printed, by block; run them."""
    command = ["unshare", "-rnupf", "--kill-child", sys.executable, "-m", "tests.support.command_page"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=SCRIPT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    outputs: list[list[list[str]]] = json.loads(done.stdout)
    return outputs


def settings(number: int, server: EmbeddedServer) -> RouterConfig:
    return RouterConfig(
        redis_url=server.url,
        namespace=NAMESPACE,
        router_id=f"router-{number}",
        replicas=[
            ReplicaEndpoint(URLS["gpu-1"], "gpu-1", capacity=2, labels={"zone": "a"}),
            ReplicaEndpoint(URLS["gpu-2"], "gpu-2", capacity=2, labels={"zone": "b"}),
            ReplicaEndpoint(URLS["gpu-3"], "gpu-3", capacity=2, labels={"zone": "a"}),
        ],
        health_check_interval_seconds=0.3,
        fast_interval_seconds=0.1,
        failure_threshold=1 + number,
        lease_seconds=60.0,  # a pause of this machine elects nobody, which the page would show
    )


class Stage:
    """What is there, and what happens before a block; each method is named after the command that its block shows."""

    def __init__(self, folder: Path, server: EmbeddedServer, routers: list[SharedReplicaRegistry]) -> None:
        self.folder = folder
        self.output = folder / "output.txt"
        self.raw = Redis.from_url(server.url, decode_responses=True)
        self.keys = Keys(NAMESPACE)
        self.routers = routers
        self.replicas: dict[str, subprocess.Popen[bytes]] = {}
        self.leases: list[Lease] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.environment = environment(
            PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
            LOGNAME="ann",
            COLUMNS="170",
            SHARED_REGISTRY_REDIS_URL=server.url,
            SHARED_REGISTRY_NAMESPACE=NAMESPACE,
        )

    async def shell(self, line: str) -> list[str]:
        """Run a line as a reader does; return what it printed."""
        with self.output.open("w") as output:
            process = await asyncio.create_subprocess_exec(
                *("bash", "-c", line),
                cwd=self.folder,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
            )
            await asyncio.wait_for(process.wait(), SECONDS)
        return self.output.read_text().splitlines()

    def start_replica(self, name: str) -> None:
        """Start a replica at its url."""
        words = [sys.executable, "-I", str(replica.__file__), "--name", name, "--port", URLS[name].rpartition(":")[2]]
        self.replicas[name] = subprocess.Popen(words, stdout=subprocess.DEVNULL)

    def kill_replica(self, name: str) -> None:
        """Kill a replica."""
        process = self.replicas.pop(name)
        process.kill()
        process.wait()

    def kill_replicas(self) -> None:
        """Kill all replicas."""
        for name in tuple(self.replicas):
            self.kill_replica(name)

    async def ready(self, count: int) -> None:
        """Wait until so many replicas take sessions."""
        await self.shell(f"shared-registry wait --ready {count} --timeout 20")

    async def place(self, session: str | None, router: int = 0) -> None:
        """Place a session, which may wait."""
        lease = await self.routers[router].acquire(session, timeout=SECONDS)
        self.leases.append(lease)

    async def end_sessions(self) -> None:
        """End all sessions."""
        while self.leases:
            await self.leases.pop().release()

    def later(self, coroutine: object) -> None:
        """Let something happen beside the next commands."""
        task: asyncio.Task[None] = asyncio.create_task(coroutine)  # type: ignore[arg-type]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def status(self) -> None:
        """One replica drains, and one is dead."""
        await self.ready(3)
        await self.shell("shared-registry drain gpu-1 --reason 'kernel update'")
        self.kill_replica("gpu-3")
        await until(lambda: self.raw.hget(self.keys.replica(URLS["gpu-3"]), "status") == "unhealthy", "gpu-3 is out")

    async def routers_(self) -> None:
        """Both routers have measured themselves since they began."""

        async def have_measured() -> bool:
            found = json.loads("\n".join(await self.shell("shared-registry routers --json")))["routers"]
            leads = [one for one in found if one["probe_age_seconds"] is not None and one["is_leader"]]
            return len(leads) == 1 and all(one["view_age_seconds"] is not None for one in found)

        await until(have_measured, "both have measured themselves")

    async def leases_(self) -> None:
        """One replica has a session of each router."""
        await self.shell("shared-registry enable gpu-1; shared-registry drain gpu-2 --yes")
        await self.place("user-1")
        await self.place(None, router=1)

    async def queue(self) -> None:
        """Three sessions wait."""
        for depth, (session, router) in enumerate((("user-1", 0), (None, 1), (None, 0)), 1):
            self.later(self.place(session, router))
            await until(lambda depth=depth: self.raw.zcard(self.keys.queue) == depth, "it waits")  # type: ignore[misc]

    async def events(self) -> None:
        """All sessions end, and operators change something."""
        await self.shell("shared-registry enable gpu-2")
        await until(lambda: len(self.leases) == 4 or None, "the first two of the waiters have a slot")
        while self.tasks or self.leases:
            await self.end_sessions()
            await asyncio.sleep(0)
        await self.shell("shared-registry drain gpu-2; shared-registry enable gpu-2")
        await self.shell(f"shared-registry remove {URLS['gpu-3']} --yes --reason fan")
        await self.shell("shared-registry step-down --for 5")

    async def namespaces(self) -> None:
        """There are others, one of which an older version made."""
        self.raw.hset(Keys("older").meta, "schema", "1")
        await self.shell("shared-registry add -n alone http://127.0.0.1:8009")

    async def check_(self) -> None:
        """Somebody writes to Redis."""
        self.raw.hset(self.keys.replica(URLS["gpu-1"]), "in_flight", "1")

    async def add(self) -> None:
        """The registry is empty, and all replicas run."""
        await self.shell("shared-registry remove gpu-1 gpu-2 --yes")
        self.start_replica("gpu-3")

    async def remove(self) -> None:
        """The new replicas are healthy."""
        await self.ready(3)

    async def drain(self) -> None:
        """One replica has two sessions."""
        for session in ("user-1", "user-2"):
            await self.place(session, router=1)

    async def drain_wait(self) -> None:
        """The sessions end one after the other."""

        async def end() -> None:
            for left in (2, 1):
                await until(lambda left=left: f"{left} sessions left" in self.output.read_text())  # type: ignore[misc]
                await self.leases.pop().release()

        await self.ready(2)
        self.later(end())


BEFORE = {
    "status": Stage.status,
    "routers": Stage.routers_,
    "leases": Stage.leases_,
    "queue": Stage.queue,
    "events": Stage.events,
    "namespaces": Stage.namespaces,
    "check --repair": Stage.check_,
    "add": Stage.add,
    "remove": Stage.remove,
    "drain": Stage.drain,
    "drain --wait": Stage.drain_wait,
}
"""What happens before the block that shows this, by words that its first command begins with or has."""


async def run_page() -> list[list[list[str]]]:
    """Run the commands of the page; return what each printed, by block."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        server = stack.enter_context(EmbeddedServer(port=REDIS_PORT))
        for name, text in FILES.items():
            (folder / name).write_text(text)
        program = folder / "bin" / "shared-registry"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m shared_registry "$@"\n')
        program.chmod(0o755)
        routers = [
            SharedReplicaRegistry(settings(number, server), url=f"http://127.0.0.1:900{number}") for number in (1, 2)
        ]
        stage = Stage(folder, server, routers)
        stack.callback(stage.kill_replicas)
        for name in URLS:
            stage.start_replica(name)
        for router in routers:
            await stack.enter_async_context(router)
        found = []
        due = dict(BEFORE)
        for block in read_shown(PAGE.read_text(encoding="utf-8")):
            words = [one.command.removeprefix("shared-registry ") for one in block]
            for name in [name for name in due if matches(name, words)]:
                await due.pop(name)(stage)
            found.append([await stage.shell(one.command) for one in block])
        assert not due, f"the page shows no {', '.join(due)}"
        return found


def matches(name: str, commands: list[str]) -> bool:
    """Whether a block with these commands shows what `name` says."""
    verb, _, option = name.partition(" ")
    return any(one.split()[0] == verb and option in one for one in commands)


if __name__ == "__main__":
    socket.sethostname("desk")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sys.stdout.write(json.dumps(asyncio.run(run_page())))
