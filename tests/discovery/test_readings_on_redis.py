"""Capacity and readiness that discovered replicas say themselves, with whole registries and real replicas."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry import AdminState, RouterConfig, SharedReplicaRegistry
from shared_registry.config.discovery_rules import ReadingRule
from shared_registry.discovery.readings import UnusableReading, read_capacity, read_readiness
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import ConfigError
from shared_registry.probing.connection import Response
from tests.support.replica_server import ReplicaServer
from tests.support.until import until

BOTH = {
    "capacity_from": {"path": "/health", "field": "gpus.available"},
    "ready_from": {"path": "/readyz", "field": "status", "value": "ready"},
}


@pytest.fixture
async def replica() -> AsyncIterator[ReplicaServer]:
    async with ReplicaServer() as replica:
        yield replica


def says(replica: ReplicaServer, capacity: object) -> None:
    replica.replica().body = json.dumps({"gpus": {"available": capacity}})


def registry_with(server: EmbeddedServer, namespace: str, path: Path, **more: Any) -> SharedReplicaRegistry:
    source = {"kind": "file", "name": "fleet", "path": str(path), "interval_seconds": 0.1, **more}
    return SharedReplicaRegistry(RouterConfig(redis_url=server.url, namespace=namespace, discovery=[source]))  # type: ignore[arg-type]


async def test_capacity_and_readiness_follow_what_replicas_say(
    server: EmbeddedServer, namespace: str, tmp_path: Path, replica: ReplicaServer
) -> None:
    """What cannot be used changes nothing, and a new leader begins with what the registry has."""
    path = tmp_path / "replicas.yaml"
    path.write_text(f"- {{url: {replica.url()}, capacity: 1}}\n")
    says(replica, 4)
    replica.replica().is_ready = False

    def stands(registry: SharedReplicaRegistry) -> list[tuple[int, AdminState]]:
        return [(one.record.endpoint.capacity, one.admin) for one in registry.all()]

    async with registry_with(server, namespace, path, **BOTH) as registry:
        await until(lambda: stands(registry) == [(4, AdminState.DRAINING)], "it is registered, not ready")
        replica.replica().is_ready = True
        await until(lambda: stands(registry) == [(4, AdminState.ACTIVE)], "it is ready")
        says(replica, 2)
        await until(lambda: stands(registry) == [(2, AdminState.ACTIVE)], "it has less room")
        says(replica, 0)
        await until(lambda: stands(registry) == [(2, AdminState.DRAINING)], "it takes none")
        says(replica, 3)
        await until(lambda: stands(registry) == [(3, AdminState.ACTIVE)], "it takes some")
        says(replica, "many")
        replica.replica().requests = 0
        await until(lambda: replica.replica().requests > 6, "it was read again")
        assert stands(registry) == [(3, AdminState.ACTIVE)]
    replica.replica().is_hanging = True
    async with registry_with(server, namespace, path, **BOTH) as registry:
        replica.replica().requests = 0
        await until(lambda: replica.replica().requests > 2, "the next leader has read it")
        assert stands(registry) == [(3, AdminState.ACTIVE)]


async def test_a_new_replica_is_registered_once_it_has_said_its_capacity(
    server: EmbeddedServer, namespace: str, tmp_path: Path, replica: ReplicaServer
) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text(f"- {{url: {replica.url()}}}\n")
    says(replica, None)
    async with registry_with(server, namespace, path, capacity_from=BOTH["capacity_from"]) as registry:
        await until(lambda: replica.replica().requests > 2, "it was read")
        assert not registry.all()
        says(replica, 5)
        await until(lambda: [one.record.endpoint.capacity for one in registry.all()] == [5], "it is registered")


CAPACITY = ReadingRule("/status", "a.b")


@pytest.mark.parametrize(("value", "capacity"), [(0, 0), (7, 7), (7.0, 7), (1_000_000, 1_000_000)])
def test_a_capacity_is_a_whole_number(value: object, capacity: int) -> None:
    assert read_capacity(CAPACITY, Response(503, json.dumps({"a": {"b": value}}).encode())) == capacity


@pytest.mark.parametrize("text", ["", "4", "[]", '{"a": 1}', '{"a": {}}', "[" * 50_000, "{"])
def test_an_answer_without_the_field_cannot_be_used(text: str) -> None:
    for read in (read_capacity, read_readiness):
        with pytest.raises(UnusableReading):
            read(CAPACITY, Response(200, text.encode()))


@pytest.mark.parametrize("value", ["true", '"4"', "-1", "1000001", "1.5", "NaN", "1e400", "null", "[4]"])
def test_other_values_are_no_capacity(value: str) -> None:
    with pytest.raises(UnusableReading):
        read_capacity(CAPACITY, Response(200, f'{{"a": {{"b": {value}}}}}'.encode()))


def test_ready_is_what_has_the_value() -> None:
    def ready(value: object, wanted: bool | int | str = True) -> bool:
        return read_readiness(ReadingRule("/", "ok", wanted), Response(200, json.dumps({"ok": value}).encode()))

    assert (ready(True), ready(False), ready(1), ready("true")) == (True, False, False, False)
    assert (ready("ready", "ready"), ready("warming", "ready"), ready(1, 1), ready(True, 1)) == (
        True,
        False,
        True,
        False,
    )


@pytest.mark.parametrize(
    "reading",
    [
        "/readyz",
        {"path": "/readyz"},
        {"path": "readyz", "field": "a"},
        {"path": "/a b", "field": "a"},
        {"path": "/\r\nX: y", "field": "a"},
        {"path": "/", "field": ""},
        {"path": "/", "field": "a..b"},
        {"path": "/", "field": "a", "value": 1},
    ],
)
def test_what_is_no_reading_is_refused(reading: object) -> None:
    source = {"kind": "file", "name": "fleet", "path": "x.yaml", "capacity_from": reading}
    with pytest.raises(ConfigError, match="capacity_from"):
        RouterConfig(discovery=[source])  # type: ignore[arg-type]
