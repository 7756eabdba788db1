"""A replica's own path and port for probes, on their way through Redis, and as the leader probes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared_registry import EventKind, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Source
from shared_registry.store.codec import parse_record, restored_entry
from tests.support.own_pages import shown_replicas
from tests.support.scripted_server import OK, Peer, scripted
from tests.support.space import A, B, Space, on_server
from tests.support.until import until

TARGET: dict[str, Any] = {"health_check_path": "/ready", "health_check_port": 8081}
TEXTS = {"health_check_path": "/ready", "health_check_port": "8081"}


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        yield space
        assert await find_violations(space.reader, space.keys) == []


def stored(space: Space, url: str = A) -> dict[str, str]:
    return {name: text for name, text in space.fields(url).items() if name in TEXTS}


async def test_a_replica_without_a_target_has_no_such_field(space: Space) -> None:
    [event] = await space.add()
    assert stored(space) == {}
    [[_, entry]] = space.raw.xrevrange(space.keys.events, count=1)
    assert not entry.keys() & TEXTS.keys()
    assert event.record is not None
    assert (event.record.endpoint.health_check_path, event.record.endpoint.health_check_port) == (None, None)
    assert await space.add() == []


async def test_a_target_is_written_changed_and_taken_away(space: Space) -> None:
    [event] = await space.add(**TARGET)
    assert stored(space) == TEXTS
    assert event.record is not None
    assert event.record.endpoint.health_check_path == "/ready"
    assert event.record.endpoint.health_check_port == 8081
    assert (await space.reader.records([A]))[A].endpoint == event.record.endpoint
    assert await space.add(**TARGET) == []
    for target, texts in (
        ({"health_check_port": 8082}, {"health_check_port": "8082"}),
        ({"health_check_path": "/x"}, {"health_check_path": "/x"}),
        ({}, {}),
    ):
        [event] = await space.add(**target)
        assert event.kind is EventKind.REPLICA_UPDATED
        assert stored(space) == texts
        assert await space.add(**target) == []


async def test_a_replica_registered_anew_has_no_former_target(space: Space) -> None:
    await space.add(**TARGET)
    space.raw.hset(space.keys.replica(A), "admin", "removed")
    space.raw.zrem(space.keys.replicas, A)
    for name in (space.keys.ready_primary, space.keys.ready_secondary, space.keys.full):
        space.raw.zrem(name, A)
    [event] = await space.add()
    assert event.kind is EventKind.REPLICA_REGISTERED
    assert stored(space) == {}


async def test_targets_are_put_back_after_a_loss(space: Space) -> None:
    await space.add(A, **TARGET)
    await space.add(B)
    with_target, without = (parse_record(url, space.fields(url)) for url in (A, B))
    space.raw.delete(*space.dump())
    entries = [restored_entry("replica", with_target), restored_entry("replica", without)]
    events = await space.store.restore(entries, view_history_id="old", view_revision="1-0")
    assert events is not None
    assert (stored(space, A), stored(space, B)) == (TEXTS, {})


async def test_a_view_without_a_target_replaces_that_of_a_file(space: Space) -> None:
    """After a loss, a file was read before a router with a later view restores it."""
    await space.add()
    record = parse_record(A, space.fields(A))
    space.raw.delete(*space.dump())
    await space.add(mode=Source.SEED, **TARGET)
    assert stored(space) == TEXTS
    await space.store.restore([restored_entry("replica", record)], view_history_id="old", view_revision="1-0")
    assert stored(space) == {}


async def test_the_leader_probes_each_replica_where_it_says(server: EmbeddedServer, namespace: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK)

    async with scripted(script) as sessions, scripted(script) as health:
        port = int(health.url.rpartition(":")[2])
        config = RouterConfig(
            redis_url=server.url,
            namespace=namespace,
            replicas=[ReplicaEndpoint(sessions.url, health_check_path="/ready", health_check_port=port)],
            health_check_interval_seconds=0.1,
            refresh_seconds=0.1,
        )
        async with SharedReplicaRegistry(config) as registry:
            [replica] = registry.all()
            await until(lambda: replica.is_healthy)
            assert {request.split(b" ")[1] for request in health.requests} == {b"/ready"}
            assert sessions.accepted == 0
            [shown] = await shown_replicas(registry)
            assert (shown["health_check_path"], shown["health_check_port"]) == ("/ready", port)
            await registry.register(replica.endpoint, health_check_path=None, health_check_port=None)
            await until(lambda: bool(sessions.requests))
            assert {request.split(b" ")[1] for request in sessions.requests} == {b"/health"}
            await until(lambda: health.open == 0)
