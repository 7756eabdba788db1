"""What FastVideo's in-process registry does, one behaviour after the other, on each of its stand-ins."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest

from shared_registry import Replica, ReplicaEndpoint, ReplicaStatus, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.fastvideo import ReplicaRegistry
from tests.support.stand_ins import BUILDS, Build, SharedState, make_shared_state, read_counters
from tests.support.until import until

place = pytest.fixture(make_shared_state)
UNKNOWN, HEALTHY, UNHEALTHY = ReplicaStatus.UNKNOWN, ReplicaStatus.HEALTHY, ReplicaStatus.UNHEALTHY
URL = "http://10.0.0.1:8000"
CLOCK_SECONDS = 0.002
"""How much coarser and later the server's clock may be than this process's."""


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest, place: SharedState) -> Build:
    return BUILDS[request.param](place)


def endpoints(tiers: str) -> list[ReplicaEndpoint]:
    """Return a primary for each `p`, another replica for each `s`."""
    return [ReplicaEndpoint(f"http://10.0.0.{at}:8000", primary=tier == "p") for at, tier in enumerate(tiers)]


async def succeed(registry: SharedReplicaRegistry, replica: Replica, *, recovery: int = 2) -> None:
    await registry.record_success(replica, recovery_threshold=recovery, latency_ms=1.5)


async def fail(registry: SharedReplicaRegistry, replica: Replica, *, failure: int = 3) -> None:
    await registry.record_failure(replica, failure_threshold=failure, reason="refused")


async def heal(registry: SharedReplicaRegistry, replica: Replica) -> None:
    while not replica.is_healthy:
        await succeed(registry, replica)


async def break_down(registry: SharedReplicaRegistry, replica: Replica) -> None:
    for _ in range(3):
        await fail(registry, replica)


STEPS = {
    "unknown, healthy at the first success, from which on successes count anew": [
        ("+", HEALTHY, 0, 0),
        ("+", HEALTHY, 0, 1),
        ("+", HEALTHY, 0, 2),
        ("+", HEALTHY, 0, 3),
    ],
    "unknown, unhealthy at the third failure, and counting on": [
        ("-", UNKNOWN, 1, 0),
        ("-", UNKNOWN, 2, 0),
        ("-", UNHEALTHY, 3, 0),
        ("-", UNHEALTHY, 4, 0),
    ],
    "unknown, healthy at the first success after failures": [
        ("-", UNKNOWN, 1, 0),
        ("-", UNKNOWN, 2, 0),
        ("+", HEALTHY, 0, 0),
    ],
    "healthy, unhealthy at the third failure": [
        ("+", HEALTHY, 0, 0),
        ("+", HEALTHY, 0, 1),
        ("-", HEALTHY, 1, 0),
        ("-", HEALTHY, 2, 0),
        ("-", UNHEALTHY, 3, 0),
    ],
    "healthy, where a success between failures starts their count anew": [
        ("+", HEALTHY, 0, 0),
        ("-", HEALTHY, 1, 0),
        ("-", HEALTHY, 2, 0),
        ("+", HEALTHY, 0, 1),
        ("-", HEALTHY, 1, 0),
        ("-", HEALTHY, 2, 0),
        ("-", UNHEALTHY, 3, 0),
    ],
    "unhealthy, healthy at the second success": [
        ("---", UNHEALTHY, 3, 0),
        ("+", UNHEALTHY, 0, 1),
        ("+", HEALTHY, 0, 0),
        ("+", HEALTHY, 0, 1),
    ],
    "unhealthy, where a failure between successes starts their count anew": [
        ("---", UNHEALTHY, 3, 0),
        ("+", UNHEALTHY, 0, 1),
        ("-", UNHEALTHY, 1, 0),
        ("+", UNHEALTHY, 0, 1),
        ("-", UNHEALTHY, 1, 0),
        ("+", UNHEALTHY, 0, 1),
        ("+", HEALTHY, 0, 0),
    ],
    "down and up again, twice": [
        ("+", HEALTHY, 0, 0),
        ("---", UNHEALTHY, 3, 0),
        ("++", HEALTHY, 0, 0),
        ("---", UNHEALTHY, 3, 0),
        ("++", HEALTHY, 0, 0),
    ],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
async def test_statuses_and_counters_change_step_by_step(
    build: Build, steps: list[tuple[str, ReplicaStatus, int, int]]
) -> None:
    async with build([ReplicaEndpoint(URL)]) as registry:
        replica = registry.all()[0]
        for outcomes, status, failures, successes in steps:
            for outcome in outcomes:
                await (succeed if outcome == "+" else fail)(registry, replica)
            assert replica.health.status is status
            assert replica.is_healthy is (status is HEALTHY)
            assert registry.select() is (replica if status is HEALTHY else None)
            await read_counters(registry)
            health = replica.health
            assert (health.status, health.consecutive_failures, health.consecutive_successes) == (
                status,
                failures,
                successes,
            )


@pytest.mark.parametrize("threshold", [1, 2, 5])
async def test_the_thresholds_are_those_of_the_call(build: Build, threshold: int) -> None:
    async with build([ReplicaEndpoint(URL)]) as registry:
        replica = registry.all()[0]
        await succeed(registry, replica)
        for _ in range(threshold):
            assert replica.health.status is HEALTHY
            await fail(registry, replica, failure=threshold)
        assert (replica.health.status, replica.health.consecutive_failures) == (UNHEALTHY, threshold)
        for _ in range(threshold):
            assert replica.health.status is UNHEALTHY
            await succeed(registry, replica, recovery=threshold)
        assert (replica.health.status, replica.health.consecutive_successes) == (HEALTHY, 0)


async def test_at_first_all_are_unknown_and_none_is_selected(build: Build) -> None:
    async with build(endpoints("psp")) as registry:
        for replica in registry.all():
            health = replica.health
            assert (health.status, replica.is_healthy) == (UNKNOWN, False)
            assert (health.consecutive_failures, health.consecutive_successes) == (0, 0)
            assert (health.last_ok_at, health.last_failure_at, health.last_latency_ms) == (None, None, None)
        assert registry.select() is None


async def test_a_success_records_time_and_latency_a_failure_its_time(build: Build) -> None:
    async with build([ReplicaEndpoint(URL)]) as registry:
        replica = registry.all()[0]
        before = time.time() - CLOCK_SECONDS
        await registry.record_success(replica, recovery_threshold=2, latency_ms=12.5)
        await read_counters(registry)
        first = replica.health
        assert first.last_ok_at is not None
        assert before <= first.last_ok_at <= time.time() + CLOCK_SECONDS
        assert (first.last_latency_ms, first.last_failure_at) == (12.5, None)

        await fail(registry, replica)
        await read_counters(registry)
        second = replica.health
        assert second.last_failure_at is not None
        assert first.last_ok_at - CLOCK_SECONDS <= second.last_failure_at <= time.time() + CLOCK_SECONDS
        assert (second.last_ok_at, second.last_latency_ms) == (first.last_ok_at, 12.5)

        await registry.record_success(replica, recovery_threshold=2, latency_ms=0.25)
        await read_counters(registry)
        third = replica.health
        assert third.last_ok_at is not None
        assert third.last_ok_at >= second.last_failure_at - CLOCK_SECONDS
        assert (third.last_failure_at, third.last_latency_ms) == (second.last_failure_at, 0.25)


@pytest.mark.parametrize(
    ("tiers", "healthy", "selected"),
    [
        ("pss", "", None),
        ("pss", "0", 0),
        ("pss", "012", 0),
        ("pss", "12", 1),
        ("pss", "2", 2),
        ("ssp", "012", 2),
        ("ssp", "01", 0),
        ("ssp", "1", 1),
        ("spsp", "0123", 1),
        ("spsp", "023", 3),
        ("spsp", "02", 0),
        ("ppp", "12", 1),
        ("sss", "12", 1),
    ],
)
async def test_the_first_healthy_replica_is_selected_primaries_first(
    build: Build, tiers: str, healthy: str, selected: int | None
) -> None:
    async with build(endpoints(tiers)) as registry:
        replicas = registry.all()
        for at in reversed(healthy):  # what counts is the order of the list, not of recovery
            await heal(registry, replicas[int(at)])
        assert registry.select() is (None if selected is None else replicas[selected])


async def test_selection_follows_the_tiers_as_replicas_fail_and_recover(build: Build) -> None:
    async with build(endpoints("spps")) as registry:
        replicas = registry.all()
        for replica in replicas:
            await heal(registry, replica)
        for falling, then in [(1, 2), (2, 0), (0, 3), (3, None)]:
            await break_down(registry, replicas[falling])
            assert registry.select() is (None if then is None else replicas[then])
        for rising, then in [(3, 3), (0, 0), (2, 2), (1, 1)]:
            await heal(registry, replicas[rising])
            assert registry.select() is replicas[then]


async def test_replicas_are_listed_in_the_order_of_the_list(build: Build) -> None:
    given = [ReplicaEndpoint(f"http://10.0.0.{last}:8000", primary=last in (9, 2, 5)) for last in (9, 7, 2, 8, 5)]
    async with build(given) as registry:
        assert [replica.url for replica in registry.all()] == [endpoint.url for endpoint in given]
        assert [replica.url for replica in registry.primaries()] == [given[at].url for at in (0, 2, 4)]
        assert [replica.primary for replica in registry.all()] == [endpoint.primary for endpoint in given]
        for endpoint, replica in zip(given, registry.all(), strict=True):
            assert registry.get(endpoint.url) is replica
        assert registry.get("http://10.0.0.77:8000") is None


async def test_primaries_are_listed_whatever_their_health(build: Build) -> None:
    async with build(endpoints("psp")) as registry:
        first, second = registry.primaries()
        await heal(registry, first)
        await break_down(registry, second)
        assert registry.primaries() == [first, second]


async def test_returned_lists_belong_to_the_caller(build: Build) -> None:
    async with build(endpoints("ps")) as registry:
        registry.all().clear()
        registry.primaries().clear()
        assert (len(registry.all()), len(registry.primaries())) == (2, 1)


async def test_an_endpoint_keeps_its_given_form(build: Build) -> None:
    given = ReplicaEndpoint("http://GPU-1.example:8000/", name="gpu 1", primary=True, weight=2.5)
    async with build([given]) as registry:
        replica = registry.all()[0]
        assert (replica.url, replica.primary) == (given.url, True)
        assert dataclasses.replace(replica.endpoint, order=None) == given
        assert registry.get(given.url) is replica


async def test_replicas_are_live_objects(build: Build) -> None:
    async with build(endpoints("ps")) as registry:
        kept = registry.all()[0]
        await heal(registry, registry.primaries()[0])
        assert kept.is_healthy
        assert kept is registry.select() is registry.all()[0] is registry.primaries()[0] is registry.get(kept.url)
        await break_down(registry, registry.all()[0])
        assert kept.health.status is UNHEALTHY
        assert not kept.is_healthy


async def test_concurrent_outcomes_all_count(build: Build) -> None:
    async with build(endpoints("pp")) as registry:
        first, second = registry.all()
        await asyncio.gather(
            *(fail(registry, first, failure=10) for _ in range(10)), *(succeed(registry, second) for _ in range(10))
        )
        await read_counters(registry)
        assert (first.health.status, first.health.consecutive_failures) == (UNHEALTHY, 10)
        assert (second.health.status, second.health.consecutive_successes) == (HEALTHY, 9)
        assert registry.select() is second


async def test_outcomes_of_one_replica_leave_the_others_alone(build: Build) -> None:
    async with build(endpoints("pp")) as registry:
        first, second = registry.all()
        await fail(registry, first)
        await heal(registry, second)
        await read_counters(registry)
        assert (first.health.status, first.health.consecutive_failures) == (UNKNOWN, 1)
        assert (second.health.status, second.health.consecutive_failures) == (HEALTHY, 0)


@pytest.mark.parametrize(
    "reason", ["", "refused", "two\nlines", "\udcff\x00", "ü" * 100_000, ConnectionError("refused"), None]
)
async def test_a_failure_counts_whatever_its_reason(build: Build, reason: Any) -> None:
    async with build([ReplicaEndpoint(URL)]) as registry:
        replica = registry.all()[0]
        await registry.record_failure(replica, failure_threshold=1, reason=reason)
        assert replica.health.status is UNHEALTHY


@pytest.mark.parametrize("way", ["shared_started", "drop_in_running"])
async def test_outcomes_never_raise_without_redis_and_count_again_afterwards(
    way: str, own_server: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_server()
    place = SharedState(server.url, "outage")
    place.put_into(monkeypatch)
    async with BUILDS[way](place)(endpoints("pp")) as registry:
        first, second = registry.all()
        await heal(registry, first)
        await asyncio.to_thread(server.kill)
        for _ in range(3):
            await fail(registry, first)
            await succeed(registry, second)
        assert registry.select() is first
        assert (first.health.status, second.health.status) == (HEALTHY, UNKNOWN)

        await asyncio.to_thread(server.start)

        async def counts_again() -> bool:
            await fail(registry, first)
            return not first.is_healthy

        await until(counts_again)
        assert registry.select() is None


@pytest.mark.parametrize(
    "make", [lambda replicas: SharedReplicaRegistry(RouterConfig(replicas=replicas)), ReplicaRegistry]
)
def test_the_registry_is_built_and_read_outside_any_event_loop(
    make: Callable[[list[ReplicaEndpoint]], SharedReplicaRegistry],
) -> None:
    registry = make(endpoints("sp"))
    assert registry.select() is None
    other, primary = registry.all()
    asyncio.run(succeed(registry, other))
    assert registry.select() is other
    asyncio.run(succeed(registry, primary))
    assert registry.select() is primary


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "interval zero": ({"health_check_interval_seconds": 0}, "health_check_interval_seconds.* greater than 0"),
    "interval negative": ({"health_check_interval_seconds": -1.0}, "health_check_interval_seconds.* greater than 0"),
    "timeout zero": ({"health_check_timeout_seconds": 0.0}, "health_check_timeout_seconds.* greater than 0"),
    "timeout negative": ({"health_check_timeout_seconds": -2}, "health_check_timeout_seconds.* greater than 0"),
    "failure threshold": ({"failure_threshold": 0}, "failure_threshold.* at least 1"),
    "recovery threshold": ({"recovery_threshold": 0}, "recovery_threshold.* at least 1"),
}
BAD_REPLICAS = {
    "scheme": (["ftp://10.0.0.1"], "http"),
    "no scheme": (["10.0.0.1:8000"], "http"),
    "path": (["http://10.0.0.1:8000/v1"], "without a path"),
    "query": (["http://10.0.0.1:8000?x=1"], "query/fragment"),
    "fragment": (["http://10.0.0.1:8000#x"], "query/fragment"),
    "twice": (["http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.1:8000"], "Duplicate"),
    "twice, in two spellings": (["http://a:80", "HTTP://A/"], "Duplicate"),
}


@pytest.mark.parametrize(("settings", "text"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_a_wrong_setting_is_a_value_error(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RouterConfig(**settings)


@pytest.mark.parametrize(("urls", "text"), BAD_REPLICAS.values(), ids=BAD_REPLICAS)
@pytest.mark.parametrize("make", [lambda replicas: RouterConfig(replicas=replicas), ReplicaRegistry])
def test_a_wrong_replica_is_a_value_error(
    make: Callable[[list[ReplicaEndpoint]], object], urls: list[str], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        make([ReplicaEndpoint(url) for url in urls])


def test_a_trailing_slash_is_not_a_path() -> None:
    assert RouterConfig(replicas=[ReplicaEndpoint("http://10.0.0.1:8000/")]).replicas[0].url.endswith("/")
