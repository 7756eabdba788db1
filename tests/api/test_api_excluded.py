"""Replicas that a call excludes in its query: those that were tried without success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
SETTINGS: dict[str, Any] = {"admin_access": "lease", "hold_grace_seconds": 0}


async def held_at(admin: httpx.AsyncClient, **params: Any) -> str:
    """Hold a slot for a moment; return what the stream begins with."""
    async with admin.stream("GET", "/v1/leases/hold", params=params) as answer:
        return await anext(answer.aiter_text())


async def test_excluded_replicas_are_neither_selected_nor_held(
    start_with_admin: StartRouter, admin_of: AdminOf
) -> None:
    async with Backend() as one, Backend() as two:
        replicas = [ReplicaEndpoint(one.url, "a"), ReplicaEndpoint(two.url, "b")]
        router = await start_with_admin(is_awaited=False, replicas=replicas, **SETTINGS)
        admin, registry = admin_of(router), router.router.pools[""].registry
        await until(lambda: all(registry.select(exclude=[name]) for name in "ab"), "both are healthy")
        for excluded, other in (("a", two.url), (two.url, one.url)):
            answer = await admin.get("/v1/select", params={"exclude": excluded})
            assert (answer.status_code, answer.json().get("url")) == (200, other), answer.text
            assert f'"url": "{other}"' in await held_at(admin, exclude=excluded)
        both = await admin.get("/v1/select", params={"exclude": ["a", "b"]})
        assert (both.status_code, both.json()["code"]) == (503, "no_healthy_replica")
        empty = (await admin.get("/v1/select", params={"exclude": ["a", ""]})).json()
        assert (empty["status"], empty["field"]) == (400, "exclude.1")
