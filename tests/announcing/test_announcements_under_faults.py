"""Announced replicas while Redis is away, their heartbeats are cut off, clocks jump, or an older router is there."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from shared_registry import (
    AdminState,
    Announcement,
    ReplicaEndpoint,
    ReplicaStatus,
    RouterConfig,
    SharedReplicaRegistry,
)
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Event, EventKind
from shared_registry.store.commands import Store
from shared_registry.store.replies import Beat
from tests.support.failover.scenarios import stopped
from tests.support.faulty_proxy import FaultyProxy
from tests.support.pods import TTL, Pod, pod_settings, pods_of
from tests.support.replica_server import ReplicaServer
from tests.support.space import Space
from tests.support.until import until
from tests.support.versions import PACKAGE, Version, changed_package

pytestmark = pytest.mark.timeout(180)  # pods are processes, and each test outlasts times to live
FAKETIME = next(
    (path for name in ("/usr/lib", "/usr/local/lib") for path in sorted(Path(name).glob("**/libfaketime.so.1"))), None
)


def are_up(registry: SharedReplicaRegistry, count: int) -> bool:
    healthy = [
        one for one in registry.all() if one.health.status is ReplicaStatus.HEALTHY and one.admin is AdminState.ACTIVE
    ]
    return len(healthy) == count


def is_alone(registry: SharedReplicaRegistry, pod: Pod) -> bool:
    return [one.key for one in registry.all()] == [pod.url]


def expiries(events: Sequence[Event]) -> dict[str, float]:
    """Return the time of each expiry, on the clock of this machine."""
    return {
        event.record.key: event.at
        for event in events
        if event.kind is EventKind.REPLICA_EXPIRED and event.record is not None
    }


@contextmanager
def killed(server: EmbeddedServer) -> Iterator[None]:
    """Let a server, which keeps no data, be dead while this context is open."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@pytest.mark.parametrize("away", [stopped, killed], ids=["hanging", "dead, its data lost"])
async def test_an_outage_longer_than_the_time_to_live_loses_nobody(
    own_server: Callable[..., EmbeddedServer], away: Callable[[EmbeddedServer], AbstractContextManager[None]]
) -> None:
    """A pod that dies meanwhile has one time to live from then on, like all others."""
    server = own_server()
    config = pod_settings(server, "outage", redis_timeout_seconds=0.5)
    async with SharedReplicaRegistry(config) as registry, pods_of(server.url, "outage") as pods:
        made = [pods() for _ in range(3)]
        for pod in made:
            await pod.start()
        await until(lambda: are_up(registry, 3), "all are up", 60)
        incarnations = {one.key: one.record.incarnation for one in registry.all()}
        with away(server):
            os.killpg(made[0].process.pid, signal.SIGKILL)  # before it has sent anything that would arrive later
            await asyncio.sleep(TTL * 1.5)
            is_back_at = time.time()
        await until(lambda: len(registry.all()) == 2, "the dead one has gone", 60)
        assert {one.key: one.record.incarnation for one in registry.all()} == {
            pod.url: incarnations[pod.url] for pod in made[1:]
        }
        [(url, expired_at)] = expiries(await registry.events(count=1000)).items()
        assert url == made[0].url
        assert is_back_at + TTL <= expired_at
        await until(lambda: are_up(registry, 2), "the others are up")
        await asyncio.sleep(TTL)
        assert len(expiries(await registry.events(count=1000))) == 1


async def test_pods_that_probes_reach_stay_without_their_heartbeats(
    server: EmbeddedServer, namespace: str, proxy: FaultyProxy
) -> None:
    """The way by which all heartbeats come is cut off. One pod that is dead as well goes."""
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(SharedReplicaRegistry(pod_settings(server, namespace)))
        pods = await stack.enter_async_context(pods_of(proxy.url, namespace))
        made: list[Pod] = [pods() for _ in range(5)]
        for pod in made:
            await pod.start()
        await until(lambda: are_up(registry, 5), "all are up", 60)
        await made[0].child()
        proxy.refuses = True
        proxy.cut()
        os.kill(made[0].process.pid, signal.SIGKILL)
        await until(lambda: len(registry.all()) == 4, "the dead one has gone", 60)
        await asyncio.sleep(2 * TTL)
        assert are_up(registry, 4)
        assert list(expiries(await registry.events(count=1000))) == [made[0].url]
        proxy.heal()
        await asyncio.sleep(2 * TTL)
        assert are_up(registry, 4)
        assert list(expiries(await registry.events(count=1000))) == [made[0].url]


async def test_a_killed_and_restarted_pod_stays_drained(server: EmbeddedServer, namespace: str) -> None:
    """It comes back under another address, before and after its former life has expired."""
    async with (
        SharedReplicaRegistry(pod_settings(server, namespace)) as registry,
        pods_of(server.url, namespace) as pods,
    ):
        first, second = pods(), pods()
        await first.start("--name", "pod-1")
        await until(lambda: are_up(registry, 1), "it is up")
        await registry.drain("pod-1", reason="broken fan")
        for dead, new in ((first, second), (second, first)):
            os.killpg(dead.process.pid, signal.SIGKILL)
            await dead.clean_up()
            if new is first:
                await until(lambda: not registry.all(), "it has gone")
            await new.start("--name", "pod-1")
            await until(functools.partial(is_alone, registry, new), "the new one alone is there", 60)
            [replica] = registry.all()
            assert (replica.admin, replica.record.admin_reason) == (AdminState.DRAINING, "broken fan")


@pytest.fixture
def older_version(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package that does not know announced replicas."""
    return changed_package(
        tmp_path / "older",
        ("model/replicas.py", r'ANNOUNCED = "announced"', 'ANNOUNCED = "unheard-of"'),
        ("lua/heartbeat.lua", r"= expire_announced\(.*\)", "= false, nil"),
        ("lua/heartbeat.lua", r"and redis.call\('ZCARD', keys.announced\) > 0", "and false"),
    )


@pytest.mark.parametrize("leads", [False, True])
async def test_an_older_router_beside_does_no_harm(
    server: EmbeddedServer, namespace: str, older_version: Path, leads: bool
) -> None:
    """Neither as a follower nor as the leader does it spoil a session, remove a pod, or hide a dead one."""
    async with AsyncExitStack() as stack:
        fixed = await stack.enter_async_context(ReplicaServer())
        config = pod_settings(server, namespace, recovery_threshold=1)
        registry = await stack.enter_async_context(SharedReplicaRegistry(config, health_checks=not leads))
        await registry.register(fixed.url())
        older = Version(
            older_version,
            {"redis_url": server.url, "namespace": namespace, "recovery_threshold": 1, "fast_interval_seconds": 0.1},
        )
        if leads:
            await stack.enter_async_context(older.router())
        else:
            await until(lambda: registry.is_leader, "this router leads")
        pods = await stack.enter_async_context(pods_of(server.url, namespace))
        pod = pods()
        await pod.start()
        await until(lambda: pod.url in {one.key for one in registry.all()}, "it is announced")
        if not leads:
            await until(lambda: are_up(registry, 2), "both are up")
            await stack.enter_async_context(older.router())
        await asyncio.sleep(TTL)
        assert are_up(registry, 1 if leads else 2)
        os.killpg(pod.process.pid, signal.SIGKILL)
        await pod.clean_up()
        await until(lambda: pod.url not in {one.key for one in registry.all()}, "it has expired")


class SteppedClock:
    """The clock of a process, which can be set while it runs; its monotonic clock goes on, as on a real machine."""

    def __init__(self, file: Path) -> None:
        assert FAKETIME is not None
        self._file = file
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Set it so far ahead of this machine's clock."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{seconds:+d}")
        written.rename(self._file)

    def shown(self) -> float:
        """Return how far ahead of this machine's clock a new process sees it."""
        code = "import time; print(time.time())"
        environment = {**os.environ, **self.environment}
        seen = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return float(seen.stdout) - time.time()


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("who", ["the router", "the pod"])
async def test_clock_jumps_expire_nobody_and_delay_no_expiry(
    space: Space, server: EmbeddedServer, namespace: str, tmp_path: Path, who: str
) -> None:
    """The clock of the only router that sends heartbeats, or of the pod, jumps ahead and back by an hour."""
    clock = SteppedClock(tmp_path / "clock")
    settings = {
        "redis_url": server.url,
        "namespace": namespace,
        "recovery_threshold": 1,
        "health_check_interval_seconds": 0.3,
    }
    async with AsyncExitStack() as stack:
        fixed = await stack.enter_async_context(ReplicaServer())
        await space.add(fixed.url())
        pods = await stack.enter_async_context(pods_of(server.url, namespace))
        pod = pods()
        await pod.start(env=clock.environment if who == "the pod" else {})
        environment = clock.environment if who == "the router" else {}
        await stack.enter_async_context(Version(PACKAGE.parent, settings, **environment).router())
        await until(lambda: space.fields(pod.url).get("status") == "healthy", "it is up")
        for ahead in (3600, -3600, 0):
            clock.set(ahead)
            assert abs(clock.shown() - ahead) < 60
            await asyncio.sleep(1.2 * TTL)
            assert space.fields(pod.url)["admin"] == "active"
        clock.set(-3600)
        os.killpg(pod.process.pid, signal.SIGKILL)
        killed_at = time.time()
        await pod.clean_up()
        await until(lambda: space.fields(pod.url)["admin"] == "removed", "it has expired")
        [expired_at] = expiries(await space.reader.last_events(1000)).values()
        assert expired_at < killed_at + 2 * TTL, "the jump of an hour delays nothing"


async def test_heartbeats_spread_although_all_begin_at_once(space: Space, namespace: str, proxy: FaultyProxy) -> None:
    """So they do after an outage, when all have Redis back at one moment."""
    config = RouterConfig(redis_url=proxy.url, namespace=namespace)
    proxy.refuses = True
    async with AsyncExitStack() as stack:
        for number in range(60):
            endpoint = ReplicaEndpoint(f"http://127.0.0.1:{10_000 + number}")
            await stack.enter_async_context(Announcement(config, endpoint, ttl_seconds=TTL, drain_seconds=0))
        await asyncio.sleep(1)
        proxy.heal()
        await until(lambda: space.raw.zcard(space.keys.announced) == 60, "all are announced")
        await asyncio.sleep(TTL)

        def are_spread() -> bool:  # after a pause of this machine many are sent at once
            due = [score for _, score in space.raw.zrange(space.keys.announced, 0, -1, withscores=True)]
            latest = sum(score > max(due) - TTL * 1000 / 9 for score in due)
            return latest < 40 and bool(max(due) - min(due) > TTL * 1000 / 3 * 0.7)

        await until(are_spread, "they spread")


async def test_an_announcement_outlives_an_unexpected_error(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply that nobody expects must not end the heartbeats while the program goes on."""
    real, failures = Store.beat, [IndexError("a reply without words")]
    beats: list[Beat] = []

    async def beat(store: Store, key: str, instance: str) -> Beat:
        if failures:
            raise failures.pop()
        beats.append(await real(store, key, instance))
        return beats[-1]

    monkeypatch.setattr(Store, "beat", beat)
    config = pod_settings(server, namespace)
    endpoint = ReplicaEndpoint("http://127.0.0.9:8000")
    async with Announcement(config, endpoint, ttl_seconds=TTL, drain_seconds=0) as announcement:
        await announcement.wait_held(timeout_seconds=30)
        await until(lambda: len(beats) > 1, "heartbeats go on", 30)
        assert not failures
        assert announcement.is_held
