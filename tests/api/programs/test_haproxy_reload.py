"""HAProxy that is reloaded under load: no session is refused, and drains and new replicas are as before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.model import ReplicaEndpoint
from shared_registry.registry.facade import SharedReplicaRegistry
from tests.proxy.conftest import SECONDS, StartRouter
from tests.support.backend import Backend
from tests.support.foreign import find_program
from tests.support.load_balancers import EXAMPLES
from tests.support.nginx import listens
from tests.support.programs import free_port
from tests.support.until import until

REQUEST = b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PAUSE_SECONDS = 0.005  # all of it shares one event loop
DRAINED = 0x08
"""Of a server's admin state, as HAProxy keeps it."""
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def exchanged(connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]], request: bytes) -> str:
    """Send a request on a new connection; return all that comes until the connection ends."""
    async with asyncio.timeout(SECONDS):  # `wait_for` may lose the end of the load, up to Python 3.11
        reader, writer = await connecting
        try:
            writer.write(request)
            return (await reader.read()).decode()
        finally:
            writer.transport.abort()


@dataclass
class Balancer:
    """HAProxy with its master process, and the program that fills it.

    Attributes:
        port: Where clients connect.
        answered: How many requests of the load each replica has answered, or with what status they ended.
    """

    port: int
    socket: Path
    process: BoundProcess
    answered: Counter[str] = field(default_factory=Counter)

    async def request(self) -> str:
        """Send a request on a connection of its own; return the replica's port, or the status."""
        try:
            answer = await exchanged(asyncio.open_connection("127.0.0.1", self.port), REQUEST)
        except OSError as error:
            return type(error).__name__
        head = answer.lower().partition("\r\n\r\n")[0]
        found = re.search(r"^x-backend: (\d+)", head, re.MULTILINE)
        return found[1] if found else head.partition("\r\n")[0]

    async def goes_to(self, *wanted: Backend) -> None:
        """Wait until requests go to these replicas and to no other."""

        async def do() -> bool:
            return {await self.request() for _ in range(6)} == {str(backend.port) for backend in wanted}

        await until(do, f"requests go to {len(wanted)} replicas")

    @contextlib.asynccontextmanager
    async def load(self, clients: int = 3) -> AsyncIterator[None]:
        """Send requests until the block ends."""

        async def work() -> None:
            while True:
                self.answered[await self.request()] += 1
                await asyncio.sleep(PAUSE_SECONDS)

        tasks = [asyncio.create_task(work()) for _ in range(clients)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def worker(self) -> str:
        """Return the process id of the worker that serves new clients."""
        with contextlib.suppress(OSError):
            lines = (await exchanged(asyncio.open_unix_connection(self.socket), b"show info\n")).splitlines()
            return next((line.removeprefix("Pid: ") for line in lines if line.startswith("Pid: ")), "")
        return ""

    async def reload(self) -> None:
        """Reload, and wait until another worker serves."""
        before = await self.worker()
        os.kill(self.process.pid, signal.SIGUSR2)

        async def is_other() -> bool:
            return await self.worker() not in {"", before}

        await until(is_other, "another worker serves")

    async def requests(self, count: int) -> None:
        """Wait until the load has so many answers more."""
        wanted = self.answered.total() + count
        await until(lambda: self.answered.total() >= wanted, f"{count} requests are answered")


@contextlib.asynccontextmanager
async def balancer(folder: Path, base: Path, agent: int, *admin_urls: str) -> AsyncIterator[Balancer]:
    """Run HAProxy and its filler with the files of the examples."""
    port, socket = free_port(), base / "r.sock"
    state = folder / "server-state"
    state.touch()
    changes = {
        "bind :8080": f"bind 127.0.0.1:{port}",
        "agent-port 11001": f"agent-port {agent}",
        "agent-inter 1s": "agent-inter 200ms",
        "replica 1-100": "replica 1-4",
        "/run/haproxy/admin.sock": str(socket),
        "/var/lib/haproxy/server-state": str(state),
        "maxconn 16384": "maxconn 2000",
    }
    text = (EXAMPLES / "haproxy.cfg").read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    config = folder / "haproxy.cfg"
    config.write_text(text)
    fill: list[str | Path] = [sys.executable, EXAMPLES / "haproxy_fill.py", "--seconds", "0.2"]
    fill += ["--socket", socket, "--state", state]
    with (folder / "haproxy.log").open("wb") as log, (folder / "fill.log").open("wb") as fill_log:
        process = BoundProcess([find_program("haproxy"), "-W", "-f", config], cwd=folder, output=log)
        filler = BoundProcess([*fill, *admin_urls], cwd=folder, output=fill_log)
    try:
        await until(lambda: listens(port), "HAProxy listens")
        yield Balancer(port, socket, process)
    finally:
        filler.kill()
        await asyncio.to_thread(process.stop, 5.0)


async def started(start: StartRouter, agent: int, *backends: Backend) -> tuple[SharedReplicaRegistry, str]:
    replicas = [ReplicaEndpoint(backend.url) for backend in backends]
    router = await start(replicas=replicas, is_awaited=False, agent_port=agent)
    registry = router.router.pools[""].registry
    await until(lambda: all(one.is_healthy for one in registry.all()), "the replicas are healthy")
    return registry, router.admin_url


async def test_a_reload_under_load_refuses_nobody_and_forgets_no_drain(
    start_with_admin: StartRouter, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    agent = free_port()
    async with Backend() as one, Backend() as two, Backend() as three:
        registry, admin_url = await started(start_with_admin, agent, one, two, three)
        async with balancer(tmp_path, tmp_path_factory.getbasetemp(), agent, admin_url) as haproxy:
            await haproxy.goes_to(one, two, three)
            await registry.drain(two.url)
            await haproxy.goes_to(one, three)
            await until(lambda: is_kept_drained(tmp_path / "server-state", two), "the drain is kept")
            url = f"ws://127.0.0.1:{haproxy.port}/v1/stream"
            async with connect(url, proxy=None) as session, haproxy.load():
                for _ in range(2):
                    await haproxy.requests(20)
                    await haproxy.reload()
                    await haproxy.requests(100)
                assert haproxy.answered.keys() == {str(one.port), str(three.port)}
                await session.send("still here")
                assert await asyncio.wait_for(session.recv(), SECONDS) == "still here"
                # The new process follows the registry as the former ones did.
                await registry.enable(two.url)
                await haproxy.goes_to(one, two, three)
                await registry.drain(three.url)
                await haproxy.goes_to(one, two)
                await registry.deregister(one.url)
                await haproxy.goes_to(two)
            assert haproxy.answered.keys() <= {str(one.port), str(two.port), str(three.port)}


def is_kept_drained(state: Path, backend: Backend) -> bool:
    rows = [line.split() for line in state.read_text().splitlines() if f" {backend.port} " in line]
    return any(int(row[6]) & DRAINED for row in rows)


async def test_a_reload_without_any_router_keeps_what_was_known(
    start_with_admin: StartRouter, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    agent = free_port()
    async with Backend() as one, Backend() as two:
        router = await start_with_admin(
            replicas=[ReplicaEndpoint(one.url), ReplicaEndpoint(two.url)], is_awaited=False, agent_port=agent
        )
        registry = router.router.pools[""].registry
        await until(lambda: all(replica.is_healthy for replica in registry.all()), "the replicas are healthy")
        async with balancer(tmp_path, tmp_path_factory.getbasetemp(), agent, router.admin_url) as haproxy:
            await haproxy.goes_to(one, two)
            await registry.drain(two.url)
            await haproxy.goes_to(one)
            await until(lambda: is_kept_drained(tmp_path / "server-state", two), "the drain is kept")
            router.stop.ask()
            await asyncio.wait_for(asyncio.shield(router.serving), SECONDS)
            async with haproxy.load():
                await haproxy.requests(20)
                await haproxy.reload()
                await haproxy.requests(100)
            assert haproxy.answered.keys() == {str(one.port)}
