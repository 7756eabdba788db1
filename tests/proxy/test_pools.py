"""Several pools behind one router: which replicas a request reaches, and that their troubles stay apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import httpx
import pytest
import websockets
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared_registry import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.proxy import pool as pool_module
from tests.proxy.conftest import FAST, RunningRouter, running_router
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def pool(name: str, *replicas: str, **rest: Any) -> dict[str, Any]:
    return {"name": name, "replicas": list(replicas), **rest}


def config(server: EmbeddedServer, namespace: str, *pools: dict[str, Any], **settings: Any) -> RouterConfig:
    named = [{"namespace": f"{namespace}-{one['name']}", **one} for one in pools]
    return RouterConfig(**{"redis_url": server.url, "pools": named, **FAST, **settings})


@contextlib.asynccontextmanager
async def llama_alone(server: EmbeddedServer, namespace: str) -> AsyncIterator[RunningRouter]:
    """Run a router with one pool, for one model."""
    async with (
        Backend() as llama,
        running_router(config(server, namespace, pool("llama", llama.url, models=["m"]))) as router,
    ):
        await until(lambda: has_healthy(router, "llama"), "the pool is healthy")
        yield router


async def has_healthy(router: RunningRouter, *names: str) -> bool:
    pools = (await router.status())["pools"]
    return all("healthy" in [one["status"] for one in pools[name]["replicas"]] for name in names)


async def is_idle(router: RunningRouter) -> bool:
    return bool((await router.status())["sessions"] == 0)


async def chat(router: RunningRouter, model: str, **rest: Any) -> httpx.Response:
    return await router.http.post("/v1/chat/completions", json={"model": model, **rest})


async def test_each_request_reaches_the_replicas_of_its_pool(server: EmbeddedServer, namespace: str) -> None:
    async with Backend() as llama, Backend() as video, Backend() as rest:
        pools = [
            pool("llama", llama.url, models=["llama*"]),
            pool("video", video.url, paths=["/video/*"]),
            pool("rest", rest.url, headers={"X-Rest": "yes"}),
        ]
        async with running_router(config(server, namespace, *pools)) as router:
            await until(lambda: has_healthy(router, "llama", "video", "rest"), "all pools are healthy")
            assert await _backend(chat(router, "llama-3")) == llama.port
            assert await _backend(router.http.get("/video/1")) == video.port
            assert await _backend(router.http.get("/x", headers={"x-rest": "yes"})) == rest.port
            missing = await chat(router, "gpt-9")
            assert (missing.status_code, missing.json()["code"]) == (404, "model_not_found")
            assert (await router.http.get("/x")).status_code == 404
            async with websockets.connect(f"{router.ws}/video/ws", proxy=None) as session:
                await session.send("hello")
                assert await session.recv() == "hello"
            assert [scope["type"] for scope in video.scopes] == ["http", "websocket"]


async def test_a_body_reaches_its_pool_whole(server: EmbeddedServer, namespace: str) -> None:
    """Also one that is longer than what is kept, with the model at its end, and one whose client waits to send it."""
    async with llama_alone(server, namespace) as router:
        for size in (10, 70_000, 900_000):
            body = json.dumps({"prompt": "x" * size, "model": "m"})
            answer = await router.http.post("/jobs", content=body)
            assert answer.json()["body"] == body
            headers = {"expect": "100-continue"}
            answer = await router.http.post("/jobs", content=body, headers=headers)
            assert answer.json()["body"] == body
        assert (await router.http.post("/jobs", content=b"x" * 2_000_000)).status_code == 404
        reader, writer = await asyncio.open_connection(*router.address)
        writer.write(b"POST /jobs HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 13\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'{"model":"m"}')
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_client_that_leaves_before_its_model_leaves_nothing(server: EmbeddedServer, namespace: str) -> None:
    async with llama_alone(server, namespace) as router:
        _, writer = await asyncio.open_connection(*router.address)
        writer.write(b'POST /jobs HTTP/1.1\r\nhost: a\r\ncontent-length: 13\r\n\r\n{"mod')
        await writer.drain()
        writer.close()
        assert (await chat(router, "m")).status_code == 200
        await until(lambda: is_idle(router), "no session is left")


async def test_the_models_of_all_pools_are_listed(server: EmbeddedServer, namespace: str) -> None:
    async with Listing("llama-8b", "llama-70b", "hidden") as llama, Listing("mini") as mini:
        pools = [
            pool("llama", llama.url, models=["llama*"]),
            pool("mini", mini.url, models=["mini"]),
            pool("down", "http://127.0.0.1:9", models=["lost", "lost-*"]),
        ]
        async with running_router(config(server, namespace, *pools)) as router:
            await until(lambda: has_healthy(router, "llama", "mini"), "two pools are healthy")
            listed = (await router.http.get("/v1/models")).json()
            assert [one["id"] for one in listed["data"]] == ["llama-70b", "llama-8b", "lost", "mini"]
            assert await _backend(router.http.get("/v1/models/mini")) == mini.port


async def test_a_list_that_is_no_list_spoils_no_other(server: EmbeddedServer, namespace: str) -> None:
    async def nested(request: Request) -> Response:
        return Response(b"[" * 20_000)

    async with Backend(routes=[Route("/v1/models", nested)]) as wrong, Listing("mini") as mini:
        pools = [pool("wrong", wrong.url, models=["big"]), pool("mini", mini.url, models=["mini"])]
        async with running_router(config(server, namespace, *pools)) as router:
            await until(lambda: has_healthy(router, "wrong", "mini"), "both pools are healthy")
            listed = (await router.http.get("/v1/models")).json()
            assert [one["id"] for one in listed["data"]] == ["big", "mini"]


async def test_the_outage_of_one_pool_is_not_anothers(namespace: str) -> None:
    with EmbeddedServer() as first, EmbeddedServer() as second:
        async with Backend() as one, Backend() as two:
            pools = [
                pool("one", one.url, paths=["/one"], redis_url=first.url),
                pool("two", two.url, paths=["/two"], redis_url=second.url),
            ]
            async with running_router(config(first, namespace, *pools, degraded_placement="off")) as router:
                await until(lambda: has_healthy(router, "one", "two"), "both pools are healthy")
                first.kill()

                async def is_refused() -> bool:
                    return (await router.http.post("/one")).status_code == 503

                await until(is_refused, "the first pool gives no slot")
                for _ in range(20):
                    assert (await router.http.post("/two")).status_code == 200
                ready = await router.http.get("/readyz")
                assert ready.status_code == 200
                assert set(ready.json()["pools"]) == {"one", "two"}


async def test_a_pool_that_is_refused_is_tried_again(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "RETRY_SECONDS", 0.2)
    async with Backend() as one, Redis.from_url(server.url) as redis:
        await redis.set(f"sr:{{{namespace}-strange}}:meta", "another program's")
        pools = [pool("one", one.url, paths=["/one"]), pool("strange", one.url, paths=["/two"])]
        async with running_router(config(server, namespace, *pools)) as router:
            await until(lambda: has_healthy(router, "one"), "the first pool is healthy")
            assert (await router.http.post("/one")).status_code == 200
            assert (await router.http.get("/readyz")).json()["pools"]["strange"] != "ready"
            await redis.delete(f"sr:{{{namespace}-strange}}:meta")
            await until(lambda: has_healthy(router, "strange"), "the other pool is healthy as well")
            assert (await router.http.post("/two")).status_code == 200


class Listing(Backend):
    """A replica that lists models."""

    def __init__(self, *models: str) -> None:
        super().__init__()
        self._models = models

    async def _describe(self, request: Request) -> Response:
        if request.url.path != "/v1/models":
            return await super()._describe(request)
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self._models]})


async def _backend(answer: Awaitable[httpx.Response]) -> int:
    return int((await answer).headers["x-backend"])
