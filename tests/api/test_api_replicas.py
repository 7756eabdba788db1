"""Replicas that are registered, changed and taken out of service over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio

from shared_registry.registry.facade import SharedReplicaRegistry
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
TOKEN = "sk-operate-0123456789"
OPERATE = {"Authorization": f"Bearer {TOKEN}"}
SETTINGS: dict[str, Any] = {"admin_tokens": [f"ann: {TOKEN} operate lease"]}
OTHER = "http://127.0.0.2:1"


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


def registry_of(router: RunningRouter) -> SharedReplicaRegistry:
    return router.router.pools[""].registry


async def call(admin: httpx.AsyncClient, method: str, path: str, **request: Any) -> dict[str, Any]:
    answer = await admin.request(method, path, headers=OPERATE, **request)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_replica_is_registered_changed_and_removed(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(backend.url, **SETTINGS)
    admin = admin_of(router)
    path = f"/v1/replicas/{quote(OTHER, safe='')}"
    spec = {"name": "team/gpu-7", "capacity": 2, "labels": {"zone": "a"}}
    assert await call(admin, "PUT", path, json=spec) == {"url": OTHER, "name": "team/gpu-7", "outcome": "registered"}
    assert (await call(admin, "PUT", f"/v1/replicas/{OTHER}", json=spec))["outcome"] == "unchanged"
    assert (await call(admin, "PUT", "/v1/replicas/team/gpu-7", json={"weight": 2}))["outcome"] == "updated"
    shown = await call(admin, "GET", "/v1/replicas/team/gpu-7")
    assert (shown["weight"], shown["capacity"], shown["labels"]) == (2.0, 2, {"zone": "a"})
    removed = await call(admin, "DELETE", path, params={"reason": "broken fan"})
    assert (removed["outcome"], removed["sessions"]) == ("removed", 0)
    assert (await admin.delete(path, headers=OPERATE)).status_code == 404
    events = (await call(admin, "GET", "/v1/events"))["events"]
    [event] = [one for one in events if one["kind"] == "replica_deregistered"]
    assert (event["by"], event["reason"]) == ("ann", "broken fan")


async def test_a_replica_is_drained_disabled_and_enabled(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    await call(admin, "PUT", f"/v1/replicas/{OTHER}", json={"name": "spare"})
    for verb, outcome, state in (
        ("drain", "draining", "draining"),
        ("disable", "disabled", "disabled"),
        ("enable", "enabled", "active"),
    ):
        for expected in (outcome, "unchanged"):
            found = await call(admin, "POST", f"/v1/replicas/spare/{verb}", params={"reason": "upgrade"})
            assert found["outcome"] == expected
        shown = await call(admin, "GET", "/v1/replicas/spare")
        assert (shown["admin"], shown["admin_by"]) == (state, "ann")


async def test_the_last_replica_goes_by_force_only(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(backend.url, **SETTINGS)
    admin, path = admin_of(router), f"/v1/replicas/{backend.url}"
    lease = await call(admin, "POST", "/v1/leases", json={})

    async def is_counted() -> bool:
        return bool((await call(admin, "GET", path))["in_flight"])

    await until(is_counted, "the session counts")
    for method, way in (("DELETE", ""), ("POST", "/drain"), ("POST", "/disable")):
        refused = await admin.request(method, path + way, headers=OPERATE)
        assert (refused.status_code, refused.json()["code"]) == (409, "leaves_nothing")
        dry = await call(admin, method, path + way, params={"dry_run": True})
        assert (dry["sessions"], dry["left"], dry["is_dry_run"]) == (1, {"replicas": 0, "free_slots": 0}, True)
        assert registry_of(router).select() is not None
    forced = await call(admin, "DELETE", path, params={"force": True, "when_drained": True})
    assert (forced["outcome"], forced["is_dry_run"]) == ("draining", False)
    assert (await admin.delete(f"/v1/leases/{lease['id']}", headers=OPERATE)).status_code == 204

    async def is_gone() -> bool:
        return (await admin.get(path)).status_code == 404

    await until(is_gone, "the replica is removed with its last session")


@pytest.mark.parametrize("name", ["gpu/drain", "x/enable", "/disable", "a%2Fb", "gpü 7"])
async def test_encoded_names_may_end_like_paths(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, name: str
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    await call(admin, "PUT", f"/v1/replicas/{OTHER}", json={"name": name})
    path = f"/v1/replicas/{quote(name, safe='')}"
    assert (await call(admin, "GET", path))["name"] == name
    assert (await call(admin, "PUT", path, json={"weight": 2.0}))["outcome"] == "updated"
    assert (await call(admin, "POST", f"{path}/drain"))["outcome"] == "draining"
    assert (await call(admin, "DELETE", path))["outcome"] == "removed"
    answer = await admin.get(f"/v1/replicas/{OTHER}/drain")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("nobody", {}, 404, "replica"),
    ("http://127.0.0.2:1/path", {}, 400, "url"),
    ("ftp://127.0.0.2:1", {}, 400, "url"),
    (OTHER, {"weight": 0}, 400, "weight"),
    (OTHER, {"capacity": 1.5}, 400, "capacity"),
    (OTHER, {"capacity": True}, 400, "capacity"),
    (OTHER, {"labels": {"zone": "ä"}}, 400, "labels"),
    (OTHER, {"health_check_path": "health"}, 400, "health_check_path"),
    (OTHER, {"name": "\u2028"}, 400, "name"),
    (OTHER, {"colour": "red"}, 400, "colour"),
]


async def test_wrong_specs_get_problems_that_name_the_field(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    for replica, spec, status, field in WRONG:
        answer = await admin.put(f"/v1/replicas/{replica}", headers=OPERATE, json=spec)
        assert (answer.status_code, answer.json().get("field")) == (status, field), (replica, spec, answer.text)
    assert len((await call(admin, "GET", "/v1/replicas"))["replicas"]) == 1


async def test_a_name_is_given_once(start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    await call(admin, "PUT", f"/v1/replicas/{OTHER}", json={"name": "a"})
    answer = await admin.put("/v1/replicas/http://127.0.0.3:1", headers=OPERATE, json={"name": "a"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert OTHER in answer.json()["detail"]


async def test_routers_and_the_queue_are_shown(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(backend.url, **SETTINGS)
    admin = admin_of(router)
    [shown] = (await call(admin, "GET", "/v1/routers"))["routers"]
    assert shown["key"] == registry_of(router).router_key
    assert shown["is_live"]
    queue = await call(admin, "GET", "/v1/queue")
    assert (queue["depth"], queue["waiters"]) == (0, [])
