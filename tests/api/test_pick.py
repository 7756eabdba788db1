"""`/v1/pick`: the replica that a proxy should use, in headers."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import pytest_asyncio

from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import RunningRouter, StartRouter, all_healthy
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]


@pytest_asyncio.fixture(loop_scope="module")
async def backends() -> AsyncIterator[tuple[str, str]]:
    async with Backend() as one, Backend() as two:
        yield one.url, two.url


async def test_pick_names_the_replica_that_select_returns(
    start_with_admin: StartRouter, admin_of: AdminOf, backends: tuple[str, str]
) -> None:
    router = await start_with_admin(*backends)
    admin = admin_of(router)
    answer = await admin.get("/v1/pick")
    assert answer.status_code == 200
    assert answer.headers["x-replica-url"] == answer.json()["url"] == backends[0]
    assert f"http://{answer.headers['x-replica']}" == backends[0]
    registry = router.router.pools[""].registry
    await registry.drain(backends[0])
    assert (await admin.get("/v1/pick")).headers["x-replica-url"] == backends[1]
    await registry.disable(backends[1])
    answer = await admin.get("/v1/pick")
    assert (answer.status_code, answer.json()["code"]) == (503, "no_healthy_replica")
    assert "x-replica-url" not in answer.headers


async def test_equal_keys_get_the_same_replica_at_each_router(
    start_with_admin: StartRouter, admin_of: AdminOf, backends: tuple[str, str]
) -> None:
    both = [ReplicaEndpoint(url) for url in backends]
    routers = [await start_with_admin(replicas=both, is_awaited=False) for _ in range(2)]
    for router in routers:
        await until(functools.partial(all_healthy, router, 2), "both replicas are healthy")
    found: Counter[str] = Counter()
    for at in range(40):
        ways = [
            await admin_of(routers[0]).get(f"/v1/pick?policy=hash&key=user-{at}"),
            await admin_of(routers[1]).get("/v1/pick?policy=hash", headers={"X-Session-Key": f"user-{at}"}),
        ]
        chosen = {way.headers["x-replica-url"] for way in ways}
        assert len(chosen) == 1
        found.update(chosen)
    assert set(found) == set(backends)


async def test_pick_refuses_what_it_cannot_use(
    start_with_admin: StartRouter, admin_of: AdminOf, backends: tuple[str, str], namespace: str
) -> None:
    pools = [{"name": "a", "namespace": f"{namespace}.a", "replicas": [backends[0]]}]
    admin = admin_of(await start_with_admin(is_awaited=False, pools=pools, replicas=[]))
    for query, status in (
        ("?pool=b", 404),
        ("", 404),
        ("?pool=a&policy=none", 400),
        (f"?pool=a&key={'x' * 4097}", 400),
    ):
        answer = await admin.get(f"/v1/pick{query}")
        assert answer.status_code == status, query
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await admin.post("/v1/pick?pool=a")).status_code == 405


async def test_the_clients_port_offers_neither_pick_nor_discovery(
    start_with_admin: StartRouter, backends: tuple[str, str]
) -> None:
    router = await start_with_admin(*backends)
    assert "x-replica-url" not in (await router.http.get("/v1/pick")).headers  # it went to a replica
    assert "version_info" not in (await router.http.post("/v3/discovery:endpoints", json={})).text
