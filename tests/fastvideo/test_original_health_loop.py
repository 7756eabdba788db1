"""What the health loop of FastVideo's router does, on every way to run ours."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from shared_registry import HttpProbe, Replica, ReplicaEndpoint, ReplicaStatus, RouterConfig, SharedReplicaRegistry
from shared_registry.fastvideo import ReplicaRegistry
from tests.support.replica_server import ReplicaServer
from tests.support.scripted_routers import Refusing
from tests.support.stand_ins import FOREVER_SECONDS, SharedState, make_shared_state, running
from tests.support.until import until

place = pytest.fixture(make_shared_state)
UNKNOWN, HEALTHY, UNHEALTHY = ReplicaStatus.UNKNOWN, ReplicaStatus.HEALTHY, ReplicaStatus.UNHEALTHY
Run = Callable[[RouterConfig, HttpProbe | None], AbstractAsyncContextManager[SharedReplicaRegistry]]


@contextlib.asynccontextmanager
async def drop_in(config: RouterConfig, http_get: HttpProbe | None) -> AsyncIterator[SharedReplicaRegistry]:
    registry = ReplicaRegistry(config.replicas)
    async with running(registry, config, http_get=http_get):
        yield registry


@contextlib.asynccontextmanager
async def shared_and_loop(config: RouterConfig, http_get: HttpProbe | None) -> AsyncIterator[SharedReplicaRegistry]:
    registry = SharedReplicaRegistry(config, health_checks=False)
    async with running(registry, config, http_get=http_get):
        yield registry


@contextlib.asynccontextmanager
async def shared_started_and_loop(
    config: RouterConfig, http_get: HttpProbe | None
) -> AsyncIterator[SharedReplicaRegistry]:
    async with (
        SharedReplicaRegistry(config, health_checks=False) as registry,
        running(registry, config, http_get=http_get),
    ):
        yield registry


@contextlib.asynccontextmanager
async def shared_alone(config: RouterConfig, http_get: HttpProbe | None) -> AsyncIterator[SharedReplicaRegistry]:
    async with SharedReplicaRegistry(config, http_get=http_get) as registry:
        yield registry


@pytest.fixture(params=[drop_in, shared_and_loop, shared_started_and_loop, shared_alone], ids=lambda run: run.__name__)
def run(request: pytest.FixtureRequest) -> Run:
    way: Run = request.param
    return way


class Prober:
    """A probe under the test's control. Urls answer at once and well, unless told otherwise.

    Attributes:
        answers: By host: an error text, an exception to raise, or an event to wait for.
        calls: Every url asked for, in order.
        open: Probes under way by url.
    """

    def __init__(self) -> None:
        self.answers: dict[str, str | Exception | asyncio.Event] = {}
        self.calls: list[str] = []
        self.timeouts: set[float] = set()
        self.open: dict[str, int] = {}
        self.most_open = 0

    async def __call__(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        self.calls.append(url)
        self.timeouts.add(timeout)
        self.open[url] = self.open.get(url, 0) + 1
        self.most_open = max(self.most_open, self.open[url])
        try:
            answer = self.answers.get(url.removesuffix("/health").removeprefix("http://"))
            if isinstance(answer, asyncio.Event):
                await answer.wait()
            elif isinstance(answer, Exception):
                raise answer
            return 1.5, answer if isinstance(answer, str) else None
        finally:
            self.open[url] -= 1

    def count(self, replica: Replica) -> int:
        return self.calls.count(replica.url + "/health")


def config_of(place: SharedState, *names: str, **settings: Any) -> RouterConfig:
    """Return a config that settles within milliseconds, for replicas of these names."""
    quick = {"health_check_interval_seconds": 0.05, "fast_interval_seconds": 0.01, "refresh_seconds": 0.05}
    return place.config([ReplicaEndpoint(f"http://{name}") for name in names], **quick | settings)


ONE_ROUND = {"health_check_interval_seconds": FOREVER_SECONDS, "fast_interval_seconds": FOREVER_SECONDS}


async def test_the_first_round_probes_all_replicas_at_once_without_delay(run: Run, place: SharedState) -> None:
    prober = Prober()
    names = [f"replica-{number}" for number in range(20)]
    prober.answers = {name: asyncio.Event() for name in names}
    config = config_of(place, *names, **ONE_ROUND)
    async with run(config, prober) as registry:
        await until(lambda: sum(prober.open.values()) == len(names))
        assert {replica.health.status for replica in registry.all()} == {UNKNOWN}
        for answer in prober.answers.values():
            assert isinstance(answer, asyncio.Event)
            answer.set()
        await until(lambda: all(replica.is_healthy for replica in registry.all()))
    assert sorted(prober.calls) == sorted(f"http://{name}/health" for name in names)


async def test_every_replica_is_probed_repeatedly_but_never_twice_at_once(run: Run, place: SharedState) -> None:
    prober = Prober()
    async with run(config_of(place, "a", "b", "c"), prober) as registry:
        replicas = registry.all()
        await until(lambda: all(prober.count(replica) >= 5 for replica in replicas))
    assert prober.most_open == 1


async def test_a_probe_receives_origin_path_and_timeout(run: Run, place: SharedState) -> None:
    prober = Prober()
    config = place.config(
        [ReplicaEndpoint("http://10.0.0.1:8000"), ReplicaEndpoint("https://b.example/")],
        health_check_path="/v1/ready?full=1",
        health_check_timeout_seconds=1.25,
    )
    async with run(config, prober):
        await until(lambda: len(prober.calls) >= 2)
    assert sorted(prober.calls[:2]) == ["http://10.0.0.1:8000/v1/ready?full=1", "https://b.example/v1/ready?full=1"]
    assert prober.timeouts == {1.25}


@pytest.mark.parametrize(
    ("answer", "error"),
    [("no answer", "no answer"), (ConnectionError("boom"), "ConnectionError: boom"), (TimeoutError(), "TimeoutError")],
)
async def test_error_texts_and_exceptions_are_failures(
    run: Run, place: SharedState, answer: str | Exception, error: str
) -> None:
    prober = Prober()
    prober.answers["bad"] = answer
    async with run(config_of(place, "bad", "good", failure_threshold=4), prober) as registry:
        bad, good = registry.all()
        await until(lambda: bad.health.status is UNHEALTHY and good.is_healthy)
        assert prober.count(bad) >= 4
        assert bad.record.last_error.startswith(error)
        assert bad.health.last_failure_at is not None
        assert (bad.health.last_ok_at, bad.health.last_latency_ms) == (None, None)
        assert (good.health.last_failure_at, good.health.last_latency_ms) == (None, 1.5)
        assert registry.select() is good


@pytest.mark.parametrize(
    ("results", "status", "failures", "successes"),
    [
        ("+", HEALTHY, 0, 0),
        ("-", UNKNOWN, 1, 0),
        ("-+", HEALTHY, 0, 0),
        ("--", UNHEALTHY, 2, 0),
        ("++-", HEALTHY, 1, 0),
        ("+-+-", HEALTHY, 1, 0),
        ("+--", UNHEALTHY, 2, 0),
        ("--++", UNHEALTHY, 0, 2),
        ("--+++", HEALTHY, 0, 0),
        ("--++-++", UNHEALTHY, 0, 2),
        ("--++-+++", HEALTHY, 0, 0),
    ],
)
async def test_statuses_and_counters_follow_the_thresholds_of_the_config(
    run: Run, place: SharedState, results: str, status: ReplicaStatus, failures: int, successes: int
) -> None:
    """Probes answer by the script, and no more after its end."""
    left = list(results)

    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        if not left:
            await asyncio.Event().wait()
        return 1.5, None if left.pop(0) == "+" else "down"

    config = config_of(
        place, "a", failure_threshold=2, recovery_threshold=3, health_check_timeout_seconds=FOREVER_SECONDS
    )
    async with run(config, probe) as registry:
        replica = registry.all()[0]

        async def as_expected() -> bool:
            await registry.refresh(at_once=True)
            health = replica.health
            found = (health.status, health.consecutive_failures, health.consecutive_successes)
            return not left and found == (status, failures, successes)

        await until(as_expected)
        assert registry.select() is (replica if status is HEALTHY else None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, HEALTHY),
        (302, HEALTHY),
        (399, HEALTHY),
        (400, UNHEALTHY),
        (404, UNHEALTHY),
        (500, UNHEALTHY),
        (503, UNHEALTHY),
    ],
)
async def test_a_status_of_400_or_more_is_a_failure(
    run: Run, place: SharedState, status: int, expected: ReplicaStatus
) -> None:
    async with ReplicaServer() as server:
        server.replica().status = status
        config = config_of(place, server.url().removeprefix("http://"))
        async with run(config, None) as registry:
            replica = registry.all()[0]
            await until(lambda: replica.health.status is not UNKNOWN)
            assert replica.health.status is expected
            assert (replica.health.last_latency_ms is not None) is (expected is HEALTHY)
            assert replica.record.last_error == ("" if expected is HEALTHY else f"HTTP {status}")


async def test_refusing_and_silent_replicas_are_failures_over_http(run: Run, place: SharedState) -> None:
    async with Refusing() as nobody, ReplicaServer() as server:
        host, port = nobody.address
        refusing = f"{host}:{port}"
        server.replica().is_hanging = True
        silent = server.url().removeprefix("http://")
        config = config_of(place, refusing, silent, health_check_timeout_seconds=0.1)
        async with run(config, None) as registry:
            replicas = registry.all()
            await until(lambda: [replica.health.status for replica in replicas] == [UNHEALTHY, UNHEALTHY])
            assert "timeout after 0.1s" in replicas[1].record.last_error


async def test_a_slow_probe_does_not_delay_the_others(run: Run, place: SharedState) -> None:
    prober = Prober()
    prober.answers["slow"] = asyncio.Event()
    config = config_of(place, "slow", "quick", health_check_timeout_seconds=FOREVER_SECONDS)
    async with run(config, prober) as registry:
        slow, quick = registry.all()
        await until(lambda: prober.count(quick) >= 5 and quick.is_healthy)
        assert (slow.health.status, prober.count(slow)) == (UNKNOWN, 1)


async def test_the_loop_ends_promptly_and_keeps_results_so_far(run: Run, place: SharedState) -> None:
    prober = Prober()
    prober.answers["slow"] = asyncio.Event()
    prober.answers["bad"] = "down"
    config = config_of(
        place,
        "slow",
        "bad",
        "good",
        health_check_timeout_seconds=FOREVER_SECONDS,
        failure_threshold=1,
        **ONE_ROUND,
    )
    async with run(config, prober) as registry:
        slow, bad, good = registry.all()
        await until(lambda: len(prober.calls) == 3)  # not yet reported: that takes until the end of the batch
        started = time.monotonic()
    assert time.monotonic() - started < FOREVER_SECONDS / 100
    assert prober.open == {replica.url + "/health": 0 for replica in (slow, bad, good)}
    async with SharedReplicaRegistry(config, health_checks=False) as observer:
        statuses = [replica.health.status for replica in observer.all()]
    assert statuses == [UNKNOWN, UNHEALTHY, HEALTHY]


async def test_live_objects_show_the_last_results(place: SharedState) -> None:
    prober = Prober()
    prober.answers["bad"] = "down"
    async with drop_in(config_of(place, "bad", "good", **ONE_ROUND), prober) as registry:
        bad, good = registry.all()
        await until(lambda: len(prober.calls) == 2 and not any(prober.open.values()))
    assert (bad.health.status, bad.health.consecutive_failures) == (UNKNOWN, 1)
    assert bad.health.last_failure_at is not None
    assert (good.health.status, good.health.last_latency_ms) == (HEALTHY, 1.5)
    assert registry.select() is good
