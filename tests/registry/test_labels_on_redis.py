"""A replica's labels on their way through Redis: written sorted, told in events, put back, changed and shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared_registry import ConfigError, EventKind, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import find_violations
from shared_registry.admin.observer import Observer
from shared_registry.cli.event_lines import event_document, event_line
from shared_registry.cli.overview_document import overview_document
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Source
from shared_registry.store.codec import parse_record, removed_entry, restored_entry
from tests.support.own_pages import shown_replicas
from tests.support.space import A, B, Space, on_server
from tests.support.until import until

LABELS = {"zone": "a", "gpu": "h100"}
TEXT = "gpu=h100,zone=a"


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        yield space
        assert await find_violations(space.reader, space.keys) == []


async def test_labels_are_written_sorted_and_carried_by_events(space: Space) -> None:
    [event] = await space.add(labels=LABELS)
    assert event.record is not None
    assert event.record.endpoint.labels == LABELS
    assert space.fields(A)["labels"] == TEXT
    [[_, entry]] = space.raw.xrevrange(space.keys.events, count=1)
    assert entry["labels"] == TEXT
    assert (await space.reader.records([A]))[A].endpoint.labels == LABELS
    assert await space.add(labels=dict(reversed(LABELS.items()))) == []


async def test_changed_labels_are_an_update_of_nothing_else(space: Space) -> None:
    await space.add(labels=LABELS, capacity=3)
    await space.make("healthy")
    before = space.fields(A)
    for labels, text in (({"zone": "b"}, "zone=b"), ({}, "")):
        [event] = await space.add(labels=labels, capacity=3)
        assert event.kind is EventKind.REPLICA_UPDATED
        after = space.fields(A)
        assert after["labels"] == text
        assert {name for name in before if before[name] != after[name]} == {"labels", "spec_request", "revision"}


async def test_a_hash_without_the_labels_field_has_no_labels(space: Space) -> None:
    """As a version wrote it that does not know labels."""
    await space.add(capacity=3)
    space.raw.hdel(space.keys.replica(A), "labels")
    assert (await space.reader.records([A]))[A].endpoint.labels == {}
    assert await space.add(capacity=3) == []
    [event] = await space.add(capacity=3, labels=LABELS)
    assert event.kind is EventKind.REPLICA_UPDATED


async def test_labels_are_put_back_after_a_loss(space: Space) -> None:
    await space.add(A, labels=LABELS)
    record = parse_record(A, space.fields(A))
    space.raw.delete(*space.dump())
    entries = [restored_entry("replica", record), removed_entry("removed", B)]
    events = await space.store.restore(entries, view_history_id="old", view_revision="1-0")
    assert events is not None
    assert [event.record and event.record.endpoint.labels for event in events] == [LABELS, {}]
    assert space.fields(A)["labels"] == TEXT


async def test_a_field_of_a_later_version_does_not_harm(space: Space) -> None:
    await space.add(labels=LABELS)
    space.raw.hset(space.keys.replica(A), mapping={"colour": "blue", "mood": ""})
    [event] = await space.add(labels={"zone": "b"})
    assert event.record == (await space.reader.records([A]))[A]
    [inspected] = await space.reader.inspect([A])
    assert inspected.fields["colour"] == "blue"


@pytest.fixture
def config(server: EmbeddedServer, namespace: str) -> RouterConfig:
    return RouterConfig(redis_url=server.url, namespace=namespace, refresh_seconds=0.1)


def configured(config: RouterConfig, labels: dict[str, str]) -> RouterConfig:
    return RouterConfig(
        redis_url=config.redis_url,
        namespace=config.namespace,
        refresh_seconds=0.1,
        replicas=[ReplicaEndpoint(A, labels=labels)],
    )


async def test_every_router_shows_labels_and_their_changes(config: RouterConfig) -> None:
    async with (
        SharedReplicaRegistry(config, health_checks=False) as one,
        SharedReplicaRegistry(config, health_checks=False) as other,
    ):
        replica = await one.register(A, labels=LABELS, by="me")
        assert replica.labels == LABELS

        def shown() -> Any:
            found = other.get(A)
            return found and found.labels

        await until(lambda: shown() == LABELS)
        await other.register(replica.endpoint, labels={"zone": "b"})
        await until(lambda: replica.labels == {"zone": "b"})
        with pytest.raises(ConfigError, match=r"endpoint\.labels: the name 'a b' must be text"):
            await one.register(A, labels={"a b": "c"})
        [document] = await shown_replicas(one)
        assert document["labels"] == {"zone": "b"}


async def test_a_file_changes_labels_that_only_a_file_set(config: RouterConfig) -> None:
    for labels in (LABELS, {"zone": "b"}):
        async with SharedReplicaRegistry(configured(config, labels), health_checks=False) as registry:
            [replica] = registry.all()
            assert replica.labels == labels
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        await registry.register(A, labels={"zone": "c"})
    async with SharedReplicaRegistry(configured(config, LABELS), health_checks=False) as registry:
        [replica] = registry.all()
        assert (replica.labels, replica.record.source) == ({"zone": "c"}, Source.EXPLICIT)


async def test_an_operator_reads_labels_in_json_and_text(space: Space, config: RouterConfig) -> None:
    await space.add(labels=LABELS)
    async with Observer(config) as observer:
        overview = await observer.overview()
        [event] = await observer.last_events(1)
    assert json.loads(json.dumps(overview_document(config, overview)))["replicas"][0]["labels"] == LABELS
    assert json.loads(json.dumps(event_document(event)))["replica"]["labels"] == LABELS
    assert event_line(event).endswith(f"{A} secondary, weight 1, capacity unlimited, labels {TEXT}")
