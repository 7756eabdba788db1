"""Routers with an admin address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import pytest_asyncio

from tests.proxy.conftest import (  # noqa: F401  fixtures of another room
    SECONDS,
    RunningRouter,
    StartRouter,
    pytest_asyncio_loop_factories,
    start_process,
    start_router,
)

ON_ANY_PORT = {"admin_port": 0}
Admin = Callable[[RunningRouter], Awaitable[httpx.AsyncClient]]


@pytest_asyncio.fixture(loop_scope="module")
async def admin_of() -> AsyncIterator[Callable[[RunningRouter], httpx.AsyncClient]]:
    """Return a client for the admin address of a router."""
    clients: list[httpx.AsyncClient] = []

    def client(router: RunningRouter) -> httpx.AsyncClient:
        clients.append(httpx.AsyncClient(base_url=router.admin_url, trust_env=False, timeout=SECONDS))
        return clients[-1]

    yield client
    for one in clients:
        await one.aclose()


@pytest.fixture
def start_with_admin(start_router: StartRouter) -> StartRouter:  # noqa: F811
    """Start a router in front of replicas, with an admin address on any free port."""

    async def start(*replicas: str, **settings: object) -> RunningRouter:
        return await start_router(*replicas, **{**ON_ANY_PORT, **settings})

    return start
