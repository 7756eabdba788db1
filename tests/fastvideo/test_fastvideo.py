"""The original's names on the shared registry: where settings come from, and what its loop does to a registry."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import json
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis import Redis

from shared_registry import (
    AdminState,
    ConfigError,
    EventKind,
    KeyConflict,
    SharedReplicaRegistry,
    UsageError,
    fastvideo,
)
from shared_registry.embedded import EmbeddedServer
from shared_registry.fastvideo import (
    Replica,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRegistry,
    ReplicaStatus,
    RouterConfig,
    run_health_check_loop,
)
from shared_registry.store.keys import Keys
from tests.support.replica_server import ReplicaServer
from tests.support.stand_ins import FOREVER_SECONDS, SharedState, make_shared_state, running
from tests.support.until import until

place = pytest.fixture(make_shared_state)
A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"


@dataclass
class ForeignEndpoint:
    """As another package would define it."""

    url: str
    name: str | None = None
    primary: bool = False
    weight: float = 1.0


@dataclass
class ForeignConfig:
    """As another package would define it, for quick tests."""

    host: str = "0.0.0.0"
    port: int = 9000
    replicas: list[ForeignEndpoint] = field(default_factory=list)
    health_check_path: str = "/health"
    health_check_interval_seconds: float = 0.05
    health_check_timeout_seconds: float = 2
    failure_threshold: int = 3
    recovery_threshold: int = 2


@pytest.fixture
def raw(place: SharedState) -> Iterator[Any]:
    with Redis.from_url(place.redis_url, decode_responses=True) as client:
        yield client


async def answer(url: str, *, timeout: float) -> tuple[float, str | None]:
    return 1.5, None


class SettableProbe:
    """Succeeds until a test sets an error."""

    error: str | None = None

    async def __call__(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.5, self.error


@contextlib.asynccontextmanager
async def one_healthy(probe: SettableProbe) -> AsyncIterator[tuple[ReplicaRegistry, Replica, asyncio.Task[None]]]:
    """Run the loop for one replica, until it is healthy and beyond."""
    registry = ReplicaRegistry([ReplicaEndpoint(A)])
    async with running(registry, ForeignConfig(), http_get=probe) as loop:
        replica = registry.all()[0]
        await until(lambda: replica.is_healthy)
        yield registry, replica, loop


def test_every_class_is_constructed_like_the_originals() -> None:
    assert ReplicaEndpoint(A) == ReplicaEndpoint(url=A, name=None, primary=False, weight=1.0)
    config = RouterConfig()
    assert (config.host, config.port, config.replicas, config.health_check_path) == ("0.0.0.0", 9000, [], "/health")
    assert (config.health_check_interval_seconds, config.health_check_timeout_seconds) == (5.0, 2.0)
    assert (config.failure_threshold, config.recovery_threshold) == (3, 2)
    assert [status.value for status in ReplicaStatus] == ["unknown", "healthy", "unhealthy"]
    replica = Replica(endpoint=ReplicaEndpoint(A, primary=True), health=ReplicaHealth(status=ReplicaStatus.HEALTHY))
    assert (replica.url, replica.primary, replica.is_healthy) == (A, True, True)
    assert Replica(ReplicaEndpoint(A)).health == ReplicaHealth(ReplicaStatus.UNKNOWN, None, None, 0, 0, None)


def test_the_loop_takes_the_originals_arguments() -> None:
    parameters = inspect.signature(run_health_check_loop).parameters.values()
    assert [(parameter.name, parameter.kind.name, parameter.default) for parameter in parameters] == [
        ("registry", "POSITIONAL_OR_KEYWORD", inspect.Parameter.empty),
        ("config", "POSITIONAL_OR_KEYWORD", inspect.Parameter.empty),
        ("stop_event", "KEYWORD_ONLY", inspect.Parameter.empty),
        ("http_get", "KEYWORD_ONLY", None),
    ]


def test_settings_come_from_the_environment_and_replicas_from_the_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARED_REGISTRY_REDIS_URL", "redis://redis.example:7000/2")
    monkeypatch.setenv("SHARED_REGISTRY_NAMESPACE", "ltx2")
    monkeypatch.setenv("SHARED_REGISTRY_ROUTER_ID", "router-7")
    monkeypatch.setenv("SHARED_REGISTRY_REPLICAS", "http://10.9.9.9:1")
    registry = ReplicaRegistry([ReplicaEndpoint(A), ReplicaEndpoint(B, primary=True)])
    assert isinstance(registry, SharedReplicaRegistry)
    assert (registry.config.redis_url, registry.config.namespace) == ("redis://redis.example:7000/2", "ltx2")
    assert (registry.config.router_id, registry.router_key) == ("router-7", "")
    assert not registry.health_checks
    assert [replica.url for replica in registry.all()] == [A, B]


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARED_REGISTRY_LEASE_SECONDS", "soon")
    with pytest.raises(ConfigError, match="SHARED_REGISTRY_LEASE_SECONDS"):
        ReplicaRegistry([ReplicaEndpoint(A)])


def test_replicas_of_another_package_are_copied() -> None:
    given = [ForeignEndpoint(A, name="gpu 1", primary=True, weight=2), ForeignEndpoint(B)]
    registry = ReplicaRegistry(iter(given))
    assert registry.all()[0].endpoint == ReplicaEndpoint(A, name="gpu 1", primary=True, weight=2.0, order=0)
    given[0].primary = False
    assert [replica.url for replica in registry.primaries()] == [A]


def test_an_empty_list_of_replicas_is_accepted() -> None:
    """Other routers may bring replicas."""
    registry = ReplicaRegistry([])
    assert (registry.all(), registry.select()) == ([], None)


async def test_a_foreign_config_and_its_endpoints_are_enough(place: SharedState) -> None:
    async with ReplicaServer() as server:
        config = ForeignConfig(replicas=[ForeignEndpoint(server.url(), primary=True)])
        registry = ReplicaRegistry(config.replicas)
        async with running(registry, config):
            await until(lambda: registry.select() is not None)
            replica = registry.select()
            assert replica is not None
            assert (replica.url, replica.primary) == (server.url(), True)


@pytest.mark.parametrize("config", [None, {}, object(), {"failure_threshold": 3}])
async def test_a_config_without_settings_is_refused(config: object) -> None:
    with pytest.raises(ConfigError, match=f"config: {type(config).__name__} .*pass a RouterConfig"):
        await run_health_check_loop(ReplicaRegistry([]), config, stop_event=asyncio.Event())


async def test_a_wrong_setting_in_the_config_is_a_value_error() -> None:
    config = ForeignConfig(health_check_interval_seconds=0)
    with pytest.raises(ValueError, match="health_check_interval_seconds"):
        await run_health_check_loop(ReplicaRegistry([]), config, stop_event=asyncio.Event())


async def test_a_registry_that_checks_health_itself_is_refused() -> None:
    registry = SharedReplicaRegistry(RouterConfig())
    with pytest.raises(UsageError, match="health_checks=False"):
        await run_health_check_loop(registry=registry, config=registry.config, stop_event=asyncio.Event())


async def test_a_second_loop_is_refused_and_the_first_continues(place: SharedState) -> None:
    registry = ReplicaRegistry([ReplicaEndpoint(A)])
    replica = registry.all()[0]
    async with running(registry, ForeignConfig(), http_get=answer) as first:
        await until(lambda: registry.is_leader)
        with pytest.raises(UsageError, match="already"):
            await run_health_check_loop(registry, ForeignConfig(), stop_event=asyncio.Event())
        await until(lambda: replica.is_healthy)
        assert (registry.is_started, registry.is_leader, first.done()) == (True, True, False)


async def test_the_loop_starts_and_stops_a_registry_repeatedly(place: SharedState, raw: Any) -> None:
    registry = ReplicaRegistry([ReplicaEndpoint(A)])
    keys = Keys(place.namespace)
    for _ in range(2):
        async with running(registry, ForeignConfig(), http_get=answer):
            await until(lambda: registry.is_leader)
            assert raw.zrange(keys.routers, 0, -1) == [registry.router_key]
        assert not registry.is_started
        assert not registry.is_leader
        assert (raw.exists(keys.leader), raw.zcard(keys.routers)) == (0, 0)


async def test_replicas_are_listed_all_the_time_while_the_registry_starts(place: SharedState) -> None:
    registry = ReplicaRegistry([ReplicaEndpoint(A, primary=True), ReplicaEndpoint(B)])
    first, second = registry.all()
    async with running(registry, ForeignConfig(), http_get=answer), asyncio.timeout(30):
        while not (first.is_healthy and second.is_healthy):
            assert (registry.get(A), registry.get(B), registry.all()) == (first, second, [first, second])
            assert (first.admin, second.admin, registry.primaries()) == (AdminState.ACTIVE, AdminState.ACTIVE, [first])
            await asyncio.sleep(0)


async def test_the_loop_does_not_stop_a_registry_started_by_others(place: SharedState, raw: Any) -> None:
    async with SharedReplicaRegistry(place.config([ReplicaEndpoint(A)]), health_checks=False) as registry:
        async with running(registry, ForeignConfig(), http_get=answer):
            await until(lambda: registry.select() is not None)
        assert (registry.is_started, registry.is_leader) == (True, False)
        assert raw.exists(Keys(place.namespace).leader) == 0
        await registry.drain(A)  # it still works


async def test_a_stop_event_set_before_ends_the_loop_at_once() -> None:
    class Unused(SharedReplicaRegistry):
        async def start(self, **options: Any) -> None:
            raise AssertionError

    stop_event = asyncio.Event()
    stop_event.set()
    await run_health_check_loop(Unused(RouterConfig(), health_checks=False), RouterConfig(), stop_event=stop_event)


async def test_cancelling_ends_the_loop_cleanly(place: SharedState, raw: Any) -> None:
    registry = ReplicaRegistry([ReplicaEndpoint(A)])
    loop = run_health_check_loop(registry, ForeignConfig(), stop_event=asyncio.Event(), http_get=answer)
    others = asyncio.all_tasks()
    task = asyncio.create_task(loop)
    await until(lambda: registry.select() is not None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    keys = Keys(place.namespace)
    assert (registry.is_started, raw.exists(keys.leader), raw.zcard(keys.routers)) == (False, 0, 0)
    assert asyncio.all_tasks() == others


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """A Redis that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@contextlib.contextmanager
def refusing_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"redis://127.0.0.1:{port}/0"


@pytest.mark.parametrize("kind", [refusing_server, silent_server])
async def test_without_redis_the_loop_retries_and_still_ends_promptly(
    kind: Callable[[], contextlib.AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SHARED_REGISTRY_REDIS_TIMEOUT_SECONDS", "0.2")
    with kind() as url:
        monkeypatch.setenv("SHARED_REGISTRY_REDIS_URL", url)
        registry = ReplicaRegistry([ReplicaEndpoint(A)])
        async with running(registry, ForeignConfig(), http_get=answer) as loop:
            await until(lambda: "waiting for redis://" in caplog.text)
            assert not loop.done()
            assert (registry.select(), len(registry.all())) == (None, 1)
            started = time.monotonic()
        assert time.monotonic() - started < 10
    assert not registry.is_started


async def test_the_loop_begins_once_redis_is_there(
    own_server: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    SharedState(server.url, "late").put_into(monkeypatch)
    await asyncio.to_thread(server.kill)
    registry = ReplicaRegistry([ReplicaEndpoint(A)])
    replica = registry.all()[0]
    async with running(registry, ForeignConfig(), http_get=answer):
        await until(lambda: "waiting for redis://" in caplog.text)
        await asyncio.to_thread(server.start)
        await until(lambda: registry.select() is replica)


async def test_an_outage_changes_no_health_and_probing_continues_afterwards(
    own_server: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_server()
    SharedState(server.url, "outage").put_into(monkeypatch)
    probe = SettableProbe()
    async with one_healthy(probe) as (registry, replica, loop):
        await asyncio.to_thread(server.kill)
        probe.error = "down"
        await until(lambda: not registry.is_leader)
        assert registry.select() is replica
        await asyncio.to_thread(server.start)
        await until(lambda: replica.health.status is ReplicaStatus.UNHEALTHY)
        assert not loop.done()


async def test_many_outcomes_wait_for_silent_redis_no_longer_than_one(
    own_server: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_server()
    SharedState(server.url, "silence").put_into(monkeypatch)
    monkeypatch.setenv("SHARED_REGISTRY_REDIS_TIMEOUT_SECONDS", "1")
    async with ReplicaRegistry([ReplicaEndpoint(f"http://10.0.0.{at}:8000") for at in range(30)]) as registry:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            await asyncio.gather(
                *(registry.record_failure(each, failure_threshold=3, reason="down") for each in registry.all())
            )
            assert time.monotonic() - started < 15
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_an_error_that_waiting_cannot_fix_ends_the_loop(
    place: SharedState, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    raw.set(Keys(place.namespace).meta, "something else")
    registry = ReplicaRegistry([ReplicaEndpoint(A)])
    with pytest.raises(KeyConflict, match=":meta"):
        await run_health_check_loop(registry, ForeignConfig(), stop_event=asyncio.Event(), http_get=answer)
    assert not registry.is_started
    assert [record.levelno for record in caplog.records if "health check loop has ended" in record.getMessage()] == [
        logging.CRITICAL
    ]
    raw.delete(Keys(place.namespace).meta)


async def test_a_passing_failure_of_the_loop_is_logged(
    place: SharedState, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    probe = SettableProbe()
    async with one_healthy(probe) as (_, replica, loop):
        full = Keys(place.namespace).full
        raw.set(full, "not the registry's")
        await until(lambda: "no probe results could be reported" in caplog.text)
        assert not loop.done()
        raw.delete(full)
        probe.error = "down"
        await until(lambda: replica.health.status is ReplicaStatus.UNHEALTHY)


async def test_one_router_probes_for_all_until_another_takes_over(
    place: SharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_REGISTRY_LEASE_SECONDS", "60")
    calls: list[int] = []

    def prober(number: int) -> Any:
        async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
            calls.append(number)
            return 1.5, None

        return probe

    registries = [ReplicaRegistry([ReplicaEndpoint(A, primary=True)]), ReplicaRegistry([ReplicaEndpoint(B)])]
    async with contextlib.AsyncExitStack() as stack:
        async with running(registries[0], ForeignConfig(), http_get=prober(0)):
            await until(lambda: registries[0].is_leader)
            await stack.enter_async_context(running(registries[1], ForeignConfig(), http_get=prober(1)))
            await until(lambda: all(len(registry.all()) == 2 for registry in registries))
            await until(lambda: all(replica.is_healthy for registry in registries for replica in registry.all()))
            choices = [registry.select() for registry in registries]
            assert [choice.url for choice in choices if choice] == [A, A]
            assert set(calls) == {0}
        calls.clear()
        await until(lambda: len(calls) > 2)
        assert set(calls) == {1}


async def test_times_and_latencies_reach_all_routers_without_status_changes(
    place: SharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_REGISTRY_REFRESH_SECONDS", "0.05")
    latencies = iter(range(1, 10_000))

    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        return float(next(latencies)), None

    leader, follower = ReplicaRegistry([ReplicaEndpoint(A)]), ReplicaRegistry([])
    async with running(leader, ForeignConfig(), http_get=probe):
        await until(lambda: leader.select() is not None)
        async with running(follower, ForeignConfig(), http_get=probe):
            await until(lambda: bool(follower.all()))
            for registry in (leader, follower):
                replica = registry.all()[0]
                before = replica.health
                assert before.last_ok_at is not None
                assert before.last_latency_ms is not None

                def is_later(replica: Replica = replica, before: ReplicaHealth = before) -> bool:
                    health = replica.health
                    return (health.last_ok_at or 0) > (before.last_ok_at or 0) and health.last_latency_ms != (
                        before.last_latency_ms
                    )

                await until(is_later)
                assert replica.health.status is ReplicaStatus.HEALTHY


async def test_the_registry_sets_the_lease_the_config_sets_health_checks(
    place: SharedState, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_REGISTRY_LEASE_SECONDS", "60")
    monkeypatch.setenv("SHARED_REGISTRY_HEALTH_CHECK_PATH", "/from-the-environment")
    monkeypatch.setenv("SHARED_REGISTRY_FAILURE_THRESHOLD", "1")
    registry = ReplicaRegistry([ReplicaEndpoint(A)])
    replica = registry.all()[0]
    urls = set()

    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        urls.add(url)
        return 1.5, "down"

    config = RouterConfig(health_check_interval_seconds=0.05, failure_threshold=4)
    async with running(registry, config, http_get=probe):
        await until(lambda: replica.health.status is ReplicaStatus.UNHEALTHY)
        verdicts = [event.record for event in await registry.events() if event.kind is EventKind.REPLICA_UNHEALTHY]
        assert [verdict.health.consecutive_failures for verdict in verdicts if verdict] == [4]
        assert raw.pttl(Keys(place.namespace).leader) > 50_000
    assert urls == {f"{A}/health"}


async def test_settings_missing_in_a_foreign_config_come_from_the_registry(
    place: SharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_REGISTRY_HEALTH_CHECK_EXPECT", json.dumps({"status": "ready"}))
    async with ReplicaServer() as server:
        server.replica().is_ready = False
        registry = ReplicaRegistry([ReplicaEndpoint(server.url())])
        config = ForeignConfig(health_check_path="/readyz", failure_threshold=1)
        async with running(registry, config):
            replica = registry.all()[0]
            await until(lambda: replica.health.status is ReplicaStatus.UNHEALTHY)
            assert "warming" in replica.record.last_error
            server.replica().is_ready = True
            await until(lambda: replica.is_healthy)


def test_every_health_setting_of_the_loop_is_a_setting() -> None:
    assert set(fastvideo.HEALTH_SETTINGS) <= {item.name for item in dataclasses.fields(RouterConfig)}


async def test_probes_in_progress_end_with_the_loop_and_count_nothing(place: SharedState) -> None:
    seen: list[str] = []

    async def hang(url: str, *, timeout: float) -> tuple[float, str | None]:
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")
        return 0.0, None

    registry = ReplicaRegistry([ReplicaEndpoint(A)])
    config = ForeignConfig(health_check_timeout_seconds=FOREVER_SECONDS)
    async with running(registry, config, http_get=hang):
        await until(lambda: bool(seen))
    assert seen == ["begun", "ended"]
    assert registry.all()[0].health == ReplicaHealth()
