"""Leases with a time to live: acquired, renewed and ended over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.faulty_proxy import FaultyProxy
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
TOKEN = "sk-lease-0123456789"
LEASE = {"Authorization": f"Bearer {TOKEN}"}
SETTINGS: dict[str, Any] = {"admin_tokens": [f"go: {TOKEN} lease"], "hold_grace_seconds": 0.3}


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def in_flight(admin: httpx.AsyncClient) -> int:
    found: int = (await admin.get("/v1/replicas")).json()["replicas"][0]["in_flight"]
    return found


async def test_a_lease_is_acquired_renewed_and_ended(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(backend.url, **SETTINGS)
    admin = admin_of(router)
    answer = await admin.post("/v1/leases", headers=LEASE, json={"request_id": "a", "session": "anna"})
    assert answer.status_code == 200, answer.text
    lease = answer.json()
    assert lease["url"] == backend.url
    assert (lease["ttl_seconds"], lease["request_id"]) == (60.0, "a")
    again = await admin.post("/v1/leases", headers=LEASE, json={"request_id": "a", "session": "anna"})
    assert again.json() == lease
    path = f"/v1/leases/{lease['id']}"
    renewed = await admin.post(f"{path}/renew", headers=LEASE, json={"ttl_seconds": 50})
    assert renewed.json() == {**lease, "request_id": None, "ttl_seconds": 50.0}
    await until(lambda: is_count(admin, 1), "the lease counts")
    ended = await admin.delete(path, headers=LEASE, params={"outcome": "failed", "reason": "it hung"})
    assert (ended.status_code, ended.content) == (204, b"")
    await until(lambda: is_count(admin, 0), "the slot is free")
    for answer in (await admin.delete(path, headers=LEASE), await admin.post(f"{path}/renew", headers=LEASE)):
        assert answer.status_code == 410
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "ended"


async def is_count(admin: httpx.AsyncClient, count: int) -> bool:
    return await in_flight(admin) == count


async def test_a_lease_that_is_not_renewed_ends(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    lease = (await admin.post("/v1/leases", headers=LEASE, json={})).json()
    assert lease["request_id"]
    await until(lambda: is_count(admin, 1), "the lease counts")
    path = f"/v1/leases/{lease['id']}/renew"
    assert (await admin.post(path, headers=LEASE, json={"ttl_seconds": 1})).status_code == 200
    await until(lambda: is_count(admin, 0), "the slot is free")


async def test_any_router_renews_and_ends_a_lease(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    one = admin_of(await start_with_admin(backend.url, **SETTINGS))
    two = admin_of(await start_with_admin(backend.url, **SETTINGS))
    wanted = {"request_id": "b"}
    lease = (await one.post("/v1/leases", headers=LEASE, json=wanted)).json()
    for admin in (two, one, two):
        renewed = await admin.post(f"/v1/leases/{lease['id']}/renew", headers=LEASE)
        assert renewed.status_code == 200
        assert renewed.json()["url"] == lease["url"]
    assert (await one.post("/v1/leases", headers=LEASE, json=wanted)).json()["id"] == lease["id"]
    await until(lambda: is_count(one, 1), "there is one lease")
    assert (await two.delete(f"/v1/leases/{lease['id']}", headers=LEASE)).status_code == 204
    await until(lambda: is_count(one, 0), "the slot is free")


async def test_a_client_that_leaves_the_queue_leaves_no_lease(
    start_with_admin: StartRouter, admin_of: AdminOf, namespace: str
) -> None:
    async with Backend() as backend:
        replicas = [ReplicaEndpoint(backend.url, capacity=1)]
        router = await start_with_admin(is_awaited=False, replicas=replicas, **SETTINGS)
        admin = admin_of(router)
        await until(lambda: router.router.pools[""].registry.select() is not None, "the replica is healthy")
        await until(lambda: is_ready(admin), "the router is ready")
        first = (await admin.post("/v1/leases", headers=LEASE, json={})).json()
        refused = await admin.post("/v1/leases", headers=LEASE, json={})
        assert (refused.status_code, refused.json()["code"]) == (503, "saturated")
        assert refused.headers["retry-after"]
        waiting = asyncio.create_task(admin.post("/v1/leases", headers=LEASE, json={"timeout_seconds": 60}))
        registry = router.router.pools[""].registry
        await until(lambda: is_depth(registry, 1), "a client waits")
        waiting.cancel()
        await until(lambda: is_depth(registry, 0), "nobody waits")
        assert (await admin.delete(f"/v1/leases/{first['id']}", headers=LEASE)).status_code == 204
        await until(lambda: is_count(admin, 0), "no slot is taken")


async def is_ready(admin: httpx.AsyncClient) -> bool:
    return (await admin.get("/readyz")).status_code == 200


async def is_depth(registry: Any, depth: int) -> bool:
    found: int = await registry.queue_depth()
    return found == depth


async def test_only_so_many_leases_are_given(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS, max_api_leases=1))
    wanted = {"request_id": "a"}
    assert (await admin.post("/v1/leases", headers=LEASE, json=wanted)).status_code == 200
    refused = await admin.post("/v1/leases", headers=LEASE, json={})
    assert (refused.status_code, refused.json()["code"]) == (503, "no_room")
    assert (await admin.post("/v1/leases", headers=LEASE, json=wanted)).status_code == 200


async def test_a_client_that_leaves_has_told_the_outcome(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, server: EmbeddedServer
) -> None:
    await start_with_admin(backend.url, **SETTINGS)
    async with FaultyProxy(server.port) as proxy:
        settings = {**SETTINGS, "redis_url": proxy.url, "redis_timeout_seconds": 5.0}
        router = await start_with_admin(backend.url, **settings)
        admin, leases = admin_of(router), router.router.pools[""].registry.movable_leases
        lease_id = (await admin.post("/v1/leases", headers=LEASE, json={})).json()["id"]
        proxy.delay_seconds = 0.2
        ending = admin.delete(f"/v1/leases/{lease_id}", headers=LEASE, params={"outcome": "failed"})
        leaving = asyncio.create_task(ending)
        await until(lambda: leases.get(lease_id) is None, "the lease is being ended")
        leaving.cancel()
        proxy.delay_seconds = 0.0

        async def is_known() -> bool:
            events = (await admin.get("/v1/events")).json()["events"]
            return "replica_reported" in [event["kind"] for event in events]

        await until(is_known, "the outcome counts")
