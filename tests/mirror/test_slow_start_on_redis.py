"""Slow start over a real server: scores that grow into their plain ones, whatever becomes of the leader."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared_registry import AdminState, Fenced, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import RAMP_GRACE_SECONDS, find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Term
from tests.support.space import THRESHOLDS, A, B, C, Space, info
from tests.support.until import until


def score(space: Space, url: str) -> float | None:
    found: float | None = space.raw.zscore(space.keys.ready_secondary, url)
    return found


def backdate(space: Space, url: str, milliseconds: int) -> None:
    """Let a replica have turned healthy that long ago."""
    space.raw.hset(space.keys.replica(url), "status_since_ms", space.now_ms() - milliseconds)


async def lead(space: Space, seconds: float) -> int:
    """Elect, and say how long replicas ramp."""
    await space.store.heartbeat(info(), expiry_seconds=60)
    epoch = await space.elect()
    assert await space.store.advance_ramps(Term(epoch, "token"), [], slow_start_seconds=seconds) == []
    return epoch


async def advance(space: Space, epoch: int, *urls: str, seconds: float = 100.0) -> list[str]:
    return await space.store.advance_ramps(Term(epoch, "token"), urls, slow_start_seconds=seconds)


# The scores


LONG_SECONDS = 10_000.0
"""A ramp of which the time that a test takes is nothing."""


async def test_the_score_falls_to_the_plain_one_during_the_ramp(space: Space) -> None:
    epoch = await lead(space, LONG_SECONDS)
    await space.add(A, weight=2.0)
    await space.make("healthy", A)
    assert score(space, A) == pytest.approx(1 / 0.2 - 1 / 2)
    scores = []
    for share in (0.05, 0.25, 0.5, 0.9):
        backdate(space, A, round(share * LONG_SECONDS * 1000))
        assert await advance(space, epoch, A, seconds=LONG_SECONDS) == [A]
        scores.append(score(space, A))
        part = max(share, 0.1)
        assert scores[-1] == pytest.approx(1 / (2.0 * part) - 1 / 2, rel=1e-3)
        await space.store.acquire("0000000a")
        assert score(space, A) == pytest.approx(2 / (2.0 * part) - 1 / 2, rel=1e-3)
        await space.store.release("0000000a")
    backdate(space, A, int(LONG_SECONDS * 1000) + 1)
    assert await advance(space, epoch, A, seconds=LONG_SECONDS) == []
    assert score(space, A) == 0.0
    assert "slow_start_ms" not in space.fields(A)
    assert await advance(space, epoch, A, seconds=LONG_SECONDS) == []


async def test_after_the_ramp_any_script_writes_the_plain_score(space: Space) -> None:
    """Without a leader."""
    await lead(space, 100.0)
    await space.add(A)
    await space.make("healthy")
    backdate(space, A, 200_000)
    await space.store.acquire("0000000a")
    assert score(space, A) == 1.0


@pytest.mark.parametrize("mark", ["0", "-5", "x", ""])
async def test_an_invalid_mark_ramps_nothing(space: Space, mark: str) -> None:
    epoch = await lead(space, 100.0)
    await space.add(A)
    await space.make("healthy")
    space.raw.hset(space.keys.replica(A), "slow_start_ms", mark)
    assert await advance(space, epoch, A) == []
    assert score(space, A) == 0.0


async def test_a_clock_set_back_ends_the_ramp_early(space: Space) -> None:
    epoch = await lead(space, 100.0)
    await space.add(A)
    await space.make("healthy")
    backdate(space, A, -3_600_000)
    assert await advance(space, epoch, A) == []
    assert score(space, A) == 0.0


async def test_only_the_leader_advances_scores_and_skips_missing_replicas(space: Space) -> None:
    epoch = await lead(space, 100.0)
    await space.add(A)
    before = space.dump()
    assert await advance(space, epoch, A, B, C) == []
    assert space.dump() == before
    for term in (Term(epoch, "other"), Term(epoch - 1, "token")):
        with pytest.raises(Fenced):
            await space.store.advance_ramps(term, [A], slow_start_seconds=1)
    assert space.dump() == before


async def test_with_slow_start_off_no_new_ramp_begins(space: Space) -> None:
    """A ramp in progress ends in its time."""
    epoch = await lead(space, 100.0)
    for url in (A, B):
        await space.add(url)
    await space.make("healthy", A)
    assert await advance(space, epoch, A, seconds=0) == [A]
    assert not space.raw.hexists(space.keys.meta, "slow_start_ms")
    await space.make("healthy", B)
    assert "slow_start_ms" not in space.fields(B)
    assert score(space, A) == pytest.approx(9.0)
    assert score(space, B) == 0.0
    await space.make("unhealthy", A)
    assert "slow_start_ms" not in space.fields(A)
    await space.make("healthy", A)
    assert score(space, A) == 0.0


async def test_ramping_replicas_come_after_idle_ones_but_before_a_refusal(space: Space) -> None:
    await space.store.heartbeat(info(), expiry_seconds=60)
    for url in (A, B):
        await space.add(url, capacity=2)
    await space.make("healthy", A)
    epoch = await space.elect()
    await advance(space, epoch)
    await space.make("healthy", B)
    placed = [await space.store.acquire(f"{number:08x}") for number in range(4)]
    assert [getattr(grant, "key", None) for grant in placed] == [A, A, B, B]


# What is checked


async def test_check_accepts_a_ramping_score_but_no_stuck_one(space: Space) -> None:

    await lead(space, 1.0)
    await space.add(A)
    await space.make("healthy")
    assert await find_violations(space.reader, space.keys) == []
    for wrong in (-1.0, 9.5):
        space.raw.zadd(space.keys.ready_secondary, {A: wrong})
        (violation,) = await find_violations(space.reader, space.keys)
        assert violation.rule == "ready"
    space.raw.zadd(space.keys.ready_secondary, {A: 9.0})
    assert await find_violations(space.reader, space.keys) == []
    backdate(space, A, round(1000 * (RAMP_GRACE_SECONDS + 2)))
    (violation,) = await find_violations(space.reader, space.keys)
    assert (violation.rule, violation.url) == ("ready", A)
    await space.store.repair(loads=dict.fromkeys([A]), routers=[], first_event="", by="me")
    assert await find_violations(space.reader, space.keys) == []


async def test_the_load_of_a_ramping_replica_is_read_correctly(space: Space) -> None:
    await lead(space, 100.0)
    for url in (A, B):
        await space.add(url, weight=4.0)
        await space.make("healthy", url)
    for number in range(3):
        await space.store.acquire(f"{number:08x}", excluded=[B])
    endpoints = {url: ReplicaEndpoint(url, weight=4.0) for url in (A, B)}
    loads, _ = await space.reader.loads(endpoints, ramping=[A, B, C])
    assert loads == {A: 3, B: 0}


# Routers


async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
    return 1.0, None


def config(server: EmbeddedServer, namespace: str, **settings: Any) -> RouterConfig:
    return RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        health_check_interval_seconds=0.05,
        fast_interval_seconds=0.05,
        heartbeat_seconds=0.2,
        refresh_seconds=0.1,
        **settings,
    )


@contextlib.asynccontextmanager
async def routers(
    server: EmbeddedServer, namespace: str, count: int, **settings: Any
) -> AsyncIterator[list[SharedReplicaRegistry]]:
    async with contextlib.AsyncExitStack() as stack:
        running = []
        for _ in range(count):
            registry = SharedReplicaRegistry(config(server, namespace, **settings), http_get=probe, seed=1)
            running.append(await stack.enter_async_context(registry))
        yield running


@pytest.mark.parametrize("leaves", ["stopped", "paused"])
async def test_the_plain_score_is_reached_although_the_leader_changed(
    space: Space, server: EmbeddedServer, namespace: str, leaves: str
) -> None:
    settings = {"slow_start_seconds": 4.0, "lease_seconds": 2.0, "renew_interval_seconds": 0.2}
    async with routers(server, namespace, 3, **settings) as running:
        await until(lambda: any(registry.is_leader for registry in running))
        await space.add(A)
        await until(lambda: score(space, A) is not None)
        began = score(space, A)
        assert began is not None
        assert began > 2.0
        assert "slow_start_ms" in space.fields(A)
        await until(lambda: any(registry.is_leader for registry in running))
        leader = next(registry for registry in running if registry.is_leader)
        if leaves == "stopped":
            await leader.stop()
        else:  # it vanishes without a word: its tasks end, and its lease runs out
            assert leader.is_started
            space.raw.hset(space.keys.leader, "token", "somebody else's")
        rest = [registry for registry in running if registry is not leader]
        await until(lambda: "slow_start_ms" not in space.fields(A))
        assert score(space, A) == 0.0
        await until(lambda: any(registry.is_leader for registry in running))
        assert await rest[0].check() == []


async def test_a_new_leader_completes_a_ramp_that_has_ended(
    space: Space, server: EmbeddedServer, namespace: str
) -> None:
    await lead(space, 0.05)
    await space.add(A)
    await space.make("healthy")
    space.raw.delete(space.keys.leader)
    await asyncio.sleep(0.06)  # the ramp, in which nobody leads
    assert score(space, A) == pytest.approx(9.0)
    async with routers(server, namespace, 1):
        await until(lambda: score(space, A) == 0.0)
        await until(lambda: "slow_start_ms" not in space.fields(A))
        await until(lambda: not space.raw.hexists(space.keys.meta, "slow_start_ms"))


async def test_select_gives_a_ramping_replica_a_growing_share(
    space: Space, server: EmbeddedServer, namespace: str
) -> None:
    async with routers(server, namespace, 2, policy="round_robin", slow_start_seconds=4.0) as (registry, other):
        for url in (A, B):
            await space.add(url)
        await until(lambda: [score(space, url) for url in (A, B)] == [0.0, 0.0])
        await space.add(C)
        await until(lambda: len(registry._view.preference) == 3 and len(other._view.preference) == 3)

        def share() -> float:
            counts = Counter(replica.key for _ in range(300) if (replica := registry.select()))
            return counts[C] / 300

        await until(lambda: share() < 0.1)
        shares = [share()]
        while shares[-1] < 0.33:
            await asyncio.sleep(0.02)
            shares.append(share())
            assert len(shares) < 1000
        assert all(later > earlier - 0.01 for earlier, later in itertools.pairwise(shares))
        assert len(set(shares)) > 5
        await until(lambda: other.select(policy="least_loaded") is not None)
        assert await registry.check() == []


async def test_with_slow_start_off_redis_has_no_trace_of_ramps(
    space: Space, server: EmbeddedServer, namespace: str
) -> None:
    async with routers(server, namespace, 1) as (registry,):
        await space.add(A)
        await until(lambda: score(space, A) == 0.0)
        await space.store.set_admin(A, AdminState.DRAINING)
        await space.store.record_outcome(space.failure(), THRESHOLDS)
        assert not any("slow_start" in field for field in (*space.fields(A), *space.raw.hgetall(space.keys.meta)))
        assert registry._view.ramping == {}.keys()
