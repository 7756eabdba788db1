"""Replicas that are announced over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
TOKEN = "sk-announce-0123456789"
ANNOUNCE = {"Authorization": f"Bearer {TOKEN}"}
OPERATE = {"Authorization": "Bearer sk-operate-0123456789"}
SETTINGS: dict[str, Any] = {
    "admin_tokens": [f"pod: {TOKEN} announce", "ann: sk-operate-0123456789 operate"],
    "heartbeat_seconds": 0.2,
}
URL = "http://127.0.0.2:1"
PATH = "/v1/announcements/team/gpu-7"
ONE, TWO = "instance-1", "instance-2"


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def call(
    admin: httpx.AsyncClient, method: str, way: str = "", *, instance: str = ONE, **members: Any
) -> tuple[int, dict[str, Any]]:
    given = {"url": URL, "instance": instance, **members}
    request: dict[str, Any] = {"params": given} if method == "DELETE" else {"json": given}
    answer = await admin.request(method, PATH + way, headers=ANNOUNCE, **request)
    return answer.status_code, answer.json()


async def test_an_announcement_is_made_kept_and_withdrawn(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    one = admin_of(await start_with_admin(backend.url, **SETTINGS))
    two = admin_of(await start_with_admin(backend.url, **SETTINGS))
    for admin in (one, two):
        assert await call(admin, "PUT", capacity=2, owner="host-7") == (200, {"state": "held", "in_flight": None})
        assert await call(admin, "POST", "/heartbeat") == (200, {"state": "held", "in_flight": 0})
    shown = (await one.get(f"/v1/replicas/{URL}")).json()
    assert (shown["name"], shown["owner"], shown["capacity"], shown["source"]) == (
        "team/gpu-7",
        "host-7",
        2,
        "announced",
    )
    assert (await call(two, "DELETE", reason="done"))[1]["state"] == "removed"
    assert (await call(one, "POST", "/heartbeat"))[1]["code"] == "ended"
    assert (await call(one, "PUT"))[1]["code"] == "ended"
    assert (await call(one, "DELETE"))[0] == 404
    assert (await call(one, "PUT", instance=TWO))[0] == 200


async def test_another_instance_learns_who_holds_the_url(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    assert (await call(admin, "PUT", owner="host-7"))[0] == 200
    for method, way in (("PUT", ""), ("POST", "/heartbeat"), ("DELETE", "")):
        status, problem = await call(admin, method, way, instance=TWO)
        assert (status, problem["code"], problem["holder"]) == (409, "taken", "host-7")


async def test_an_encoded_name_may_end_like_a_path(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    path, given = "/v1/announcements/gpu%2Fheartbeat", {"url": URL, "instance": ONE}
    for method, way in (("PUT", ""), ("POST", "/heartbeat")):
        answer = await admin.request(method, path + way, headers=ANNOUNCE, json=given)
        assert (answer.status_code, answer.json()["state"]) == (200, "held")
    assert (await admin.get(f"/v1/replicas/{URL}")).json()["name"] == "gpu/heartbeat"
    assert (await admin.delete(path, headers=ANNOUNCE, params=given)).json()["state"] == "removed"


async def test_an_announcement_without_heartbeats_expires(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    assert (await call(admin, "PUT", ttl_seconds=5))[0] == 200

    async def is_gone() -> bool:
        return (await admin.get(f"/v1/replicas/{URL}")).status_code == 404

    await until(is_gone, "the replica has expired")
    assert (await call(admin, "POST", "/heartbeat"))[0] == 404
    assert (await call(admin, "PUT"))[0] == 200


async def test_other_replicas_are_not_announced(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    assert (await call(admin, "PUT", url=backend.url))[1]["code"] == "claimed"
    assert (await call(admin, "POST", "/heartbeat", url=backend.url))[1]["code"] == "claimed"
    assert (await call(admin, "PUT"))[0] == 200
    changed = await admin.put(f"/v1/replicas/{URL}", headers=OPERATE, json={"capacity": 9})
    assert (changed.status_code, changed.json()["code"]) == (409, "claimed")
    assert (await admin.delete(f"/v1/replicas/{URL}", headers=OPERATE)).status_code == 200
    assert (await call(admin, "POST", "/heartbeat"))[1]["code"] == "ended"


WRONG: list[dict[str, Any]] = [
    {"url": "http://127.0.0.2:1/path"},
    {"instance": "x"},
    {"instance": "a b c d e f"},
    {"ttl_seconds": 1},
    {"ttl_seconds": 5000},
    {"capacity": -1},
    {"owner": "  "},
    {"owner": "a\u2028b"},
    {"name": "other"},
]


async def test_wrong_announcements_get_problems_that_name_the_field(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    for wrong in WRONG:
        status, problem = await call(admin, "PUT", **wrong)
        assert (status, [problem["field"]]) == (400, list(wrong)), (wrong, problem)
    given = {"url": URL, "instance": ONE}
    for name in ("http:%2F%2Fa", "", "%20%20"):
        answer = await admin.put(f"/v1/announcements/{name}", headers=ANNOUNCE, json=given)
        assert (answer.status_code, answer.json()["field"]) == (400, "name"), name
