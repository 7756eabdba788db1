"""Who leads, and what that is worth: real processes, a real server, probes counted at real HTTP replicas."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import Fenced
from shared_registry.model import Event, EventKind, ReplicaEndpoint
from shared_registry.registry.facade import SharedReplicaRegistry
from shared_registry.store.replies import Elected, Resignation
from tests.support.faulty_proxy import FaultyProxy
from tests.support.replica_server import ReplicaServer
from tests.support.router_process import RouterProcess
from tests.support.space import A, Space
from tests.support.until import until

LEASE = 1.5
INTERVAL = 0.5
PATIENCE = 25.0
"""Seconds to wait for what ought to take one or two: this machine may be busy."""

BUSY = 5.0
"""How much later than promised something may come on a busy machine."""

Start = Callable[..., RouterProcess]


@pytest.fixture
async def mocks() -> AsyncIterator[list[ReplicaServer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ReplicaServer()) for _ in range(4)]


@pytest.fixture
def settings(server: EmbeddedServer, namespace: str) -> dict[str, Any]:
    return {
        "redis_url": server.url,
        "namespace": namespace,
        "lease_seconds": LEASE,
        "renew_interval_seconds": LEASE / 3,
        "health_check_interval_seconds": INTERVAL,
        "health_check_timeout_seconds": 1.0,
        "fast_interval_seconds": 0.2,
        "failure_threshold": 1,
        "router_expiry_seconds": 60.0,
        "refresh_seconds": 0.2,
    }


@pytest.fixture
def start(tmp_path: Path, settings: dict[str, Any], mocks: list[ReplicaServer]) -> Iterator[Start]:
    """Start a process of so many routers; none outlives the test."""
    processes: list[RouterProcess] = []

    def start(routers: int = 1, **changes: Any) -> RouterProcess:
        output = tmp_path / f"{len(processes)}.jsonl"
        replicas = [mock.url() for mock in mocks]
        processes.append(RouterProcess(output, routers=routers, replicas=replicas, config={**settings, **changes}))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


async def soon(condition: Callable[[], bool]) -> None:
    await until(condition, seconds=PATIENCE)


async def is_leading(process: RouterProcess) -> None:
    await soon(lambda: bool(process.lines_of("leading")))


async def is_ready(process: RouterProcess, routers: int = 1) -> None:
    await soon(lambda: len(process.lines_of("ready")) == routers)


async def events(space: Space, *kinds: EventKind) -> list[Event]:
    return [event async for event in space.reader.all_events() if not kinds or event.kind in kinds]


async def election_after(space: Space, epoch: int) -> Event:
    """Wait for the next election, and return it."""
    await soon(lambda: int(space.raw.hget(space.keys.meta, "epoch")) > epoch)
    return next(event for event in await events(space, EventKind.LEADER_ELECTED) if event.epoch > epoch)


def epoch_of(space: Space) -> int:
    """Return the highest epoch so far, also while there is no leader."""
    return int(space.raw.hget(space.keys.meta, "epoch"))


async def leader_of(space: Space) -> str:
    """Return the key of the leader; wait for one, since nobody leads for a moment after a lease has ended."""
    found: list[str] = []

    def is_found() -> bool:
        found[:] = filter(None, [space.raw.hget(space.keys.leader, "router")])
        return bool(found)

    await soon(is_found)
    return found[0]


def requests(mocks: list[ReplicaServer]) -> int:
    return sum(mock.replica().requests for mock in mocks)


def healthy(space: Space, mocks: list[ReplicaServer]) -> bool:
    return all(space.fields(mock.url()).get("status") == "healthy" for mock in mocks)


async def test_a_leader_paused_past_its_lease_writes_nothing_afterwards(
    start: Start, space: Space, mocks: list[ReplicaServer]
) -> None:
    changes = {"lease_seconds": 2 * LEASE, "health_check_timeout_seconds": 10.0}  # only the pause ends the lease
    paused = start(**changes)
    await is_leading(paused)
    other = start(**changes)
    await is_ready(other)
    await soon(lambda: healthy(space, mocks))
    for mock in mocks:
        mock.replica().latency_seconds = 0.3
        mock.replica().status = 503
    asked = requests(mocks)
    await soon(lambda: requests(mocks) > asked)
    old_epoch = epoch_of(space)
    os.kill(paused.pid, signal.SIGSTOP)  # with a probe under way that is going to fail
    for mock in mocks:
        mock.replica().status = 200
    elected = await election_after(space, old_epoch)
    assert elected.router in other.routers()
    asked = requests(mocks)
    await soon(lambda: requests(mocks) >= asked + 2 * len(mocks) and healthy(space, mocks))
    resumed_ms = space.now_ms()

    os.kill(paused.pid, signal.SIGCONT)
    await soon(lambda: bool(paused.lines_of("following")))
    asked = requests(mocks)
    await soon(lambda: requests(mocks) >= asked + 4 * len(mocks))
    assert healthy(space, mocks)
    for mock in mocks:
        fields = space.fields(mock.url())
        assert int(fields.get("last_failure_at_ms", "0")) < resumed_ms
        assert int(fields["last_ok_at_ms"]) > resumed_ms
    since = [event for event in await events(space) if event.at >= elected.at]
    assert all(event.epoch == elected.epoch for event in since)
    by_paused = [event for event in since if event.router in paused.routers()]
    assert not [event for event in by_paused if event.record is not None]


@pytest.mark.parametrize("claim", ["old token and epoch", "old token", "old epoch", "no token"])
async def test_a_report_of_an_ended_term_changes_nothing(space: Space, claim: str) -> None:
    await space.add(A)
    old = await space.elect("old")
    assert await space.store.resign("old") is Resignation.RESIGNED
    new = await space.elect("new")
    assert old < new
    token, epoch = {
        "old token and epoch": ("old", old),
        "old token": ("old", new),
        "old epoch": ("new", old),
        "no token": ("", new),
    }[claim]
    before = space.dump()
    with pytest.raises(Fenced):
        await space.report(epoch, 1, space.success(A), token=token)
    assert space.dump() == before
    assert (await space.report(new, 1, space.success(A), token="new")).events


async def test_a_report_after_the_end_of_the_lease_changes_nothing(space: Space) -> None:
    await space.add(A)
    elected = await space.store.campaign("token", lease_seconds=60, seen_epoch=0)
    assert isinstance(elected, Elected)
    space.raw.pexpire(space.keys.leader, 1)
    await soon(lambda: not space.raw.exists(space.keys.leader))
    before = space.dump()
    with pytest.raises(Fenced):
        await space.report(elected.epoch, 1, space.failure(A))
    assert space.dump() == before


async def test_a_killed_leader_has_a_successor_within_its_lease(
    start: Start, space: Space, mocks: list[ReplicaServer]
) -> None:
    lease = 2 * LEASE
    killed = start(lease_seconds=lease)
    await is_leading(killed)
    others = [start(lease_seconds=lease), start(lease_seconds=lease)]
    for other in others:
        await is_ready(other)
    await soon(lambda: healthy(space, mocks))
    epoch = epoch_of(space)
    killed_at = time.time()
    killed.kill()
    asked = requests(mocks)  # from now on only another leader can ask
    elected = await election_after(space, epoch)
    assert elected.at - killed_at <= lease + BUSY
    assert any(elected.router in other.routers() for other in others)
    await soon(lambda: requests(mocks) > asked)
    assert time.time() - killed_at <= lease + BUSY + INTERVAL
    await soon(lambda: requests(mocks) >= asked + 2 * len(mocks))


async def test_a_stopped_leader_has_a_successor_at_once(start: Start, space: Space, mocks: list[ReplicaServer]) -> None:
    lease = 20 * LEASE
    stopped = start(lease_seconds=lease)
    await is_leading(stopped)
    other = start(lease_seconds=lease)
    await is_ready(other)
    epoch = epoch_of(space)
    await asyncio.to_thread(stopped.stop)
    assert stopped.lines_of("stopped")
    elected = await election_after(space, epoch)
    (resigned,) = await events(space, EventKind.LEADER_RESIGNED)
    assert elected.at - resigned.at < lease - BUSY, "not by waiting for the lease to end"
    assert elected.router in other.routers()
    left = await events(space, EventKind.ROUTER_LEFT)
    assert [event.router for event in left] == [resigned.router]


async def test_twenty_routers_probe_like_one_and_epochs_have_one_winner(
    start: Start, space: Space, mocks: list[ReplicaServer]
) -> None:
    changes = {"health_check_interval_seconds": 1.0, "fast_interval_seconds": 0.5}
    processes = [start(routers=5, **changes) for _ in range(4)]
    for process in processes:
        await is_ready(process, routers=5)
    await soon(lambda: healthy(space, mocks))
    rounds = 4
    asked, since = requests(mocks), time.monotonic()
    await soon(lambda: requests(mocks) - asked >= rounds * len(mocks))
    assert time.monotonic() - since > rounds - 2, "replicas / interval probes a second, whatever the number of routers"

    for turn in range(10):
        epoch = epoch_of(space)
        token = space.raw.hget(space.keys.leader, "token")
        if turn % 2:
            space.raw.pexpire(space.keys.leader, 1)
        elif token:
            await space.store.resign(token)  # all wake at once
        await election_after(space, epoch)
    leader = await leader_of(space)
    epoch = epoch_of(space)
    killed = next(process for process in processes if leader in process.routers())
    killed.kill()
    await election_after(space, epoch)

    elections = await events(space, EventKind.LEADER_ELECTED)
    epochs = [event.epoch for event in elections]
    assert len(epochs) >= 12
    assert all(earlier < later for earlier, later in itertools.pairwise(epochs))
    all_epochs = [event.epoch for event in await events(space)]
    assert all_epochs == sorted(all_epochs)
    winners = {event.epoch: event.router for event in elections}
    terms = [(line["epoch"], line["router"]) for process in processes for line in process.lines_of("leading")]
    assert len(terms) == len(set(terms))
    assert all(winners[epoch] == router for epoch, router in terms)


def a_registry(
    settings: dict[str, Any], replicas: list[str], asked: list[float], **changes: Any
) -> SharedReplicaRegistry:
    """A router in this process; it writes down when it probes."""

    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        asked.append(time.monotonic())
        return 1.0, None

    endpoints = [ReplicaEndpoint(url) for url in replicas]
    return SharedReplicaRegistry(RouterConfig(replicas=endpoints, **{**settings, **changes}), http_get=probe)


async def test_a_leader_cut_off_stops_probing_before_another_begins(
    space: Space, server: EmbeddedServer, settings: dict[str, Any]
) -> None:
    settings["health_check_interval_seconds"] = settings["fast_interval_seconds"] = 0.1
    settings["lease_seconds"] = 2 * LEASE
    by_first: list[float] = []
    by_second: list[float] = []
    replicas = [f"http://127.0.0.1:{port}" for port in range(1, 9)]
    async with FaultyProxy(server.port) as proxy:
        first = a_registry(settings, replicas, by_first, redis_url=proxy.url, redis_timeout_seconds=0.4)
        async with first:
            await soon(lambda: first.is_leader and len(by_first) > 20)
            async with a_registry(settings, replicas, by_second) as second:
                epoch = epoch_of(space)
                proxy.loses_commands = proxy.loses_replies = True
                cut_off_at = time.monotonic()
                await soon(lambda: bool(by_second))
                assert second.is_leader
                assert not first.is_leader
                assert max(by_first) < min(by_second)
                assert max(by_first) > cut_off_at, "until then it went on"
                probes = len(by_first)
                await soon(lambda: len(by_second) > 30)
                proxy.heal()
                proxy.cut()
                await soon(lambda: (first.age_seconds or 0.0) < 0.4)
                await soon(lambda: len(by_second) > 60)
                assert len(by_first) == probes
                (elected,) = [event for event in await events(space, EventKind.LEADER_ELECTED) if event.epoch > epoch]
                since = [event for event in await events(space) if event.at >= elected.at]
                assert all(event.epoch == elected.epoch for event in since)


async def test_routers_with_one_router_id_have_separate_records(space: Space, settings: dict[str, Any]) -> None:
    settings["router_id"] = "same"
    async with a_registry(settings, [], []) as first:
        async with a_registry(settings, [], []) as second:
            assert first.router_key != second.router_key
            assert first.router_key.startswith("same~")
            assert set(space.raw.zrange(space.keys.routers, 0, -1)) == {first.router_key, second.router_key}
            for router in (first, second):
                assert space.raw.hget(space.keys.router(router.router_key), "pid") == str(os.getpid())
        assert space.raw.zrange(space.keys.routers, 0, -1) == [first.router_key]
        assert not space.raw.exists(space.keys.router(second.router_key))
        assert space.raw.exists(space.keys.router(first.router_key))
    assert not space.raw.exists(space.keys.routers)


async def test_a_router_without_redis_stops_quickly(
    space: Space, server: EmbeddedServer, settings: dict[str, Any]
) -> None:
    async with FaultyProxy(server.port) as proxy:
        registry = a_registry(settings, ["http://127.0.0.1:1"], [], redis_url=proxy.url, redis_timeout_seconds=0.4)
        await registry.start()
        await soon(lambda: registry.is_leader)
        proxy.loses_commands = proxy.loses_replies = True
        stopping_at = time.monotonic()
        await registry.stop()
        assert time.monotonic() - stopping_at < 10.0
