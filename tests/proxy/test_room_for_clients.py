"""How many clients a router has room for, and what it says about that."""

from __future__ import annotations

import logging

import pytest

from shared_registry.config import RouterConfig
from shared_registry.model import ReplicaEndpoint
from shared_registry.proxy import descriptors
from shared_registry.proxy.descriptors import Descriptors


class Process:
    """What a router's descriptors go by."""

    def __init__(self, max_clients: int | None = None) -> None:
        self.clients = self.idle = self.replicas = self.closings = 0
        self.descriptors = Descriptors(
            replicas=lambda: self.replicas,
            idle=lambda: self.idle,
            close_idle=self.close_idle,
        )
        self.descriptors.max_clients = max_clients
        self.descriptors.limit(lambda: self.clients)

    def close_idle(self) -> None:
        self.idle = 0
        self.closings += 1


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setattr(descriptors, "soft_limit", lambda: 1024)
    monkeypatch.setattr(descriptors, "_count_open", lambda: 10)
    return Process()


def config_of(*capacities: int, **settings: float) -> RouterConfig:
    endpoints = [ReplicaEndpoint(f"http://replica-{at}:80", capacity=one) for at, one in enumerate(capacities)]
    return RouterConfig(replicas=endpoints, **settings)  # type: ignore[arg-type]


def test_a_limit_by_the_settings_is_logged_at_its_edges(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    limited = Process(max_clients=100)
    limited.clients = 99
    assert limited.descriptors.have_room(more=1, sessions=0)
    assert not limited.descriptors.have_room(more=2, sessions=0)
    assert not limited.descriptors.have_room(more=2, sessions=0)
    limited.clients = 95
    assert limited.descriptors.have_room(more=1, sessions=0)
    limited.clients = 80
    assert limited.descriptors.have_room(more=1, sessions=0)
    assert limited.descriptors.have_room(more=1, sessions=0)
    assert caplog.messages == ["router: full: max_clients is 100; refusing more", "router: has room again"]


def test_each_client_needs_descriptors_for_its_session(process: Process) -> None:
    process.replicas = 34  # 1024 - 10 - 64 - 16 - 34
    process.clients = 449
    assert process.descriptors.have_room(more=1, sessions=0)
    assert not process.descriptors.have_room(more=2, sessions=0)
    assert process.descriptors.have_room(more=1, sessions=450)
    assert not process.descriptors.have_room(more=1, sessions=451)


def test_half_the_descriptors_remain_for_clients_however_many_replicas(process: Process) -> None:
    process.replicas = 100_000
    assert process.descriptors.room() == 512


def test_idle_connections_are_closed_only_when_necessary(process: Process) -> None:
    process.clients, process.idle = 300, 100
    process.descriptors.make_room(300)
    assert process.closings == 0
    process.idle = 400
    process.descriptors.make_room(300)
    assert process.closings == 1


def test_a_full_router_logs_it_once(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    process.clients = 600
    for _ in range(3):
        process.descriptors.have_room(more=1, sessions=0)
    process.clients = 100
    for _ in range(3):
        process.descriptors.have_room(more=1, sessions=0)
    assert [record.message.split(":")[1].split()[0] for record in caplog.records] == ["full", "has"]


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        (config_of(300, 200), 92 + 2 * 500),
        (config_of(300, 0), 92 + 2 * 1000),
        (config_of(), 90 + 2 * 1000),
        (config_of(4, 4, queue_timeout_seconds=1.0), 92 + 2 * 10_008),
    ],
)
def test_a_router_with_too_few_descriptors_warns(
    process: Process, caplog: pytest.LogCaptureFixture, config: RouterConfig, needed: int
) -> None:
    process.descriptors.report(config)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"which takes {needed}:" in record.message
    assert "LimitNOFILE=" in record.message


def test_a_router_with_enough_descriptors_does_not_warn(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    process.descriptors.report(config_of(200, 200))
    assert caplog.records == []
