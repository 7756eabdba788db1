"""Browsers: what scripts of other origins may read, preflights, and WebSockets that pages of other origins open."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE, FOREIGN = "https://app.example.com", "https://evil.example.com"
OF_PAGE = {"Origin": PAGE}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
KEY = "sk-geheim0123456789"


@pytest_asyncio.fixture(loop_scope="module")
async def replica() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


def cors_of(response: httpx.Response) -> list[tuple[str, str]]:
    names = [(name.lower(), value) for name, value in response.headers.multi_items()]
    return sorted(pair for pair in names if pair[0].startswith("access-control-") or pair[0] == "vary")


def replying(status: int, *headers: tuple[str, str]) -> str:
    return "/answer?" + urlencode({"status": status, "headers": json.dumps(headers)})


ALLOWED = [
    ("access-control-allow-credentials", "true"),
    ("access-control-allow-origin", PAGE),
    ("access-control-expose-headers", "retry-after, x-request-id"),
    ("vary", "Origin"),
]
ANYBODY = [
    ("access-control-allow-origin", "*"),
    ("access-control-expose-headers", "retry-after, x-request-id"),
]
NOBODY = [("vary", "Origin")]


@pytest.mark.parametrize(
    ("origins", "headers", "expected"),
    [
        ([PAGE], OF_PAGE, ALLOWED),
        ([PAGE.upper() + ":443", FOREIGN + ":1"], OF_PAGE, ALLOWED),
        ([PAGE], {"Origin": FOREIGN}, NOBODY),
        ([PAGE], {"Origin": "null"}, NOBODY),
        ([PAGE], {"Origin": PAGE + ".evil.com"}, NOBODY),
        ([PAGE], {"Origin": PAGE + ":8443"}, NOBODY),
        ([PAGE], {"Origin": PAGE.replace("https", "http")}, NOBODY),
        ([PAGE], {}, NOBODY),
        ("*", OF_PAGE, ANYBODY),
        ("*", {}, ANYBODY),
    ],
)
async def test_the_right_pages_may_read_every_response(
    start_router: StartRouter, replica: Backend, origins: Any, headers: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    routes = [{"path": "/denied", "place": "none"}, {"path": "/*", "place": "lease"}]
    router = await start_router(replica.url, cors_origins=origins, routes=routes)
    for path, status in (("/who", 200), (replying(404), 404), ("/denied", 403), ("/status", 200), ("/metrics", 404)):
        response = await router.http.get(path, headers=headers)
        assert (response.status_code, cors_of(response)) == (status, expected), path


async def test_a_page_reads_why_a_full_fleet_refuses_it(start_router: StartRouter) -> None:
    router = await start_router(is_awaited=False, cors_origins=[PAGE])
    response = await router.http.post("/v1/completions", headers=OF_PAGE)
    assert (response.status_code, cors_of(response)) == (503, ALLOWED)
    assert "retry-after" in response.headers


async def test_what_a_replica_says_is_replaced(start_router: StartRouter, replica: Backend) -> None:
    router = await start_router(replica.url, cors_origins=[PAGE])
    said = [
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Origin", FOREIGN),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "x-tokens"),
        ("Vary", "Accept-Encoding"),
    ]
    response = await router.http.get(replying(200, *said), headers=OF_PAGE)
    exposed = ("access-control-expose-headers", "retry-after, x-request-id, x-tokens")
    assert cors_of(response) == sorted([*ALLOWED[:2], exposed, ("vary", "Accept-Encoding"), ("vary", "Origin")])
    response = await router.http.get(replying(200, *said), headers={"Origin": FOREIGN})
    assert cors_of(response) == [("vary", "Accept-Encoding"), ("vary", "Origin")]


async def test_without_the_setting_replicas_decide(start_router: StartRouter, replica: Backend) -> None:
    router = await start_router(replica.url)
    response = await router.http.get(replying(200, ("Access-Control-Allow-Origin", "*")), headers=OF_PAGE)
    assert cors_of(response) == [("access-control-allow-origin", "*")]
    assert cors_of(await router.http.get("/status", headers=OF_PAGE)) == []
    assert (await router.http.options("/who", headers=OF_PAGE | PREFLIGHT)).json()["method"] == "OPTIONS"
    async with connect(f"{router.ws}/v1/stream", origin=Origin(FOREIGN), proxy=None):
        pass


@pytest.mark.parametrize(("origins", "allowed"), [([PAGE], PAGE), ("*", "*")])
async def test_preflights_need_neither_replica_nor_slot_nor_key(
    start_router: StartRouter, origins: Any, allowed: str
) -> None:
    router = await start_router(
        is_awaited=False, cors_origins=origins, api_keys=[f"a: {KEY}"], queue_timeout_seconds=60.0
    )
    for path in ("/v1/completions", "/status", "/healthz", "/sleep"):
        response = await router.http.options(path, headers=OF_PAGE | PREFLIGHT)
        assert (response.status_code, response.content) == (204, b"")
        found = response.headers
        assert found.get_list("access-control-allow-origin") == [allowed]
        assert found["access-control-allow-methods"] == "POST"
        assert found["access-control-allow-headers"] == "authorization, content-type"
        assert found["access-control-max-age"] == "600"
        assert ("access-control-allow-credentials" in found) is (allowed != "*")
        assert "Access-Control-Request-Headers" in found["vary"]
    response = await router.http.post("/v1/completions", headers=OF_PAGE)
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == allowed


async def test_preflights_of_other_origins_are_refused(start_router: StartRouter) -> None:
    router = await start_router(is_awaited=False, cors_origins=[PAGE])
    for headers in ([("Origin", FOREIGN)], [("Origin", PAGE), ("Origin", FOREIGN)], [("Origin", "null")]):
        response = await router.http.options("/", headers=[*headers, *PREFLIGHT.items()])
        assert (response.status_code, response.json()["code"]) == (403, "origin_not_allowed")
        assert cors_of(response) == NOBODY


@pytest.mark.parametrize("asked", ["a\tb", "a;b", "<script>", "x" * 5000])
async def test_a_preflight_gets_back_no_garbage(start_router: StartRouter, asked: str) -> None:
    router = await start_router(is_awaited=False, cors_origins=[PAGE])
    headers = OF_PAGE | {"Access-Control-Request-Method": asked, "Access-Control-Request-Headers": asked}
    response = await router.http.options("/", headers=headers)
    assert response.status_code == 204
    assert "access-control-allow-methods" not in response.headers
    assert "access-control-allow-headers" not in response.headers


async def test_other_options_requests_go_to_a_replica(start_router: StartRouter, replica: Backend) -> None:
    router = await start_router(replica.url, cors_origins=[PAGE])
    for headers in ({}, OF_PAGE, {"Origin": FOREIGN}, PREFLIGHT):
        assert (await router.http.options("/who", headers=headers)).json()["method"] == "OPTIONS"


async def open_from(router: RunningRouter, origin: str | None) -> int:
    """Open a WebSocket as a page of that origin does, and return the status of the answer."""
    try:
        async with connect(f"{router.ws}/v1/stream", origin=Origin(origin) if origin else None, proxy=None) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
    except InvalidStatus as refused:
        assert refused.response.body is not None
        assert json.loads(refused.response.body)["code"] == "origin_not_allowed"
        return refused.response.status_code
    return 101


async def test_pages_of_other_origins_open_no_websocket(start_router: StartRouter, replica: Backend) -> None:
    router = await start_router(replica.url, cors_origins=[PAGE])
    replica.forget()
    assert [await open_from(router, origin) for origin in (FOREIGN, "null", router.url)] == [403, 403, 403]
    assert replica.scopes == []
    assert [await open_from(router, origin) for origin in (PAGE, None)] == [101, 101]
    router = await start_router(replica.url, cors_origins="*")
    assert [await open_from(router, origin) for origin in (PAGE, FOREIGN, None)] == [101, 101, 101]
