"""Which requests take a slot, which go to any replica, and which are refused."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from shared_registry.config.route_rules import RouteRule
from shared_registry.model import ReplicaEndpoint
from shared_registry.proxy.paths import normal_path
from shared_registry.proxy.routes import Routes
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

in_loop = pytest.mark.asyncio(loop_scope="module")
DEFAULT = Routes((), placement="exact")
BY_DEFAULT = "[]"


def place(routes: Routes, method: str, path: str) -> str:
    is_websocket = method == "WEBSOCKET"
    return routes.place("GET" if is_websocket else method, normal_path(path.encode()), is_websocket=is_websocket)


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "GET"])
def test_reading_takes_no_slot(method: str) -> None:
    assert place(DEFAULT, method, "/v1/chat/completions") == "any"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW", "WEBSOCKET"])
def test_everything_else_takes_a_slot(method: str) -> None:
    assert place(DEFAULT, method, "/v1/chat/completions") == "lease"
    assert place(Routes((), placement="local"), method, "/v1/chat/completions") == "any"


@pytest.mark.parametrize(
    "path",
    [
        "/sleep",
        "/sleep/",
        "//sleep",
        "/Sleep",
        "/%73leep",
        "/x/../sleep",
        "/sleep;a",
        "/update_weights_from_disk",
        "/%75pdate_weights/x",
        "/v1/load_lora_adapter",
        "/unload_lora_adapter",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "WEBSOCKET"])
def test_requests_that_change_a_replica_are_refused(method: str, path: str) -> None:
    assert place(DEFAULT, method, path) == "none"


@pytest.mark.parametrize("path", ["/sleepy", "/v1/sleep", "/", "/v1/update_weights"])
def test_similar_paths_are_not_refused(path: str) -> None:
    assert place(DEFAULT, "POST", path) == "lease"


def test_the_first_rule_that_matches_decides() -> None:
    rules = (
        RouteRule("/Jobs/Public", "any"),
        RouteRule("/jobs/*", "none", ("DELETE", "WEBSOCKET")),
        RouteRule("/jobs/public", "none"),
        RouteRule("/sleep", "lease"),
        RouteRule("*", "any", ("POST",)),
    )
    routes = Routes(rules, placement="exact")
    assert place(routes, "DELETE", "/jobs/public") == "any"
    assert place(routes, "DELETE", "/jobs/1") == place(routes, "WEBSOCKET", "/%6aobs/1") == "none"
    assert place(routes, "GET", "/jobs/1") == "any"
    assert place(routes, "PUT", "/jobs/1") == "lease"
    assert place(routes, "DELETE", "/jobsite") == "lease"
    assert place(routes, "POST", "/jobs/1") == place(routes, "POST", "/elsewhere") == "any"
    assert place(routes, "POST", "/sleep") == "lease"


@pytest.mark.parametrize("path", ["/jobs", "/jobs/", "/jobs/1"])
def test_a_prefix_with_a_slash_ends_at_the_slash(path: str) -> None:
    routes = Routes((RouteRule("/jobs/*", "none"),), placement="exact")
    assert place(routes, "POST", path) == ("none" if path == "/jobs/1" else "lease")


async def start_full(
    start_router: StartRouter, backend: Backend, **settings: object
) -> tuple[RunningRouter, asyncio.Task[httpx.Response]]:
    """Return a router whose one replica has one slot, which a request has taken."""
    endpoints = [ReplicaEndpoint(backend.url, primary=True, capacity=1)]
    router = await start_router(is_awaited=False, replicas=endpoints, **settings)

    async def is_selectable() -> bool:
        return [one["status"] for one in (await router.status())["replicas"]] == ["healthy"]

    await until(is_selectable, "the replica is healthy")
    busy = asyncio.create_task(router.http.post("/wait"))

    async def is_full() -> bool:
        return bool((await router.status())["replicas"][0]["in_flight"])

    await until(is_full, "the slot is taken")
    return router, busy


@in_loop
async def test_a_full_replica_still_answers_what_needs_no_slot(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router, busy = await start_full(start_router, backend, routes=BY_DEFAULT, queue_timeout_seconds=0.0)
        assert (await router.http.options("/v1/x")).status_code == 200
        assert (await router.http.get("/v1/models")).status_code == 200
        assert (await router.http.post("/v1/x")).status_code == 503
        backend.go_on.set()
        assert (await busy).status_code == 200


@in_loop
async def test_local_placement_knows_no_capacity(start_router: StartRouter) -> None:
    async with Backend() as backend:
        rules = '[{"path": "/wait", "place": "lease"}]'
        router, busy = await start_full(start_router, backend, routes=rules, placement="local")
        assert (await router.http.post("/v1/x")).status_code == 200
        backend.go_on.set()
        assert (await busy).status_code == 200


@in_loop
async def test_a_refused_path_reaches_no_replica(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, routes=BY_DEFAULT)
        backend.scopes.clear()
        response = await router.http.post("/sleep")
        assert (response.status_code, response.json()["code"]) == (403, "not_allowed")
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{router.ws}/%73leep", proxy=None)
        assert caught.value.response.status_code == 403
        assert backend.scopes == []


@in_loop
async def test_without_a_healthy_replica_nothing_is_passed_on(start_router: StartRouter) -> None:
    router = await start_router(routes=BY_DEFAULT)
    response = await router.http.get("/v1/models")
    assert (response.status_code, response.json()["code"]) == (503, "gpu_unavailable")
