"""The admin address: its pages, who may read them, where it listens, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import pytest_asyncio

from tests.proxy.conftest import SECONDS, RouterProcess, RunningRouter, StartProcess, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def test_the_pages_are_those_of_the_clients_port(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(backend.url)
    admin = admin_of(router)
    for page in ("/healthz", "/readyz", "/status"):
        ours, theirs = await admin.get(page), await router.http.get(page)
        assert ours.status_code == theirs.status_code == 200
        assert ours.json().keys() == theirs.json().keys()
        assert (await admin.head(page)).content == b""
        assert (await admin.post(page)).status_code == 405
    assert (await admin.get("/status")).json()["replicas"][0]["url"] == backend.url
    assert (await admin.get("/elsewhere")).status_code == 404
    assert backend.scopes == []


async def test_a_router_with_pools_shows_all_of_them(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, namespace: str
) -> None:
    pools = [{"name": name, "namespace": f"{namespace}.{name}", "replicas": [backend.url]} for name in ("a", "b")]
    router = await start_with_admin(is_awaited=False, pools=pools, replicas=[])
    assert (await admin_of(router).get("/status")).json()["pools"].keys() == {"a", "b"}


REQUESTS: list[tuple[dict[str, str], int]] = [
    ({"Host": "localhost:1"}, 200),
    ({"Host": "127.0.0.1"}, 200),
    ({"Host": "[::1]:10000"}, 200),
    ({"Host": socket.gethostname()}, 200),
    ({"Host": "ROUTER-1.example.com:10000"}, 200),
    ({"Host": "x.localhost"}, 200),
    ({"Host": "evil.example"}, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403),
    ({"Host": "localhost.evil.example"}, 403),
    ({"Host": "evil"}, 403),
    ({"Host": ""}, 403),
    ({"Host": "["}, 403),
    ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
    ({"Host": "localhost:1", "Origin": "https://evil.example"}, 403),
    ({"Host": "localhost:1", "Origin": "null"}, 403),
]


async def test_pages_of_other_sites_cannot_read_it(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, admin_names="router-1.example.com"))
    for headers, status in REQUESTS:
        answer = await admin.get("/status", headers=headers)
        assert answer.status_code == status, headers
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        if status == 403:
            assert "admin_names" in answer.text or "other origins" in answer.text


async def test_it_can_be_switched_off(start_with_admin: StartRouter, backend: Backend) -> None:
    router = await start_with_admin(backend.url, admin_port="off")
    assert router.admin_url == ""
    assert (await router.http.get("/status")).status_code == 200


async def test_a_process_with_workers_serves_each_and_stops(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url, admin_port="auto", workers=2)

    def urls() -> list[str]:
        return [str(line["admin_url"]) for line in router.lines if "admin_url" in line]

    await until(lambda: len(urls()) == 2, "both workers have said where")
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http:
        statuses = [(await http.get(f"{url}/status")).json() for url in urls()]
    assert {status["worker"] for status in statuses} == {1, 2}
    await _end(router)


async def test_clients_that_stay_do_not_delay_the_stop(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url, admin_port=0)
    url = httpx.URL(next(str(line["admin_url"]) for line in router.lines if "admin_url" in line))
    async with contextlib.AsyncExitStack() as stack:
        for text in (b"", b"GET /status HTTP/1.1\r\n", b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000):
            _, writer = await asyncio.open_connection(url.host, url.port)
            stack.callback(writer.close)
            writer.write(text)
        await _end(router)
    assert "Traceback" not in router.command.err


async def _end(router: RouterProcess) -> None:
    """Ask a process to stop, and wait until it has, within the time limit of `until`."""
    router.command.process.terminate()
    await until(lambda: router.command.process.poll() is not None, "the process has ended")
    assert router.command.process.poll() == 0, router.command.err
