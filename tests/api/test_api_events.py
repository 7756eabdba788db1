"""Events over HTTP: pages, and streams that are resumed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared_registry.api import fleet_calls
from shared_registry.registry.facade import SharedReplicaRegistry
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
STREAM = "/v1/events/stream"


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


def registry_of(router: RunningRouter) -> SharedReplicaRegistry:
    return router.router.pools[""].registry


class Received:
    """What one client receives."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, str, dict[str, Any]]:
        event: dict[str, str] = {}
        async with asyncio.timeout(SECONDS):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if line and name:
                    event[name] = value
                elif event:
                    return event["event"], event["id"], json.loads(event["data"])
        raise AssertionError("the stream has ended")

    async def until_kind(self, kind: str) -> dict[str, Any]:
        while True:
            _, _, data = await self.next()
            if data.get("kind") == kind:
                return data


@contextlib.asynccontextmanager
async def stream(admin: httpx.AsyncClient, **request: Any) -> AsyncIterator[Received]:
    async with admin.stream("GET", STREAM, **request) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Received(response)


async def test_events_come_as_they_happen(start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend) -> None:
    router = await start_with_admin(backend.url)
    async with stream(admin_of(router)) as received:
        await registry_of(router).drain(backend.url, by="ann", reason="upgrade")
        data = await received.until_kind("replica_admin")
        assert (data["by"], data["reason"], data["replica"]["admin"]) == ("ann", "upgrade", "draining")


async def test_a_stream_is_resumed_without_a_gap(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(backend.url)
    admin, registry = admin_of(router), registry_of(router)
    async with stream(admin) as received:
        await registry.drain(backend.url)
        last = (await received.until_kind("replica_admin"))["id"]
    await registry.enable(backend.url)
    await registry.disable(backend.url)
    for request in ({"headers": {"Last-Event-ID": last}}, {"params": {"since": last}}):
        async with stream(admin, **request) as received:
            previous, states = last, list[str]()
            while len(states) < 2:
                name, _, data = await received.next()
                assert (name, data["previous"]) == ("change", previous)
                previous = data["id"]
                if data["kind"] == "replica_admin":
                    states.append(data["replica"]["admin"])
            assert states == ["active", "disabled"]


async def test_a_stream_tells_that_events_are_missing(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(backend.url)
    registry = registry_of(router)
    await registry.drain(backend.url)
    async with stream(admin_of(router), params={"since": "1-1"}) as received:
        name, event_id, data = await received.next()
        assert (name, data) == ("gap", {"revision": event_id})
        name, _, data = await received.next()
        assert (name, data["previous"]) == ("change", event_id)
    page = (await admin_of(router).get("/v1/events", params={"since": "1-1"})).json()
    assert not page["is_complete"]


async def test_an_id_that_is_not_reached_yet_is_a_gap(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    """Such as after a loss of all data, at a Redis whose clock is behind."""
    router = await start_with_admin(backend.url)
    future = "999999999999999-0"
    async with stream(admin_of(router), headers={"Last-Event-ID": future}) as received:
        name, event_id, data = await received.next()
        assert (name, data) == ("gap", {"revision": event_id})
        await registry_of(router).drain(backend.url, reason="later")
        assert (await received.until_kind("replica_admin"))["reason"] == "later"
    page = (await admin_of(router).get("/v1/events", params={"since": future})).json()
    assert not page["is_complete"]
    again = (await admin_of(router).get("/v1/events", params={"since": page["revision"]})).json()
    assert again["is_complete"]


async def test_pages_of_events_follow_each_other(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    router = await start_with_admin(backend.url)
    admin, registry = admin_of(router), registry_of(router)
    start = (await admin.get("/v1/events")).json()["revision"]
    for _ in range(3):
        await registry.drain(backend.url)
        await registry.enable(backend.url)
    since, found = start, []
    while page := (await admin.get("/v1/events", params={"since": since, "count": 2})).json():
        assert page["is_complete"]
        if not page["events"]:
            break
        found += page["events"]
        since = page["revision"]
    assert [one["previous"] for one in found] == [start, *(one["id"] for one in found[:-1])]
    assert [one["kind"] for one in found].count("replica_admin") == 6


async def test_wrong_ids_and_too_many_streams_are_refused(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_calls, "MOST_STREAMS", 1)
    admin = admin_of(await start_with_admin(backend.url))
    wrong: list[dict[str, Any]] = [
        {"headers": {"Last-Event-ID": "7"}},
        {"params": {"since": "x"}},
        {"params": {"since": f"{2**64 - 1}-0"}},
    ]
    for request in wrong:
        answer = await admin.get(STREAM, **request)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    async with stream(admin):
        answer = await admin.get(STREAM)
        assert (answer.status_code, answer.json()["code"]) == (503, "no_room")
