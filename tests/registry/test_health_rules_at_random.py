"""Random outcomes against the rules written down a second time, on this router alone and shared over a real server."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from shared_registry import EventKind, Replica, ReplicaEndpoint, ReplicaHealth, RouterConfig, SharedReplicaRegistry
from shared_registry.fastvideo import ReplicaRegistry
from tests.support.effort import effort
from tests.support.health_rule import Counted
from tests.support.stand_ins import SharedState, make_shared_state, read_counters
from tests.support.until import until

place = pytest.fixture(make_shared_state)


@dataclass(frozen=True)
class Step:
    """One outcome of one replica, counted by one of two routers."""

    replica: int
    ok: bool
    threshold: int
    latency_ms: float
    router: int


@dataclass
class Rules:
    """One replica as the original would have it.

    Among several routers, a failure makes a replica unhealthy only if nobody has reached it for an interval and more,
    which is longer than a script takes here.
    """

    primary: bool
    is_shared: bool = False
    counted: Counted = field(default_factory=Counted)
    latency_ms: float | None = None
    kinds: set[bool] = field(default_factory=set)
    changes: int = 0

    @property
    def status(self) -> str:
        return self.counted.status

    def take(self, step: Step) -> None:
        before = self.status
        self.counted = self.counted.after(
            is_ok=step.ok, failure_threshold=step.threshold, recovery_threshold=step.threshold
        )
        if self.is_shared and self.status == "unhealthy" != before and True in self.kinds:
            self.counted = self.counted._replace(status=before)
        self.kinds.add(step.ok)
        if step.ok:
            self.latency_ms = step.latency_ms
        self.changes += self.status != before

    def assert_agrees(self, health: ReplicaHealth) -> None:
        expected = (*self.counted, self.latency_ms, True in self.kinds, False in self.kinds)
        assert expected == (
            health.status.value,
            health.consecutive_failures,
            health.consecutive_successes,
            health.last_latency_ms,
            health.last_ok_at is not None,
            health.last_failure_at is not None,
        )


def expected_choice(rules: list[Rules]) -> int | None:
    for wanted in (True, False):
        for at, rule in enumerate(rules):
            if rule.status == "healthy" and rule.primary is wanted:
                return at
    return None


steps = st.lists(
    st.builds(
        Step,
        replica=st.integers(0, 3),
        ok=st.booleans(),
        threshold=st.integers(1, 4),
        latency_ms=st.integers(0, 10**7).map(lambda thousandths: thousandths / 1000),  # the precision that is kept
        router=st.integers(0, 1),
    ),
    max_size=40,
)


scenarios = given(primaries=st.lists(st.booleans(), min_size=1, max_size=4), script=steps)
without_deadline = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def endpoints(primaries: list[bool]) -> list[ReplicaEndpoint]:
    return [ReplicaEndpoint(f"http://10.0.0.{at}:8000", primary=primary) for at, primary in enumerate(primaries)]


def choice(registry: SharedReplicaRegistry) -> int | None:
    replica = registry.select()
    return None if replica is None else registry.all().index(replica)


async def take(registry: SharedReplicaRegistry, replica: Replica, step: Step) -> None:
    if step.ok:
        await registry.record_success(replica, recovery_threshold=step.threshold, latency_ms=step.latency_ms)
    else:
        await registry.record_failure(replica, failure_threshold=step.threshold, reason="down")
    await read_counters(registry)


async def follow(routers: list[SharedReplicaRegistry], rules: list[Rules], script: list[Step]) -> None:
    """Take every step with the router that it names, and compare what that router shows of the replica."""
    for step in script:
        registry, at = routers[step.router % len(routers)], step.replica % len(rules)
        replica = registry.all()[at]
        await take(registry, replica, step)
        rules[at].take(step)
        rules[at].assert_agrees(replica.health)
        if len(routers) == 1:
            assert choice(registry) == expected_choice(rules)


@pytest.mark.parametrize("kind", ["shared", "drop-in"])
@without_deadline
@scenarios
def test_an_unstarted_registry_follows_the_health_rules(kind: str, primaries: list[bool], script: list[Step]) -> None:
    replicas = endpoints(primaries)
    registry = (
        ReplicaRegistry(replicas) if kind == "drop-in" else SharedReplicaRegistry(RouterConfig(replicas=replicas))
    )
    asyncio.run(follow([registry], [Rules(primary) for primary in primaries], script))


@pytest.mark.parametrize("routers", [1, 2])
@effort(examples=40)
@scenarios
def test_registries_sharing_a_server_follow_the_health_rules(
    place: SharedState, routers: int, primaries: list[bool], script: list[Step]
) -> None:
    clear(place)
    asyncio.run(follow_shared(place, routers, primaries, script))


async def follow_shared(place: SharedState, routers: int, primaries: list[bool], script: list[Step]) -> None:
    replicas = endpoints(primaries)
    both = [SharedReplicaRegistry(place.config(replicas), health_checks=False), ReplicaRegistry(replicas)]
    rules = [Rules(primary, is_shared=True) for primary in primaries]
    async with both[0], both[1]:
        await follow(both[:routers], rules, script)
        for registry in both:  # whoever did it, all come to the same
            await until(functools.partial(shows, registry, rules))
            await registry.refresh(at_once=True)
            for rule, replica in zip(rules, registry.all(), strict=True):
                rule.assert_agrees(replica.health)
        kinds = [event.kind for event in await both[0].events(count=1000)]
        told = kinds.count(EventKind.REPLICA_HEALTHY) + kinds.count(EventKind.REPLICA_UNHEALTHY)
        assert told == sum(rule.changes for rule in rules)  # and nothing of what changed no status


def shows(registry: SharedReplicaRegistry, rules: list[Rules]) -> bool:
    statuses = [replica.health.status.value for replica in registry.all()]
    return statuses == [rule.status for rule in rules] and choice(registry) == expected_choice(rules)


def clear(place: SharedState) -> None:
    """Delete what the example before left."""
    with Redis.from_url(place.redis_url) as client:
        for key in client.scan_iter(match=f"sr:{{{place.namespace}}}:*", count=1000):
            client.delete(key)
