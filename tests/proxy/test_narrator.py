"""What a router's log says of replicas, the leader and where new sessions go; each change once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.proxy import narrator
from shared_registry.proxy.narrator import PANICKING, Narrator
from tests.support.until import until

SPARING = "sessions that find no free slot on a healthy replica use others"
A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"


class Fleet:
    """A registry whose replicas answer as they are told."""

    def __init__(self, server: EmbeddedServer, namespace: str) -> None:
        self.errors: dict[str, str | None] = {A: None, B: None}
        config = RouterConfig(
            redis_url=server.url,
            namespace=namespace,
            replicas=[ReplicaEndpoint(A, name="a", primary=True), ReplicaEndpoint(B)],
            health_check_interval_seconds=0.2,
            health_check_timeout_seconds=0.1,
            fast_interval_seconds=0.05,
            failure_threshold=2,
            lease_seconds=60.0,
        )
        self.registry = SharedReplicaRegistry(config, http_get=self._probe)

    async def _probe(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.0, self.errors[url.removesuffix("/health")]


@pytest.fixture
async def fleet(server: EmbeddedServer, namespace: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(server, namespace)
    async with fleet.registry:
        await until(lambda: all(replica.is_healthy for replica in fleet.registry.all()))
        await until(lambda: fleet.registry.leader is not None)
        yield fleet


async def test_each_change_is_logged_once(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="shared_registry.proxy.narrator")
    registry = fleet.registry
    with Narrator(registry).narrating():
        leader = registry.leader
        assert leader is not None
        assert caplog.messages == [
            f"leader: {leader.router} leads in epoch {leader.epoch}",
            f"replica: a ({A}) is healthy",
            f"replica: {B} is healthy",
            f"select: new sessions go to a ({A})",
        ]
        caplog.clear()
        fleet.errors[A] = "HTTP 503"
        await until(lambda: f"select: new sessions go to {B}" in caplog.messages)
        await registry.drain(B, by="me", reason="update")
        await until(lambda: f"select: {PANICKING}" in caplog.messages)
        await registry.deregister(A)
        await until(lambda: "select: no replica can take a session" in caplog.messages)
        await asyncio.sleep(0.3)  # the event stream brings what the replies have brought
    await registry.enable(B)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"replica: a ({A}) is unhealthy (HTTP 503)"),
        ("INFO", f"select: new sessions go to {B}"),
        ("INFO", f"replica: {B} is draining (update)"),
        ("WARNING", f"panic: 0 of 1 active replicas healthy, panic_percent is 50: {SPARING}"),
        ("ERROR", f"select: {PANICKING}"),
        ("INFO", f"replica: a ({A}) is removed"),
        ("INFO", "panic: is over"),
        ("ERROR", "select: no replica can take a session"),
    ]
    assert [getattr(record, "replica", None) for record in caplog.records] == [A, None, B, None, None, A, None, None]


async def test_a_panic_is_logged_at_the_start(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="shared_registry.proxy.narrator")
    fleet.errors = {A: "HTTP 503", B: "HTTP 503"}
    await until(lambda: not any(replica.is_healthy for replica in fleet.registry.all()), "both are down")
    with Narrator(fleet.registry, pool="video").narrating():
        assert f"panic: video: 0 of 2 active replicas healthy, panic_percent is 50: {SPARING}" in caplog.messages
        assert caplog.messages[-1] == f"select: video: {PANICKING}"
        fleet.errors = {A: None, B: None}
        await until(lambda: "panic: video: is over" in caplog.messages, "one is healthy again")


async def test_a_narrator_that_has_ended_logs_nothing(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    with Narrator(fleet.registry, pool="video").narrating():
        pass
    caplog.set_level(logging.INFO, logger="shared_registry.proxy.narrator")
    await fleet.registry.drain(A)
    await asyncio.sleep(0.1)
    assert caplog.messages == []


async def test_a_large_fleet_is_one_line_at_the_start(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_registry.proxy.narrator.MOST_LINES", 1)
    caplog.set_level(logging.INFO, logger="shared_registry.proxy.narrator")
    registry = fleet.registry
    with Narrator(registry, pool="video").narrating():
        assert "replicas: video: 2 in all: 2 healthy" in caplog.messages
    fleet.errors[A] = "HTTP 503"
    await until(lambda: any(one.health.status.value == "unhealthy" for one in registry.all()), "it is down")
    await registry.drain(B)
    caplog.clear()
    with Narrator(registry).narrating():
        [line] = [one for one in caplog.records if one.getMessage().startswith("replicas: ")]
        assert (line.levelname, line.getMessage()) == ("WARNING", "replicas: 2 in all: 1 draining, 1 unhealthy")
        assert not any(text.startswith("replica: ") for text in caplog.messages)
        await registry.enable(B)
        await until(lambda: f"replica: {B} is active" in caplog.messages, "later changes have a line each")


async def test_a_fleet_never_healthy_is_an_error_once_judged(
    server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="shared_registry.proxy.narrator")
    fleet = Fleet(server, namespace)
    fleet.errors = {A: "HTTP 503", B: "HTTP 503"}
    async with fleet.registry:
        with Narrator(fleet.registry).narrating():
            await until(lambda: any(record.levelname == "ERROR" for record in caplog.records), "it is an error")
    said = [
        record.levelname for record in caplog.records if record.getMessage() == "select: no replica can take a session"
    ]
    assert said == ["INFO", "ERROR"]


async def test_a_start_without_an_election_is_logged(
    server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrator, "PATIENCE_LEASES", 0.6)
    caplog.set_level(logging.WARNING, logger="shared_registry.proxy.narrator")
    config = RouterConfig(redis_url=server.url, namespace=namespace, lease_seconds=3.0)
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        with Narrator(registry).narrating():
            await until(lambda: any("elected" in text for text in caplog.messages))
    [record] = [one for one in caplog.records if "elected" in one.getMessage()]
    assert record.getMessage() == "leader: nobody was elected within 1.8 s after the start"
    assert vars(record)["namespace"] == namespace


async def test_an_election_after_the_start_is_no_warning(
    server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrator, "PATIENCE_LEASES", 0.08)
    caplog.set_level(logging.WARNING, logger="shared_registry.proxy.narrator")
    config = RouterConfig(redis_url=server.url, namespace=namespace, lease_seconds=60.0)
    async with SharedReplicaRegistry(config) as registry:
        with Narrator(registry).narrating():
            await until(lambda: registry.leader is not None)
            await asyncio.sleep(narrator.PATIENCE_LEASES * config.lease_seconds)
    assert not [text for text in caplog.messages if "elected" in text]
