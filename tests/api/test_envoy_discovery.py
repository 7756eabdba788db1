"""Envoy's endpoint discovery: what it is told of each replica."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
PATH = "/v3/discovery:endpoints"
ASKED = {"resource_names": ["replicas"], "node": {"id": "a"}}


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def assigned(admin: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Return the endpoints of each priority, in order, each by its address."""
    answer = await admin.post(PATH, json=ASKED)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    (assignment,) = document["resources"]
    assert assignment["@type"] == document["type_url"]
    assert assignment["cluster_name"] == "replicas"
    assert [tier["priority"] for tier in assignment["endpoints"]] == list(range(len(assignment["endpoints"])))
    return [{_url(one): one for one in tier["lb_endpoints"]} for tier in assignment["endpoints"]]


def _url(endpoint: dict[str, Any]) -> str:
    address = endpoint["endpoint"]["address"]["socket_address"]
    return f"{address['address']}:{address['port_value']}"


async def test_tiers_weights_labels_and_states_are_passed_on(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    replicas = [
        ReplicaEndpoint(backend.url, primary=True, weight=2.5),
        ReplicaEndpoint("http://127.0.0.9:1", labels={"zone": "a"}, weight=0.001),
        ReplicaEndpoint("http://localhost:2"),
        ReplicaEndpoint("https://127.0.0.9"),
        ReplicaEndpoint("http://no-such-host.invalid:3"),
        ReplicaEndpoint("http://127.0.0.9:4"),
    ]
    router = await start_with_admin(replicas=replicas, is_awaited=False)
    registry, admin = router.router.pools[""].registry, admin_of(router)
    await until(registry.select, "a replica is healthy")
    await until(lambda: all(one.health.status.value != "unknown" for one in registry.all()), "all were probed")
    await registry.drain("http://127.0.0.9:4")
    primaries, others = await assigned(admin)
    ours = primaries.pop(backend.url.removeprefix("http://"))
    assert (ours["health_status"], ours["load_balancing_weight"]) == ("HEALTHY", 250)
    assert primaries == {}
    assert {url: one["health_status"] for url, one in others.items()} == {
        "127.0.0.9:1": "UNHEALTHY",
        "127.0.0.1:2": "UNHEALTHY",
        "127.0.0.9:443": "UNHEALTHY",
        "127.0.0.9:4": "DRAINING",
    }
    assert others["127.0.0.9:1"]["load_balancing_weight"] == 1
    assert others["127.0.0.9:1"]["metadata"] == {"filter_metadata": {"envoy.lb": {"zone": "a"}}}
    assert others["127.0.0.9:443"]["metadata"] == {"filter_metadata": {"envoy.transport_socket_match": {"tls": True}}}


async def test_without_primaries_there_is_one_priority(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(replicas=[ReplicaEndpoint(backend.url)], is_awaited=False)
    await until(router.router.pools[""].registry.select, "a replica is healthy")
    assert len(await assigned(admin_of(router))) == 1


async def test_a_version_lasts_until_something_changes(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    routers = [await start_with_admin(backend.url) for _ in range(2)]
    admins = [admin_of(router) for router in routers]
    version = (await admins[0].post(PATH, json=ASKED)).json()["version_info"]
    for admin in admins:  # whichever router Envoy asks
        for name in ("version_info", "versionInfo"):
            answer = await admin.post(PATH, json={**ASKED, name: version})
            assert (answer.status_code, answer.content) == (304, b"")
    await routers[0].router.pools[""].registry.drain(backend.url)

    async def has_changed() -> bool:
        return (await admins[1].post(PATH, json={**ASKED, "version_info": version})).status_code == 200

    await until(has_changed, "the other router answers another version")
    await routers[0].router.pools[""].registry.enable(backend.url)

    async def is_back() -> bool:
        return (await admins[1].post(PATH, json={**ASKED, "version_info": version})).status_code == 304

    await until(is_back, "the version is that of the same state again")


async def test_in_a_panic_unhealthy_replicas_are_degraded(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    async with Backend() as dying:
        router = await start_with_admin(backend.url, dying.url, panic_percent=100)
        admin = admin_of(router)
        assert [[one["health_status"] for one in tier.values()] for tier in await assigned(admin)] == [["HEALTHY"]] * 2

    async def is_degraded() -> bool:
        return [[one["health_status"] for one in tier.values()] for tier in await assigned(admin)] == [
            ["HEALTHY"],
            ["DEGRADED"],
        ]

    await until(is_degraded, "the replica that died is a spare one")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"resource_names": 1}',
        b'{"resource_names": [1]}',
        b'{"resource_names": ["a"], "version_info": 1}',
        b"[" * 60_000,
        b'{"resource_names": [' + b'"a",' * 100 + b'"a"]}',
        b'{"resource_names": ["\\ud800"]}',
        b'{"resource_names": ["\\ud83d"], "version_info": "\\udc00"}',
        b"\xff",
    ],
)
async def test_nonsense_is_refused(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, body: bytes
) -> None:
    admin = admin_of(await start_with_admin(backend.url))
    assert (await admin.post(PATH, content=body)).status_code == 400


async def test_only_clusters_that_are_pools_are_answered(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, namespace: str
) -> None:
    pools = [{"name": name, "namespace": f"{namespace}.{name}", "replicas": [backend.url]} for name in ("a", "b")]
    router = await start_with_admin(is_awaited=False, pools=pools, replicas=[])
    for pool in router.router.pools.values():
        await until(pool.registry.select, "a replica is healthy")
    answer = await admin_of(router).post(PATH, json={"resource_names": ["b", "elsewhere"]})
    assert [one["cluster_name"] for one in answer.json()["resources"]] == ["b"]
    assert (await admin_of(router).get(PATH)).status_code == 405


async def test_requests_as_long_as_those_of_envoy_are_read(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(backend.url)
    body = json.dumps({**ASKED, "node": {"extensions": ["x" * 100] * 1000}}).encode()
    url = httpx.URL(router.admin_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode())
    for at in range(0, len(body), 10_000):  # in pieces, as over a network
        writer.write(body[at : at + 10_000])
        await writer.drain()
        await asyncio.sleep(0.01)
    assert (await asyncio.wait_for(reader.read(), SECONDS)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_request_that_breaks_off_is_no_fault(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    router = await start_with_admin(backend.url)
    admin = admin_of(router)
    with contextlib.suppress(httpx.TransportError):
        await admin.post(PATH, content=b" " * 3_000_000)
    url = httpx.URL(router.admin_url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{{".encode())
    await writer.drain()
    writer.transport.abort()
    assert (await admin.post(PATH, json=ASKED)).status_code == 200
    assert "Exception" not in caplog.text
