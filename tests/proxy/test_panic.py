"""Sessions while most replicas fail their probes: they reach those that serve, and spend little time on dead ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis
from starlette.requests import Request
from starlette.responses import Response

from shared_registry import RouterConfig
from shared_registry.admin.operator import Operator
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState
from shared_registry.store.keys import Keys
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS: dict[str, Any] = {"refresh_seconds": 0.02, "fast_interval_seconds": 0.1}


class Doubtful(Backend):
    """A replica that serves, and fails its probes while `is_ill`."""

    is_ill = False

    async def _health(self, request: Request) -> Response:
        return Response(status_code=503 if self.is_ill else 200)


@contextlib.asynccontextmanager
async def doubtful(count: int) -> AsyncIterator[list[Doubtful]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Doubtful()) for _ in range(count)]


@pytest_asyncio.fixture(loop_scope="module")
async def three() -> AsyncIterator[list[Doubtful]]:
    async with doubtful(3) as backends:
        yield backends


async def statuses(router: RunningRouter) -> Counter[str]:
    return Counter(replica["status"] for replica in (await router.status())["replicas"])


async def until_unhealthy(router: RunningRouter, count: int) -> None:
    async def are() -> bool:
        return (await statuses(router))["unhealthy"] == count

    await until(are, f"{count} are unhealthy")


async def test_replicas_that_fail_their_probes_and_serve_go_on(
    start_router: StartRouter, three: list[Doubtful]
) -> None:
    router = await start_router(*(one.url for one in three), **SETTINGS)
    for one in three:
        one.is_ill = True
    await until_unhealthy(router, 3)
    assert [(await router.http.get("/who")).status_code for _ in range(12)] == [200] * 12
    assert (await router.status())["panic"] == "0 of 3 active replicas healthy, panic_percent is 50"


async def test_dead_ones_among_them_cost_a_session_two_tries(
    start_router: StartRouter, three: list[Doubtful], caplog: pytest.LogCaptureFixture
) -> None:
    async with doubtful(3) as dead:
        urls = [one.url for one in (*dead, *three)]
        router = await start_router(*urls, local_cooldown_seconds=600.0, **SETTINGS)
        for one in three:
            one.is_ill = True
    await until_unhealthy(router, 6)
    caplog.set_level(logging.WARNING, "shared_registry")
    found = [(await router.http.get("/who")).status_code for _ in range(30)]
    # A dead one is passed over once this router has failed on it.
    assert set(found) <= {200, 503}
    assert found.count(503) <= 1
    tried = [one for one in caplog.messages if "did not take the session" in one]
    assert 1 <= len(tried) <= 3


async def test_a_session_is_refused_when_all_replicas_are_dead(
    start_router: StartRouter, caplog: pytest.LogCaptureFixture
) -> None:
    async with doubtful(4) as dead:
        router = await start_router(*(one.url for one in dead), local_cooldown_seconds=0.0, **SETTINGS)
    await until_unhealthy(router, 4)
    caplog.set_level(logging.WARNING, "shared_registry")
    response = await router.http.get("/who")
    assert (response.status_code, response.json()["code"]) == (503, "gpu_unavailable")
    assert response.json()["message"] == "no healthy replica can take the session; try again soon"
    assert len([one for one in caplog.messages if "did not take the session" in one]) == 2


async def test_after_two_tries_a_session_waits_for_a_healthy_replica(
    start_router: StartRouter, server: EmbeddedServer, namespace: str, three: list[Doubtful]
) -> None:
    async with doubtful(3) as dead:
        settings = SETTINGS | {"queue_timeout_seconds": 15.0, "local_cooldown_seconds": 0.0}
        router = await start_router(*(one.url for one in (*dead, three[0])), **settings)
        three[0].is_ill = True
        await until_unhealthy(router, 1)
    await until_unhealthy(router, 4)
    keys, url = Keys(namespace), three[0].url
    with Redis.from_url(server.url, decode_responses=True) as raw:
        async with Operator(RouterConfig(redis_url=server.url, namespace=namespace), by="ann") as operator:
            [replica] = await operator.find([url])
            await operator.set_admin(replica, AdminState.DRAINING)
            first = asyncio.create_task(router.http.get("/who"))
            await until(lambda: raw.zcard(keys.queue) == 1)
            await operator.set_admin(replica, AdminState.ACTIVE)
            await asyncio.sleep(0.3)
            assert raw.zcard(keys.queue) == 1, "it was given a third replica that is not healthy"
            three[0].is_ill = False
            response = await first
    assert (response.status_code, response.headers["x-backend"]) == (200, str(three[0].port))
