"""The dashboard's live data as a client without a browser gets them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import httpx
import pytest

from shared_registry import SharedReplicaRegistry
from shared_registry.admin.summary import FleetCounts
from shared_registry.api import live_data, live_pool
from shared_registry.api.history import KEPT, History, Sample, aged
from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import SECONDS
from tests.support.shown_fleet import shown_fleet
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextlib.asynccontextmanager
async def events(url: str) -> AsyncIterator[AsyncIterator[tuple[str, dict[str, Any]]]]:
    async with (
        httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http,
        http.stream("GET", f"{url}/events") as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def each() -> AsyncIterator[tuple[str, dict[str, Any]]]:
            kind = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield kind, json.loads(line.removeprefix("data: "))

        yield each()


async def test_a_client_gets_all_and_then_what_changes(server: EmbeddedServer) -> None:
    async with (
        shown_fleet(server.url, 5) as fleet,
        asyncio.timeout(SECONDS),
        events(fleet.router.admin_url) as messages,
    ):
        kind, first = await anext(messages)
        assert kind == "snapshot"
        assert sorted(row[1] for row in first["pools"][0]["rows"]) == [f"gpu-{number}" for number in range(5)]
        fleet.replica(3).status = 500
        async for kind, message in messages:
            assert kind == "change"
            [pool] = message["pools"]
            found = {row[1]: row[4] for row in pool["rows"]}
            if found.get("gpu-3") == "unhealthy":
                break
        assert pool["head"]["level"] == "yellow"


async def test_each_router_is_shown_with_its_sessions(server: EmbeddedServer) -> None:
    async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS):
        registry = fleet.router.router.pools[""].registry
        async with SharedReplicaRegistry(registry.config, health_checks=False) as other:
            held = [await one.acquire() for one in (registry, other, other)]
            wanted = {registry.router_key: 1, other.router_key: 2}
            async with events(fleet.router.admin_url) as messages:
                async for _, message in messages:
                    routers = (message["pools"][0]["head"]["routers"] or {}).get("all", ())
                    if {one["key"]: one["leases"] for one in routers} == wanted:
                        break
            assert all(one["view_age"] is None or 0 <= one["view_age"] < 60 for one in routers)
            for lease in held:
                await lease.release()


async def test_a_client_that_leaves_is_forgotten(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_data, "MOST_CLIENTS", 1)
    async with shown_fleet(server.url, 1) as fleet, httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http:
        url = f"{fleet.router.admin_url}/events"
        async with events(fleet.router.admin_url) as messages:
            await anext(messages)
            assert (await http.get(url)).status_code == 503

        async def has_room() -> bool:
            async with http.stream("GET", url) as answer:
                return answer.status_code == 200

        await until(has_room, "the place is free again")


async def test_a_client_that_does_not_read_is_dropped() -> None:
    client: asyncio.Queue[bytes | None] = asyncio.Queue(live_data.MOST_MESSAGES)
    followed = live_data.LiveData.__new__(live_data.LiveData)
    followed._clients = {client}
    for _ in range(live_data.MOST_MESSAGES):
        followed._publish(b"message")
    assert followed._clients == {client}
    followed._publish(b"one too many")
    assert followed._clients == set()
    assert [client.get_nowait()] == [None]


async def test_streams_end_when_the_router_stops(server: EmbeddedServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with shown_fleet(server.url, 1) as fleet:
            messages = await stack.enter_async_context(events(fleet.router.admin_url))
            await anext(messages)
        async with asyncio.timeout(SECONDS):
            async for _ in messages:
                pass


async def test_counts_follow_replicas_that_change_and_go(server: EmbeddedServer) -> None:
    async with shown_fleet(server.url, 5) as fleet, asyncio.timeout(SECONDS):
        [pool] = fleet.router.router.pools.values()
        registry, live = pool.registry, live_pool.LivePool(pool, lambda: 0)
        keys = [replica.key for replica in registry.all()]

        async def updated() -> tuple[list[str], list[str]]:
            found = await live.update(is_watched=True)
            expected = FleetCounts.of(replica.record for replica in registry.all())
            assert live.head["counts"] == {**asdict(expected), "has_unlimited": expected.has_unlimited}
            return found

        assert await updated() == (keys, [])
        fleet.replica(3).status = 500
        await until(lambda: not registry.all()[3].is_healthy)
        changed, gone = await updated()
        assert keys[3] in changed
        assert live.head["counts"]["healthy"] == 4
        assert gone == []

        async def is_as_before() -> bool:
            return keys[3] not in (await updated())[0]

        await until(is_as_before, "a row that has not changed is not sent again")
        await registry.deregister(keys[3], by="test")
        assert (await updated())[1] == [keys[3]]
        assert sorted(live.rows) == sorted(set(keys) - {keys[3]})


async def test_the_last_hour_is_bounded() -> None:
    history = History()
    for at in range(2 * KEPT):
        history.samples.append(Sample(at, 0, 0, None, 0))
    assert len(history.samples) == KEPT


async def test_a_clock_set_back_ends_no_samples(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_pool, "SAMPLE_SECONDS", 0.01)
    async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS):
        [pool] = fleet.router.router.pools.values()
        live = live_pool.LivePool(pool, lambda: 0)
        for hours in (0, -1, 2):
            live._ahead_seconds = 3600.0 * hours
            await asyncio.sleep(0.02)
            await live.update(is_watched=True)
            assert len(live.new_samples) == 1
        ages = [sample.at for sample in aged(live.history.samples, time.monotonic())]
        assert all(0 <= age < SECONDS for age in ages)
        assert ages == sorted(ages, reverse=True)


async def test_nobody_leads_for_no_longer_than_it_was(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shown_fleet(server.url, 1, namespace=namespace) as fleet, asyncio.timeout(SECONDS):
        [pool] = fleet.router.router.pools.values()
        live = live_pool.LivePool(pool, lambda: 0)
        monkeypatch.setattr(type(pool.registry), "leader", None)
        for hours in (0, 1):
            live._ahead_seconds = 3600.0 * hours
            await live.update(is_watched=True)
            assert re.match(r"Nobody leads since \d+ s", live.head["text"]), "no hour"


async def test_a_sample_alone_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_pool.LivePool.__new__(live_pool.LivePool)
    live.rows, live.head, live._ahead_seconds, live.new_samples = {}, {"text": "as before"}, 0.0, []
    followed = live_data.LiveData.__new__(live_data.LiveData)
    followed._pools, followed._said, followed._said_at = [live], "", 0.0
    monkeypatch.setattr(live_data, "SILENT_SECONDS", float("inf"))
    assert await followed._delta([(live, [], [])]) is not None
    assert await followed._delta([(live, [], [])]) is None
    live.new_samples = [Sample(time.monotonic() - 2.0, 1, 4, None, 0)]
    message = await followed._delta([(live, [], [])])
    assert message is not None
    [[age, *values]] = json.loads(message.partition(b"data: ")[2])["pools"][0]["samples"]
    assert 2.0 <= age < SECONDS
    assert values == [1, 4, None, 0]


async def test_changes_of_status_count_for_half_an_hour() -> None:
    history = History()
    for at in range(1, 7):
        history.note_change("a", float(at))
    assert history.flaps("a", 6.0) == 6
    assert history.flaps("a", 1803.5) == 3
    assert history.flaps("a", 9000.0) == history.flaps("b", 0.0) == 0


async def test_a_failure_at_the_end_does_not_begin_anew(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def fail_when_cancelled(*_: object, **__: object) -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise LookupError("a bug")

    monkeypatch.setattr(live_pool.LivePool, "update", fail_when_cancelled)
    async with asyncio.timeout(SECONDS), shown_fleet(server.url, 1):
        await begun.wait()
