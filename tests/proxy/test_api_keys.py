"""API keys: who gets in, where keys may be, what replicas see of them, and keys that change while the router runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from shared_registry.aio import from_files
from shared_registry.aio.stop_signals import StopRequest
from shared_registry.config import RouterConfig
from shared_registry.config.api_keys import new_api_key
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import ConfigError
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.response_head import ResponseHead
from shared_registry.proxy.server import serve_clients
from tests.proxy.conftest import FAST, SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY, OTHER, LIMITED = "sk-geheim0123456789", "sk-other-0123456789", "sk-limited-123456789"
KEYS = [f"team-a: {KEY}", f"team-b: {OTHER}", f"team-c: {LIMITED} /v1/models /v1/chat/*"]
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest_asyncio.fixture(loop_scope="module")
async def replica() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def locked(start_router: StartRouter, replica: Backend, **settings: object) -> RunningRouter:
    """Start a router that asks for keys, and wait until its replica is healthy."""
    router = await start_router(replica.url, is_awaited=False, **({"api_keys": KEYS} | settings))

    async def is_ready() -> bool:
        return (await router.http.get("/who", headers=BEARER)).status_code == 200

    await until(is_ready, "the replica is healthy")
    replica.forget()
    return router


def headers_at(replica: Backend) -> dict[bytes, bytes]:
    return dict(replica.scopes[-1]["headers"])


async def test_only_a_known_key_gets_in(start_router: StartRouter, replica: Backend) -> None:
    router = await locked(start_router, replica)
    wrong = [
        {},
        {"Authorization": "Bearer sk-wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"X-Api-Key": ""},
        {"Cookie": f"api_key={KEY}"},
    ]
    for headers in wrong:
        for method, path in (("GET", "/who"), ("POST", "/v1/completions"), ("OPTIONS", "/who"), ("GET", "/status")):
            response = await router.http.request(method, f"{path}?api_key={KEY}", headers=headers)
            assert (response.status_code, response.json()["code"]) == (401, "unauthorized"), (method, path, headers)
            assert response.headers["www-authenticate"].startswith("Bearer")
    assert replica.scopes == []
    for headers in (BEARER, {"Authorization": f"bearer  {KEY}"}, {"X-Api-Key": KEY}, {"X-Api-Key": OTHER}):
        assert (await router.http.get("/who", headers=headers)).status_code == 200
        assert (await router.http.get("/status", headers=headers)).status_code == 200
    assert {(await router.http.get(page)).status_code for page in ("/healthz", "/readyz", "/x/../%68ealthz/")} == {200}


async def test_websockets_need_a_key_too(start_router: StartRouter, replica: Backend) -> None:
    router = await locked(start_router, replica)
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}):
        offered = [Subprotocol(f"openai-insecure-api-key.{KEY}")]
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{router.ws}/?api_key={KEY}", additional_headers=headers, subprotocols=offered, proxy=None)
        assert refused.value.response.status_code == 401
    async with connect(f"{router.ws}/v1/stream", additional_headers=BEARER, proxy=None) as client:
        await client.send("hello")
        assert await client.recv() == "hello"
    assert b"authorization" not in headers_at(replica)


@pytest.mark.parametrize("is_forwarded", [False, True])
async def test_replicas_get_a_key_only_if_they_should(
    start_router: StartRouter, replica: Backend, is_forwarded: bool
) -> None:
    router = await locked(start_router, replica, forward_api_key=is_forwarded)
    both = BEARER | {"X-Api-Key": OTHER}
    await router.http.get("/who", headers=both)
    seen = headers_at(replica)
    assert seen.get(b"authorization") == (f"Bearer {KEY}".encode() if is_forwarded else None)
    assert seen.get(b"x-api-key") == (OTHER.encode() if is_forwarded else None)
    await router.http.get("/who", headers={"Authorization": "Basic for-the-replica", "X-Api-Key": OTHER})
    assert headers_at(replica)[b"authorization"] == b"Basic for-the-replica"


@pytest.mark.parametrize("is_forwarded", [False, True])
async def test_a_browser_may_offer_the_key_as_a_subprotocol(
    start_router: StartRouter, replica: Backend, is_forwarded: bool
) -> None:
    router = await locked(start_router, replica, websocket_api_key="subprotocol", forward_api_key=is_forwarded)
    key = f"openai-insecure-api-key.{KEY}"
    offered = [Subprotocol("realtime"), Subprotocol(key), Subprotocol("more")]
    async with connect(f"{router.ws}/v1/stream?api_key=x", subprotocols=offered, proxy=None) as client:
        assert client.subprotocol in ("realtime", None)
    seen = headers_at(replica)
    assert seen[b"sec-websocket-protocol"] == b"realtime, more"
    assert seen.get(b"authorization") == (f"Bearer {KEY}".encode() if is_forwarded else None)
    assert replica.scopes[-1]["query_string"] == b"api_key=x"
    async with connect(f"{router.ws}/v1/stream", subprotocols=offered[1:2], proxy=None):
        pass
    assert b"sec-websocket-protocol" not in headers_at(replica)
    async with connect(f"{router.ws}/v1/stream", subprotocols=offered, additional_headers=BEARER, proxy=None):
        pass
    assert KEY.encode() not in headers_at(replica)[b"sec-websocket-protocol"]
    for wrong in ("openai-insecure-api-key.sk-wrong", KEY):
        with pytest.raises(InvalidStatus):
            await connect(f"{router.ws}/v1/stream", subprotocols=[Subprotocol(wrong)], proxy=None)
    assert (await router.http.get("/who", headers={"Sec-WebSocket-Protocol": key})).status_code == 401


async def test_a_browser_may_put_the_key_into_the_query(start_router: StartRouter, replica: Backend) -> None:
    router = await locked(start_router, replica, websocket_api_key="query")
    for query, passed in (
        (f"api_key={KEY}", b""),
        (f"a=%20&api_key={KEY}&b=1&api_key=x", b"a=%20&b=1"),
        (f"api_key={KEY.replace('-', '%2D')}&a", b"a"),
    ):
        async with connect(f"{router.ws}/v1/stream?{query}", proxy=None):
            pass
        assert replica.scopes[-1]["query_string"] == passed
    for query in ("api_key=sk-wrong", f"other={KEY}", ""):
        with pytest.raises(InvalidStatus):
            await connect(f"{router.ws}/v1/stream?{query}", proxy=None)
    assert (await router.http.get(f"/who?api_key={KEY}")).status_code == 401


async def test_a_key_may_be_for_some_paths_only(start_router: StartRouter, replica: Backend) -> None:
    router = await locked(start_router, replica)
    headers = {"Authorization": f"Bearer {LIMITED}"}
    for path in ("/v1/models", "/v1/chat/completions", "/V1/%63hat/x", "/v1//models/"):
        assert (await router.http.get(path, headers=headers)).status_code == 200, path
    for path in ("/", "/v1", "/v1/chat", "/v1/chat/../embeddings", "/v1/models/x", "/status", "/v1/chat/%2e%2e/x"):
        response = await router.http.get(path, headers=headers)
        assert (response.status_code, response.json()["code"]) == (403, "not_allowed"), path
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{router.ws}/v1/stream", additional_headers=headers, proxy=None)
    assert refused.value.response.status_code == 403


async def test_only_listed_paths_are_passed_on(start_router: StartRouter, replica: Backend) -> None:
    routes = [{"path": "/v1/*", "place": "lease"}, {"path": "/*", "place": "none"}]
    router = await start_router(replica.url, routes=routes)
    assert (await router.http.post("/v1/completions")).status_code == 200
    for path in ("/", "/v2", "/v1", "/v1/../admin", "/v1/%2e%2e/admin", "/docs", "/openapi.json"):
        assert (await router.http.get(path)).status_code == 403, path
    assert {scope["raw_path"] for scope in replica.scopes} == {b"/v1/completions"}


async def test_the_name_of_the_key_is_known_for_the_log(
    start_router: StartRouter, replica: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await locked(start_router, replica)
    names: list[str | None] = []
    begin = Exchange.begin_with

    def noted(exchange: Exchange, head: ResponseHead) -> None:
        names.append(exchange.key_name)
        begin(exchange, head)

    monkeypatch.setattr(Exchange, "begin_with", noted)
    for headers in (BEARER, {"X-Api-Key": OTHER}, {}, {"X-Api-Key": LIMITED}):
        await router.http.get("/who", headers=headers)
    assert names == ["team-a", "team-b", None, "team-c"]


async def test_an_upload_without_a_key_ends_the_connection(
    start_router: StartRouter, replica: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_registry.proxy.client.LINGER_SECONDS", SECONDS)
    router = await locked(start_router, replica)
    async with httpx.AsyncClient(base_url=router.url, timeout=SECONDS) as http:
        response = await http.post("/upload", content=bytes(5_000_000))
    assert response.status_code == 401
    assert response.headers["connection"] == "close"


async def test_changed_keys_are_used_and_broken_ones_are_not(
    start_router: StartRouter,
    replica: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(from_files, "CHECK_SECONDS", 0.05)
    caplog.set_level(logging.INFO)
    file = tmp_path / "keys"
    file.write_text(f"\ufeff# keys\n\n{new_api_key('team-a', KEY).line()}\n")
    router = await locked(start_router, replica, api_keys=(), api_keys_file=str(file))

    async def status(key: str) -> int:
        return (await router.http.get("/who", headers={"X-Api-Key": key})).status_code

    async def is_said(text: str) -> bool:
        return any(text in record.getMessage() for record in caplog.records)

    assert (await status(KEY), await status(OTHER)) == (200, 401)
    file.write_text("geheim\n")
    await until(lambda: is_said(f"the former API keys stay in use: api_keys_file: {file} line 1: "), "it is refused")
    assert "geheim" not in caplog.text
    assert (await status(KEY), await status(OTHER)) == (200, 401)
    file.write_text("")
    await until(lambda: is_said(f"api_keys_file: {file} has no key"), "an empty file opens the router to nobody")
    assert (await router.http.get("/who")).status_code == 401
    file.unlink()
    await until(lambda: is_said(f"api_keys_file: cannot read {file}"), "an absent file opens the router to nobody")
    assert (await status(KEY), await status(OTHER)) == (200, 401)
    file.write_text(f"team-b: {OTHER}\n")

    async def are_changed() -> bool:
        return (await status(KEY), await status(OTHER)) == (401, 200)

    await until(are_changed, "the new key is used, and the old one no more")


@pytest.mark.parametrize("content", [None, "", "# none\n", "geheim", "a: sha256:12\n", "\0" * 100])
async def test_a_router_with_an_unusable_key_file_does_not_start(
    server: EmbeddedServer, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    config = RouterConfig(redis_url=server.url, **FAST, api_keys_file=str(file))
    with pytest.raises(ConfigError, match=r"^api_keys_file: ") as refused:
        await serve_clients(config, StopRequest(), on_listening=lambda _: None)
    assert "geheim" not in str(refused.value)
