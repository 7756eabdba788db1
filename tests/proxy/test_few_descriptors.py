"""A router process with far fewer descriptors than clients: it refuses some, and stays what it is to the cluster."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.proxy.conftest import SECONDS, RouterProcess, RunningRouter, StartProcess, StartRouter
from tests.support.backend import Backend
from tests.support.programs import free_port
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

FEW = 128
FITTING = FEW // 4
"""Half of so few is kept for other things, and a session takes two."""
LEADS_ON: dict[str, Any] = {"lease_seconds": 60.0}
"""Lets the first router lead, however long the machine pauses it."""
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="module")
async def clients() -> AsyncIterator[list[Stream]]:
    """Connections to be closed in the end."""
    opened: list[Stream] = []
    yield opened
    for _, writer in opened:
        writer.transport.abort()


async def knock(router: RouterProcess, sent: bytes = b"") -> Stream:
    stream = await asyncio.open_connection("127.0.0.1", httpx.URL(router.url).port)
    stream[1].write(sent)
    return stream


async def answer(reader: asyncio.StreamReader, seconds: float = SECONDS) -> str:
    """Return the answer that a client gets: none if it still waits, gone if it was cut off."""
    try:
        line = await asyncio.wait_for(reader.readline(), seconds)
    except TimeoutError:
        return "none"
    except ConnectionError:
        return "gone"
    return line.split()[1].decode() if line else "gone"


async def answers(clients: list[Stream], seconds: float) -> Counter[str]:
    """Return how many clients got which answer."""
    return Counter(await asyncio.gather(*(answer(reader, seconds) for reader, _ in clients)))


async def page(router: RouterProcess, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        return await http.get(path)


async def works(router: RouterProcess, other: RunningRouter, *, seconds: float) -> None:
    """Assert over some time that a router is alive, leads, has Redis, and finds its replicas healthy."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        assert (await page(router, "/healthz")).status_code == 200
        assert (await page(router, "/readyz")).status_code == 200
        status = (await page(router, "/status")).json()
        assert (status["is_leader"], status["is_stale"]) == (True, False)
        assert status["age_seconds"] < SECONDS
        assert [replica["status"] for replica in (await other.status())["replicas"]] == ["healthy"]
        await asyncio.sleep(0.1)


def descriptors_of(router: RouterProcess) -> int:
    return len(list(Path(f"/proc/{router.command.process.pid}/fd").iterdir()))


async def test_the_soft_limit_is_raised(start_process: StartProcess) -> None:
    router = await start_process(open_files="-Sn 200")
    soft, hard = resource.prlimit(router.command.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard > 200


async def test_a_router_full_of_sessions_stays_alive(
    start_process: StartProcess, start_router: StartRouter, backend: Backend, clients: list[Stream]
) -> None:
    router = await start_process(backend.url, open_files=f"-n {FEW}", access_log="json", **LEADS_ON)
    other = await start_router(backend.url, **LEADS_ON)
    clients += [await knock(router, b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(2 * FEW)]

    async def are_sorted() -> bool:
        return bool((await page(router, "/status")).json()["sessions"] == FITTING)

    await until(are_sorted, "sessions run")
    await works(router, other, seconds=3)
    assert descriptors_of(router) < FEW
    with pytest.raises(InvalidStatus) as caught:
        await connect(f"{router.ws}/v1/stream", proxy=None)
    assert (caught.value.response.status_code, caught.value.response.headers["retry-after"]) == (503, "1")
    backend.go_on.set()
    found = await answers(clients, SECONDS)
    assert found["200"] == FITTING
    assert found["503"] + found["gone"] == 2 * FEW - FITTING
    assert found["503"] > found["gone"]
    for _, writer in clients:
        writer.close()

    async def is_served() -> bool:
        return (await page(router, "/served")).status_code == 200

    await until(is_served, "there is room again")
    assert sum("router: full" in line["message"] for line in router.lines) == 1
    await until(lambda: '"status":503' in router.command.out, "the refusals are in the access log")
    assert router.has_said("router: refused a request: 503 gpu_unavailable (this router has no room for more clients")
    assert "Traceback" not in router.command.err


async def test_clients_that_send_nothing_do_not_hide_its_health(
    start_process: StartProcess, start_router: StartRouter, backend: Backend, clients: list[Stream]
) -> None:
    router = await start_process(backend.url, open_files=f"-n {FEW}", header_timeout_seconds=60, **LEADS_ON)
    other = await start_router(backend.url, **LEADS_ON)
    clients += [await knock(router) for _ in range(3 * FEW)]
    await works(router, other, seconds=1)
    assert descriptors_of(router) < FEW
    assert (await page(router, "/served")).status_code == 503
    assert (await page(router, "/served")).headers["retry-after"] == "1"


@pytest.mark.parametrize("kind", ["admin_port", "agent_port"])
async def test_connections_to_other_ports_leave_clients_room(
    kind: str, start_process: StartProcess, start_router: StartRouter, backend: Backend, clients: list[Stream]
) -> None:
    port = free_port()
    settings = LEADS_ON | {"admin_port": "off", kind: port}
    router = await start_process(backend.url, open_files=f"-n {FEW}", **settings)
    other = await start_router(backend.url, **LEADS_ON)
    clients += [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * FEW)]
    await works(router, other, seconds=1)
    assert descriptors_of(router) < FEW
    assert (await page(router, "/served")).status_code == 200
    sessions = [await knock(router, b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(FEW)]
    clients += sessions
    answering = [asyncio.create_task(answer(reader)) for reader, _ in sessions]

    async def are_sorted() -> bool:
        running = (await page(router, "/status")).json()["sessions"]
        return bool(running + sum(one.done() for one in answering) == FEW)

    await until(are_sorted, "each runs or is refused")
    found = Counter(one.result() if one.done() else "none" for one in answering)
    assert found["none"] > 0
    assert found["503"] > 0
    await works(router, other, seconds=1)
    assert descriptors_of(router) < FEW
    assert "too many open files" not in router.command.err.lower()
    backend.go_on.set()
    await asyncio.gather(*answering)


async def test_idle_connections_make_room_for_new_clients(
    start_process: StartProcess, backend: Backend, clients: list[Stream]
) -> None:
    router = await start_process(backend.url, open_files=f"-n {FEW}")
    for _ in range(2 * FEW):
        reader, writer = await knock(router, b"GET /served HTTP/1.1\r\nHost: a\r\n\r\n")
        clients.append((reader, writer))
        assert (await asyncio.wait_for(reader.readline(), SECONDS)).split()[1] == b"200"
    assert descriptors_of(router) < FEW


async def test_a_router_without_any_descriptor_waits_for_one(
    start_process: StartProcess, backend: Backend, clients: list[Stream]
) -> None:
    router = await start_process(backend.url)
    process = router.command.process
    assert (await page(router, "/served")).status_code == 200
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (5, hard))
    clients += [await knock(router, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(20)]

    async def is_told() -> bool:
        return router.has_said("cannot accept clients")

    await until(is_told, "the router tells")
    before = cpu_seconds(process.pid)
    assert await answers(clients, 2.0) == {"none": 20}
    assert cpu_seconds(process.pid) - before < 1.0
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert await answers(clients, SECONDS) == {"200": 20}
    assert sum("cannot accept clients" in line["message"] for line in router.lines) == 1
    assert router.has_said("accepting clients again")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
