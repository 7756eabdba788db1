"""Routers are restarted one after the other under load: no request is lost, and none is done twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import FAST, SECONDS, RouterProcess
from tests.support.backend import RawBackend
from tests.support.command import running
from tests.support.nginx import nginx_before
from tests.support.programs import free_port
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUNDS = 2
Address = tuple[str, int]


class Replica:
    """Does each job that is posted, and counts how often."""

    def __init__(self) -> None:
        self.done: Counter[bytes] = Counter()

    async def do(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        job = head.split()[1]
        await reader.readexactly(4)
        await asyncio.sleep(0.05)  # long enough for most clients to have a request under way at any time
        self.done[job] += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(job), job))


class Client:
    """Posts jobs one after the other, as a careful client does: what may have taken effect is never sent again.

    Attributes:
        answered: The jobs that were answered well.
        failures: What went wrong with others.
    """

    numbers = itertools.count()

    def __init__(self, addresses: Sequence[Address], *, keeps: bool, pause: float) -> None:
        self._addresses = list(addresses)
        self._keeps = keeps
        self._pause = pause
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.answered: list[bytes] = []
        self.failures: list[str] = []

    async def run(self, until_stopped: asyncio.Event) -> None:
        while not until_stopped.is_set():
            job = b"/job/%d" % next(self.numbers)
            try:
                async with asyncio.timeout(SECONDS):
                    answer = await self._post(job)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(f"{job!r}: {error!r}")
            else:
                if answer == job:
                    self.answered.append(job)
                else:
                    self.failures.append(f"{job!r}: {answer!r}")
            await asyncio.sleep(self._pause)
        if self._kept is not None:
            self._kept[1].close()

    async def _post(self, job: bytes) -> bytes:
        if self._kept is not None and self._kept[0].at_eof():  # the server has closed it meanwhile
            self._kept[1].close()
            self._kept = None
        reader, writer = self._kept or await self._connect()
        self._kept = None
        try:
            return await self._exchange(job, reader, writer)
        finally:
            if self._kept is None:
                writer.close()

    async def _exchange(self, job: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody" % job)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length:" in line)
        body = await reader.readexactly(length)
        if self._keeps and b"connection: close" not in head.lower():
            self._kept = reader, writer
        return body if b" 200 " in head.split(b"\r\n")[0] else head

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to one that accepts: nothing was sent before, so a refusal costs nothing."""
        deadline = asyncio.get_running_loop().time() + SECONDS
        while True:
            self._addresses.append(self._addresses.pop(0))
            try:
                return await asyncio.open_connection(*self._addresses[0])
            except ConnectionRefusedError:
                assert asyncio.get_running_loop().time() < deadline


class Fleet:
    """Two routers with ports of their own, each of which can be restarted."""

    def __init__(self, directory: Path, variables: dict[str, str], stack: contextlib.ExitStack) -> None:
        self._directory = directory
        self._variables = variables
        self._stack = stack
        self.ports = [free_port(), free_port()]  # which nobody else gets while a router is away
        self.routers: dict[int, RouterProcess] = {}

    @property
    def addresses(self) -> list[Address]:
        return [("127.0.0.1", port) for port in self.ports]

    async def start(self, port: int) -> None:
        variables = self._variables | {"SHARED_REGISTRY_PORT": str(port)}
        command = self._stack.enter_context(running(self._directory, "--json", "serve", **variables))
        self.routers[port] = router = RouterProcess(command)
        await until(lambda: router.has_said("new sessions go to"), "the router is up")

    async def restart(self, port: int) -> None:
        router = self.routers[port]
        router.command.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(router.command.process.wait, SECONDS) == 0
        await self.start(port)


@pytest_asyncio.fixture(loop_scope="module")
async def replica() -> AsyncIterator[tuple[Replica, RawBackend]]:
    replica = Replica()
    async with RawBackend(replica.do) as backend:
        yield replica, backend


@pytest.mark.timeout(180)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("edge", ["", "nginx"])
async def test_no_post_is_lost_while_routers_restart_in_turn(
    server: EmbeddedServer,
    namespace: str,
    tmp_path: Path,
    replica: tuple[Replica, RawBackend],
    edge: str,
    workers: int,
) -> None:
    jobs, backend = replica
    settings = FAST | {"grace_seconds": 20, "workers": workers, "redis_url": server.url, "namespace": namespace}
    variables = {f"SHARED_REGISTRY_{name.upper()}": str(value) for name, value in settings.items()}
    variables["SHARED_REGISTRY_REPLICAS"] = backend.url
    async with contextlib.AsyncExitStack() as edges:
        with contextlib.ExitStack() as stack:
            fleet = Fleet(tmp_path, variables, stack)
            for port in fleet.ports:
                await fleet.start(port)
            addresses = fleet.addresses
            if edge:
                before = nginx_before(*addresses, folder=tmp_path, buffers=True, keeps=8)
                addresses = [await edges.enter_async_context(before)]
            clients = [
                Client(addresses, keeps=number % 3 > 0, pause=(0.01, 0.02, 0.3)[number % 3]) for number in range(12)
            ]
            stopped = asyncio.Event()
            load = [asyncio.create_task(client.run(stopped)) for client in clients]
            for _ in range(ROUNDS):
                for port in fleet.ports:
                    await fleet.restart(port)
            stopped.set()
            await asyncio.gather(*load)
            assert [failure for client in clients for failure in client.failures] == []
            answered = [job for client in clients for job in client.answered]
            assert len(answered) > 100
            assert jobs.done == Counter(answered)
            assert "Traceback" not in "".join(router.command.err for router in fleet.routers.values())
