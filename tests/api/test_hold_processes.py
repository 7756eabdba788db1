"""Leases that connections hold at router processes, whose clients and routers are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from tests.proxy.conftest import RouterProcess, StartProcess
from tests.support.backend import Backend
from tests.support.foreign import find_program
from tests.support.until import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(180)]
MOST = 100
GRACE_SECONDS = 5.0
SECONDS = 60.0
MANY = 1000
MOST_BYTES_EACH = 60_000


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MANY
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Hold:
    """One connection that holds a lease."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.lease: dict[str, Any] = {}

    @classmethod
    async def open(cls, router: RouterProcess, query: str) -> Self:
        """Hold a lease. The status is in `lease` where it is refused."""
        address = urlsplit(router.admin_url)
        hold = cls(*await asyncio.open_connection(address.hostname, address.port))
        request = f"GET /v1/leases/hold?{query} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n"
        hold._writer.write(request.encode())
        async with asyncio.timeout(SECONDS):
            status = int((await hold._reader.readline()).split()[1])
            hold.lease = {"status": status}
            while status == 200:
                line = await hold._reader.readline()
                assert line, "the stream has ended"
                if line.startswith(b"data: "):
                    found = json.loads(line[6:])
                    if "position" not in found:
                        hold.lease |= found
                        break
        return hold

    async def ended(self) -> None:
        """Wait for the end of the connection."""
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                while await self._reader.read(65_536):
                    pass

    def close(self) -> None:
        self._writer.close()


async def in_flight(router: RouterProcess) -> int:
    async with httpx.AsyncClient(base_url=router.admin_url, trust_env=False, timeout=SECONDS) as admin:
        found: int = (await admin.get("/v1/replicas")).json()["replicas"][0]["in_flight"]
        return found


async def is_refused(router: RouterProcess) -> bool:
    hold = await Hold.open(router, "request_id=another")
    hold.close()
    return bool(hold.lease["status"] == 503)


async def give_capacity(router: RouterProcess, backend: Backend, capacity: int) -> None:
    async with httpx.AsyncClient(base_url=router.admin_url, trust_env=False, timeout=SECONDS) as admin:
        answer = await admin.put(f"/v1/replicas/{backend.url}", json={"capacity": capacity})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_holds_of_a_router_that_ends_are_all_taken_over(
    start_process: StartProcess, backend: Backend, end: signal.Signals
) -> None:
    settings: dict[str, Any] = {"admin_port": 0, "admin_access": "operate", "hold_grace_seconds": GRACE_SECONDS}
    one = await start_process(backend.url, **settings)
    two = await start_process(backend.url, **settings)
    await give_capacity(one, backend, MOST)
    held = [await Hold.open(one, f"request_id={number}") for number in range(MOST)]
    worst = 0

    async def watch() -> None:
        nonlocal worst
        while True:
            worst = max(worst, await in_flight(two))
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    one.command.process.send_signal(end)

    async def go_on(number: int) -> Hold:
        await held[number].ended()
        held[number].close()
        return await Hold.open(two, f"request_id={number}&resume=true")

    again = await asyncio.gather(*(go_on(number) for number in range(MOST)))
    assert [hold.lease.get("id") for hold in again] == [hold.lease["id"] for hold in held]
    assert await is_refused(two)
    await until(lambda: one.command.process.poll() is not None, "the router has ended", SECONDS)
    three = await start_process(backend.url, **settings)  # it is restarted, and gets half of them back
    moved = await asyncio.gather(
        *(Hold.open(three, f"request_id={number}&resume=true") for number in range(0, MOST, 2))
    )
    assert [hold.lease.get("id") for hold in moved] == [hold.lease["id"] for hold in held[::2]]
    assert await is_refused(three)
    for hold in again[::2]:
        await hold.ended()
    await asyncio.sleep(GRACE_SECONDS + 1.0)  # those who were left may not end what was taken over
    assert await in_flight(two) == MOST
    for hold in (*again, *moved):
        hold.close()

    async def is_free() -> bool:
        return await in_flight(two) == 0

    await until(is_free, "all slots are free")
    watching.cancel()
    assert worst == MOST


async def test_a_killed_client_frees_its_slot_within_the_grace(start_process: StartProcess, backend: Backend) -> None:
    grace = 1.0
    router = await start_process(backend.url, admin_port=0, admin_access="operate", hold_grace_seconds=grace)
    took = []
    for number in range(3):
        process = await asyncio.create_subprocess_exec(
            *(find_program("curl"), "--silent", "--noproxy", "*", "--no-buffer"),
            f"{router.admin_url}/v1/leases/hold?request_id={number}",
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            await process.stdout.readuntil(b"event: lease")

        async def is_count(count: int) -> bool:
            return await in_flight(router) == count

        await until(lambda: is_count(1), "the lease counts")
        began = time.monotonic()
        process.kill()
        await process.wait()
        await until(lambda: is_count(0), "its slot is free")
        took.append(time.monotonic() - began)
    assert min(took) <= grace + 3.0  # a busy machine may be late, but not each time
    assert min(took) >= grace - 0.3  # what a router shows of loads is a moment old


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_thousand_holds_need_little_memory(
    start_process: StartProcess, backend: Backend, many_files: None
) -> None:
    router = await start_process(backend.url, admin_port=0, admin_access="lease")
    warm = [await Hold.open(router, "") for _ in range(10)]
    before = resident(router)
    held = []
    for _ in range(MANY // 50):
        held += await asyncio.gather(*(Hold.open(router, "") for _ in range(50)))
    assert {hold.lease["status"] for hold in held} == {200}
    used = resident(router) - before
    assert used < MANY * MOST_BYTES_EACH, f"{used / 1e6:.1f} MB"
    for hold in (*warm, *held):
        hold.close()

    async def is_free() -> bool:
        return await in_flight(router) == 0

    await until(is_free, "all slots are free", SECONDS)


def resident(router: RouterProcess) -> int:
    text = Path(f"/proc/{router.command.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS"))
