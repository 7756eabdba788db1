"""Who may call the API, and what its refusals say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
TOKENS = {right: f"sk-{right}-0123456789" for right in ("read", "lease", "announce", "operate")}
CALLS = [
    ("GET", "/v1/replicas", "read"),
    ("GET", "/v1/select", "read"),
    ("GET", "/status", "read"),
    ("GET", "/metrics", "read"),
    ("POST", "/v1/leases", "lease"),
    ("POST", "/v1/leases/x/renew", "lease"),
    ("DELETE", "/v1/leases/x", "lease"),
    ("GET", "/v1/routers", "read"),
    ("GET", "/v1/queue", "read"),
    ("GET", "/v1/events", "read"),
    ("PUT", "/v1/announcements/x", "announce"),
    ("POST", "/v1/announcements/x/heartbeat", "announce"),
    ("DELETE", "/v1/announcements/x", "announce"),
    ("PUT", "/v1/replicas/x", "operate"),
    ("DELETE", "/v1/replicas/x", "operate"),
    ("POST", "/v1/replicas/x/drain", "operate"),
    ("POST", "/v1/replicas/x/disable", "operate"),
    ("POST", "/v1/replicas/x/enable", "operate"),
]


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


def lines() -> list[str]:
    return [f"{right}: {token} {right}" for right, token in TOKENS.items()]


@pytest.mark.parametrize("access", ["none", "read", "lease", "announce", "operate"])
async def test_each_call_needs_its_right(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, access: str
) -> None:
    admin = admin_of(await start_with_admin(backend.url, admin_tokens=lines(), admin_access=access))
    order = ["none", "read", "lease", "announce", "operate"]
    for method, path, right in CALLS:
        for name, token in {**TOKENS, "": ""}.items():
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = await admin.request(method, path, headers=headers)
            is_allowed = order.index(access) >= order.index(right) or right == name or (bool(name) and right == "read")
            assert (answer.status_code in (401, 403)) != is_allowed, (method, path, name, answer.text)
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json().keys() == {"type", "code", "title", "status", "detail", "remedy"}
            await end(admin, answer)
    for page in ("/healthz", "/readyz"):
        assert (await admin.get(page)).status_code == 200


async def end(admin: httpx.AsyncClient, answer: httpx.Response) -> None:
    if answer.status_code == 200 and answer.request.url.path == "/v1/leases":
        headers = {"Authorization": f"Bearer {TOKENS['lease']}"}
        assert (await admin.delete(f"/v1/leases/{answer.json()['id']}", headers=headers)).status_code == 204


async def test_unknown_tokens_are_refused_everywhere(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, admin_tokens=lines(), admin_access="operate"))
    for given in (b"Bearer x", b"Bearer", b"Basic eDp5", b"Bearer \xe9", b"\xff"):
        answer = await admin.get("/v1/replicas", headers=[(b"authorization", given)])
        assert answer.status_code == 401, given


async def test_the_clients_port_has_no_api(start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend) -> None:
    router = await start_with_admin(backend.url, admin_access="operate")
    await router.http.post("/v1/leases", json={})
    assert [scope["path"] for scope in backend.scopes][-1] == "/v1/leases"
    assert router.router.pools[""].registry.lease_count == 0


async def test_pages_of_other_sites_cannot_call(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, admin_access="operate"))
    answer = await admin.get("/v1/select", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


async def test_a_changed_file_of_tokens_is_used(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text("ops: sk-old-0123456789 lease\n")
    admin = admin_of(await start_with_admin(backend.url, admin_tokens_file=str(file)))

    async def status(token: str) -> int:
        answer = await admin.delete("/v1/leases/x", headers={"Authorization": f"Bearer {token}"})
        return answer.status_code

    assert await status("sk-old-0123456789") == 410
    file.write_text("ops: sk-new-0123456789 lease\n")

    async def is_used() -> bool:
        return await status("sk-new-0123456789") == 410

    await until(is_used, "the new token is used")
    assert await status("sk-old-0123456789") == 401


async def test_a_client_that_calls_too_often_is_refused(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_registry.api.access.MOST_CALLS", 5.0)
    monkeypatch.setattr("shared_registry.api.access.CALLS_A_SECOND", 0.0001)
    admin = admin_of(await start_with_admin(backend.url))
    statuses = [(await admin.get("/v1/select")).status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    assert (await admin.get("/status")).status_code == 200


TWICE = b'{"url": "http://127.0.0.9:1", "instance": "abcdefgh", "labels": {"b": "1", "b": "2"}}'
BROKEN: list[tuple[dict[str, Any], int]] = [
    ({"content": b"{"}, 400),
    ({"content": b"[]"}, 400),
    ({"content": b'{"ttl_seconds": "5"}'}, 400),
    ({"content": b'{"ttl_seconds": 0}'}, 400),
    ({"content": b'{"ttl_seconds": NaN}'}, 400),
    ({"content": b'{"ttl_seconds": 1e999}'}, 400),
    ({"content": b'{"unknown": 1}'}, 400),
    ({"content": b'{"session": "\\ud800"}'}, 400),
    ({"content": b'{"session": "a\\u0000b"}'}, 400),
    ({"content": b'{"session": "\xff"}'}, 400),
    ({"content": b'{"exclude": ["http://127.0.0.9:1"]}'}, 404),
    ({"content": b'{"exclude": [""]}'}, 400),
    ({"content": b'{"exclude": ["http://a b"]}'}, 400),
    ({"content": b" " * 70_000}, 413),
    ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
    ({"content": b'{"request_id": "a", "request_id": "b"}'}, 400),
    ({"params": {"pool": "x"}, "content": b"{}"}, 404),
    ({"params": {"nothing": "x"}, "content": b"{}"}, 400),
    ({"params": [("pool", ""), ("pool", "")], "content": b"{}"}, 400),
]


async def test_malformed_calls_get_problems(start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend) -> None:
    admin = admin_of(await start_with_admin(backend.url, admin_access="operate"))
    for broken, status in BROKEN:
        request = {"headers": {"Content-Type": "application/json"}, **broken}
        answer = await admin.post("/v1/leases", **request)
        assert answer.status_code == status, (broken, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["remedy"]
    long = (await admin.post("/v1/leases", json={"z" * 60_000: 1})).json()
    assert (len(long["field"]), long["remedy"]) == (64, "remove it, or correct its name; /docs describes each call")
    twice = (await admin.put("/v1/announcements/a", content=TWICE, headers={"Content-Type": "application/json"})).json()
    assert (twice["field"], twice["remedy"]) == ("b", "send it once")
    wrong = await admin.put("/v1/leases")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (await admin.get("/v1/elsewhere")).status_code == 404
