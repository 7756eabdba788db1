"""What a listener of a registry hears, each kind brought about on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import warnings
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import pytest
from redis import Redis

from shared_registry import (
    NoHealthyReplica,
    ReplicaEndpoint,
    ReplicaStatus,
    RouterConfig,
    Saturated,
    SharedReplicaRegistry,
    StoreUnavailable,
    happenings,
)
from shared_registry.admin.operator import Operator
from shared_registry.embedded import EmbeddedServer
from shared_registry.happenings import DenialReason, FailureCause, Happening, LeaseEnd, TermEnd
from tests.support.faulty_proxy import FaultyProxy
from tests.support.space import Space
from tests.support.until import until

A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"
K = TypeVar("K", bound=Happening)


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.all: list[Happening] = []

    def __call__(self, happening: Happening) -> None:
        self.all.append(happening)

    def of(self, kind: type[K]) -> list[K]:
        return [one for one in self.all if isinstance(one, kind)]

    async def next(self, kind: type[K], count: int = 1) -> K:
        await until(lambda: len(self.of(kind)) >= count, f"{kind.__name__} number {count}")
        assert len(self.of(kind)) == count
        return self.of(kind)[-1]

    def names(self, *left_out: type[Happening]) -> list[str]:
        return [type(one).__name__ for one in self.all if not isinstance(one, left_out)]


class Router:
    """A registry, what its replicas answer, and what its listener has heard since before its start."""

    def __init__(self, url: str, namespace: str, *, leads: bool = True, **settings: Any) -> None:
        self.errors: dict[str, str | None] = {}
        fast = {
            "health_check_interval_seconds": 0.2,
            "health_check_timeout_seconds": 3.0,
            "fast_interval_seconds": 0.05,
            "failure_threshold": 2,
            "refresh_seconds": 0.2,
            "heartbeat_seconds": 0.3,
            "router_expiry_seconds": 10.0,
            "lease_seconds": 10.0,
            "renew_interval_seconds": 0.3,
            "panic_percent": 0,
        }
        config = RouterConfig(redis_url=url, namespace=namespace, **(fast | settings))
        self.registry = SharedReplicaRegistry(config, http_get=self._probe, health_checks=leads)
        self.heard = Heard()
        self.registry.subscribe(self.heard)

    async def _probe(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.0, self.errors.get(url.removesuffix("/health"))


@contextlib.asynccontextmanager
async def running(
    url: str, namespace: str, replicas: Sequence[ReplicaEndpoint] = (), **options: Any
) -> AsyncIterator[Router]:
    router = Router(url, namespace, replicas=list(replicas), **options)
    async with router.registry as registry:
        if options.get("leads", True):
            await until(lambda: all(replica.is_healthy for replica in registry.all()))
            await until(lambda: registry.is_leader)
        yield router


async def test_the_first_load_brings_no_changes_as_news(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, [ReplicaEndpoint(A)], leads=False) as router:
        loaded, *rest = router.heard.all
        assert isinstance(loaded, happenings.ViewLoaded)
        assert loaded.reason == "start"
        assert loaded.revision == router.registry.revision
        assert rest in ([], router.heard.of(happenings.RouterJoined))
        await router.registry.register(ReplicaEndpoint(B))
        assert (await router.heard.next(happenings.ReplicaRegistered)).record.key == B


async def test_a_listener_is_kept_over_a_stop(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, [ReplicaEndpoint(A)]) as router:
        await router.registry.stop()
        router.heard.all.clear()
        await router.registry.start()
        assert (await router.heard.next(happenings.ViewLoaded)).reason == "start"
        await router.registry.drain(A)
        await router.heard.next(happenings.ReplicaDrained)
        assert router.heard.of(happenings.ReplicaRegistered) == []


async def test_the_life_of_a_replica_is_heard_everywhere_once(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace) as leader, running(server.url, namespace, leads=False) as other:
        registry = leader.registry
        await registry.register(ReplicaEndpoint(A, name="a", capacity=2))
        for one in (leader, other):
            assert (await one.heard.next(happenings.ReplicaHealthy)).former is ReplicaStatus.UNKNOWN
        leader.errors[A] = "HTTP 503"
        for one in (leader, other):
            down = await one.heard.next(happenings.ReplicaUnhealthy)
            assert (down.reason, down.cause, down.former) == ("HTTP 503", FailureCause.STATUS, ReplicaStatus.HEALTHY)
            assert down.label == "a"
        leader.errors[A] = None
        for one in (leader, other):
            assert (await one.heard.next(happenings.ReplicaHealthy, 2)).former is ReplicaStatus.UNHEALTHY
        await registry.register(ReplicaEndpoint(A, name="a", capacity=3))
        await registry.drain(A, by="me", reason="update")
        await registry.disable(A)
        await registry.enable(A)
        await registry.deregister(A)
        for one in (leader, other):
            await one.heard.next(happenings.ReplicaRemoved)
            drained = one.heard.of(happenings.ReplicaDrained)[0]
            assert (drained.by, drained.reason) == ("me", "update")
            assert one.heard.of(happenings.ReplicaUpdated)[0].former.capacity == 2
        await asyncio.sleep(0.5)  # the event stream brings what the replies have brought
        for one in (leader, other):
            assert [type(it).__name__ for it in one.heard.of(happenings.ReplicaHappening)] == [
                "ReplicaRegistered",
                "ReplicaHealthy",
                "ReplicaUnhealthy",
                "ReplicaHealthy",
                "ReplicaUpdated",
                "ReplicaDrained",
                "ReplicaDisabled",
                "ReplicaEnabled",
                "ReplicaRemoved",
            ]


async def test_routers_and_leaders_are_heard(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, leads=False) as watcher:
        async with running(server.url, namespace) as leader:
            key = leader.registry.router_key
            began = await leader.heard.next(happenings.TermBegan)
            changed = await watcher.heard.next(happenings.LeaderChanged)
            assert changed.leader is not None
            assert (changed.leader.router, changed.leader.epoch, changed.former) == (key, began.epoch, None)
            assert key in [one.router for one in watcher.heard.of(happenings.RouterJoined)]
        ended = await leader.heard.next(happenings.TermEnded)
        assert (ended.epoch, ended.end) == (began.epoch, TermEnd.RESIGNED)
        changed = await watcher.heard.next(happenings.LeaderChanged, 2)
        assert (changed.leader, changed.former and changed.former.router) == (None, key)
        assert (await watcher.heard.next(happenings.RouterLeft)).router == key


async def test_a_deposed_leader_says_so(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace) as leader:
        async with Operator(leader.registry.config, by="me") as operator:
            await operator.step_down(reason="update", sit_out_seconds=5)
        ended = await leader.heard.next(happenings.TermEnded)
        assert ended.end is TermEnd.DEPOSED
        changed = await leader.heard.next(happenings.LeaderChanged, 2)
        assert (changed.leader, changed.by, changed.reason) == (None, "me", "update")


async def test_each_call_of_acquire_is_granted_or_denied(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, [ReplicaEndpoint(A, capacity=1)]) as router:
        registry, heard = router.registry, router.heard
        lease = await registry.acquire("session")
        granted = await heard.next(happenings.LeaseGranted)
        assert (granted.lease_id, granted.session, granted.key) == (lease.id, "session", A)
        assert (granted.waited_seconds, granted.is_spare, granted.is_degraded) == (None, False, False)
        with pytest.raises(Saturated):
            await registry.acquire("late")
        denied = await heard.next(happenings.LeaseDenied)
        assert (denied.reason, denied.session, denied.waited_seconds) == (DenialReason.SATURATED, "late", None)

        waiting = asyncio.create_task(registry.acquire("patient", timeout=20))
        awaited = await heard.next(happenings.LeaseAwaited)
        assert (awaited.session, awaited.position, awaited.depth) == ("patient", 1, 1)
        impatient = asyncio.create_task(registry.acquire("impatient", timeout=20))
        await heard.next(happenings.LeaseAwaited, 2)
        impatient.cancel()
        await asyncio.wait((impatient,))
        denied = await heard.next(happenings.LeaseDenied, 2)
        assert (denied.reason, denied.session) == (DenialReason.GIVEN_UP, "impatient")
        assert denied.waited_seconds is not None
        await lease.release()
        ended = await heard.next(happenings.LeaseEnded)
        assert (ended.lease_id, ended.key, ended.end) == (lease.id, A, LeaseEnd.RELEASED)
        lease = await waiting
        granted = await heard.next(happenings.LeaseGranted, 2)
        assert granted.waited_seconds is not None
        assert granted.seconds >= granted.waited_seconds > 0
        await lease.release()
        await lease.release()
        await heard.next(happenings.LeaseEnded, 2)

        await registry.drain(A)
        with pytest.raises(NoHealthyReplica):
            await registry.acquire()
        assert (await heard.next(happenings.LeaseDenied, 3)).reason is DenialReason.NO_HEALTHY


async def test_leases_end_also_without_a_release(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, [ReplicaEndpoint(A, capacity=2)]) as router:
        lost, kept = await router.registry.acquire(), await router.registry.acquire()
        lost_id = lost.id
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            del lost
            gc.collect()
        ended = await router.heard.next(happenings.LeaseEnded)
        assert (ended.lease_id, ended.end) == (lost_id, LeaseEnd.ABANDONED)
        await router.registry.stop()
        ended = await router.heard.next(happenings.LeaseEnded, 2)
        assert (ended.lease_id, ended.end) == (kept.id, LeaseEnd.LEFT)


async def test_the_end_of_an_orphaned_lease_is_heard_once(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, [ReplicaEndpoint(A, capacity=2)]) as router:
        lease = await router.registry.acquire()
        router.registry._parts.placement.ledger.held.pop(lease.id)  # as if its grant had been lost
        await router.registry._parts.placement.reconciler.reconcile()
        ended = await router.heard.next(happenings.LeaseEnded)
        assert (ended.lease_id, ended.key, ended.end) == (lease.id, A, LeaseEnd.RECONCILED)
        await router.registry._parts.placement.reconciler.reconcile()
        await router.heard.next(happenings.LeaseEnded)
        lease._record.has_ended = True


async def test_an_outage_is_heard_with_what_it_does(server: EmbeddedServer, namespace: str) -> None:
    async with FaultyProxy(server.port) as proxy:
        settings: dict[str, Any] = {"max_staleness_seconds": 2.0, "lease_seconds": 3.0}
        async with running(proxy.url, namespace, [ReplicaEndpoint(A, capacity=1)], **settings) as router:
            heard = router.heard
            await router.registry.refresh(at_once=True)
            proxy.refuses = True
            proxy.cut()
            await until(lambda: heard.of(happenings.StoreFailed))
            assert (await heard.next(happenings.TermEnded)).end is TermEnd.LOST
            stale = await heard.next(happenings.ViewStale)
            assert stale.age_seconds >= 1
            with pytest.raises(StoreUnavailable):
                await router.registry.acquire()
            assert (await heard.next(happenings.LeaseDenied)).reason is DenialReason.UNAVAILABLE
            proxy.heal()
            await until(lambda: heard.of(happenings.ViewFresh))
            await until(lambda: heard.of(happenings.StoreRecovered))


async def test_sessions_placed_without_redis_are_heard(server: EmbeddedServer, namespace: str) -> None:
    async with FaultyProxy(server.port) as proxy:
        replicas = [ReplicaEndpoint(A)]
        async with running(proxy.url, namespace, replicas) as router:
            heard = router.heard
            proxy.refuses = True
            proxy.cut()
            lease = await router.registry.acquire()
            assert (await heard.next(happenings.LeaseGranted)).is_degraded
            await heard.next(happenings.DegradedBegan)
            proxy.heal()
            assert (await heard.next(happenings.LeasesPutBack)).count == 1
            other = await router.registry.acquire(timeout=20)
            assert (await heard.next(happenings.DegradedEnded)).placed == 1
            assert not heard.of(happenings.LeaseGranted)[-1].is_degraded
            await lease.release()
            await other.release()


async def test_a_lost_history_is_heard_and_restored(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, [ReplicaEndpoint(A)], leads=False) as router:
        before = router.registry.history_id
        await router.registry.drain(A)
        async with running(server.url, namespace, leads=False):
            pass
        with Redis.from_url(server.url) as raw:
            raw.delete(*raw.scan_iter(match=f"sr:{{{namespace}}}:*"))
        lost = await router.heard.next(happenings.HistoryLost)
        restored = await router.heard.next(happenings.HistoryRestored)
        loaded = await router.heard.next(happenings.ViewLoaded, 2)
        assert (lost.former, restored.former, loaded.reason) == (before, before, "history")
        assert restored.present == loaded.history_id == router.registry.history_id != before
        assert [type(it).__name__ for it in router.heard.of(happenings.ReplicaHappening)] == ["ReplicaDrained"]


async def test_sessions_that_come_back_after_a_loss_are_heard(server: EmbeddedServer, namespace: str) -> None:
    expiry: dict[str, Any] = {"router_expiry_seconds": 2.0}
    async with (
        FaultyProxy(server.port) as proxy,
        running(server.url, namespace, [ReplicaEndpoint(A)], **expiry) as router,
        running(server.url, namespace, leads=False, **expiry) as other,
        running(proxy.url, namespace, leads=False, **expiry) as silent,
    ):
        live = [router.registry, other.registry]
        proxy.refuses = True  # nobody knows whether this one has sessions
        proxy.cut()
        with Redis.from_url(server.url) as raw:
            raw.delete(*raw.scan_iter(match=f"sr:{{{namespace}}}:*"))
        for heard in (router.heard, other.heard):
            began = await heard.next(happenings.SettlingBegan)
            ended = await heard.next(happenings.SettlingEnded)
            assert ended.at >= began.at
            assert began.router in ("", *(one.router_key for one in live))
        assert not any(one.is_settling for one in live)
        proxy.heal()
        assert silent.registry.is_started


async def test_trouble_of_a_router_is_heard_by_all(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_registry.registry.wiring.QUIET_SECONDS", 0.1)
    async with (
        running(server.url, namespace, [ReplicaEndpoint(A)]) as leader,
        running(server.url, namespace, leads=False) as router,
    ):
        replica, key = router.registry.all()[0], router.registry.router_key
        await until(lambda: router.registry.all()[0].is_healthy, "it is healthy here too")
        await router.registry.report_outcome(replica, False, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        for heard in (leader.heard, router.heard):
            troubled = await heard.next(happenings.RouterTroubled)
            assert troubled.router == key
            assert "open files" in troubled.reason
        assert leader.heard.of(happenings.RouterRecovered) == []

        async def is_over() -> bool:
            await router.registry.report_outcome(replica, True, "")
            return not router.registry.is_in_trouble

        await until(is_over, "sessions reach it again")
        for heard in (leader.heard, router.heard):
            assert (await heard.next(happenings.RouterRecovered)).router == key


async def test_routers_with_other_settings_are_heard(server: EmbeddedServer, namespace: str) -> None:
    async with running(server.url, namespace, [ReplicaEndpoint(A)]) as router:
        async with running(server.url, namespace, leads=False, failure_threshold=7) as other:
            differing = await router.heard.next(happenings.SettingsDiffer)
            assert (differing.router, differing.by) == (other.registry.router_key, router.registry.router_key)
            assert differing.reason
        async with running(server.url, namespace, leads=False) as same:
            await until(lambda: router.heard.all[-1:] and router.heard.of(happenings.RouterLeft), "the other has left")
            assert same.heard.of(happenings.SettingsDiffer) == []
        assert len(router.heard.of(happenings.SettingsDiffer)) == 1


async def test_a_suspicion_that_a_peer_refutes_is_heard(server: EmbeddedServer, namespace: str) -> None:
    replicas = [ReplicaEndpoint(A), ReplicaEndpoint(B)]
    async with running(server.url, namespace, replicas) as leader:
        peer = Router(server.url, namespace)
        async with peer.registry:
            await until(lambda: leader.registry._parts.membership._probers.others, "a peer")
            leader.errors[A] = "HTTP 503"
            for one in (leader, peer):
                await until(lambda one=one: one.heard.of(happenings.ReplicaCleared))  # type: ignore[misc]
                suspected = one.heard.of(happenings.ReplicaSuspected)[0]
                assert (suspected.record.key, suspected.by) == (A, leader.registry.router_key)
                assert one.heard.of(happenings.ReplicaUnhealthy) == []


async def test_an_ejection_and_its_end_are_heard(server: EmbeddedServer, namespace: str) -> None:
    replicas = [ReplicaEndpoint(A), ReplicaEndpoint(B)]
    settings: dict[str, Any] = {"ejection_failures": 2, "base_ejection_seconds": 1.0, "max_ejection_percent": 50}
    async with (
        running(server.url, namespace, replicas, **settings) as router,
        running(server.url, namespace, leads=False, **settings),
    ):
        replica = router.registry.get(A)
        assert replica is not None

        async def fail() -> bool:
            for client in ("one", "two"):
                await router.registry.report_outcome(replica, ok=False, is_connected=True, client=client)
            return bool(router.heard.of(happenings.ReplicaEjected))

        await until(fail, "an ejection")
        ejected = router.heard.of(happenings.ReplicaEjected)[0]
        assert ejected.record.key == A
        assert ejected.reason
        assert (await router.heard.next(happenings.ReplicaReturned)).record.key == A


async def test_a_router_that_dies_is_heard(server: EmbeddedServer, namespace: str) -> None:
    async with (
        FaultyProxy(server.port) as proxy,
        running(server.url, namespace, leads=False, router_expiry_seconds=2.0) as watcher,
        running(proxy.url, namespace, leads=False, router_expiry_seconds=2.0) as router,
    ):
        proxy.refuses = True
        proxy.cut()
        expired = await watcher.heard.next(happenings.RouterExpired)
        assert (expired.router, expired.by) == (router.registry.router_key, watcher.registry.router_key)


async def test_panic_is_heard_when_it_begins_and_ends(server: EmbeddedServer, namespace: str) -> None:
    replicas = [ReplicaEndpoint(A), ReplicaEndpoint(B)]
    async with running(server.url, namespace, replicas, panic_percent=60) as router:
        router.errors[A] = "timeout after 0.1s"
        began = await router.heard.next(happenings.PanicBegan)
        assert began.reason.startswith("1 of 2 active replicas healthy")
        assert router.heard.of(happenings.ReplicaUnhealthy)[0].cause is FailureCause.TIMEOUT
        router.errors[A] = None
        await router.heard.next(happenings.PanicEnded)


async def test_a_broken_listener_disturbs_no_session(server: EmbeddedServer, namespace: str) -> None:
    def fail(_: Happening) -> None:
        raise ValueError("broken")

    async with running(server.url, namespace, [ReplicaEndpoint(A)]) as router:
        router.registry.subscribe(fail)
        lease = await router.registry.acquire()
        await lease.release()
        await router.heard.next(happenings.LeaseEnded)


async def test_a_listener_may_do_without_every_session(server: EmbeddedServer, namespace: str) -> None:
    rare: list[happenings.Happening] = []
    async with running(server.url, namespace, [ReplicaEndpoint(A, capacity=2)]) as router:
        router.registry.subscribe(rare.append, with_sessions=False)
        first, _kept = await router.registry.acquire(), await router.registry.acquire()
        await first.release()
        await router.heard.next(happenings.LeaseGranted, 2)
        await router.heard.next(happenings.LeaseEnded)
        await router.registry.stop()
        await router.heard.next(happenings.LeaseEnded, 2)
    of_leases = [one for one in rare if isinstance(one, happenings.LeaseHappening)]
    assert [one.end for one in of_leases if isinstance(one, happenings.LeaseEnded)] == [LeaseEnd.LEFT]
    assert len(of_leases) == 1


async def test_an_expiry_is_heard_once_with_its_reason(server: EmbeddedServer, space: Space, namespace: str) -> None:
    async with running(server.url, namespace, leads=False) as watcher:
        await space.store.announce(A, ReplicaEndpoint(A), owner="pod-1", instance="a", ttl_seconds=5)
        await watcher.heard.next(happenings.ReplicaRegistered)
        space.raw.hset(space.keys.meta, "announcements_resumed_at_ms", 0)
        space.raw.zadd(space.keys.announced, {A: space.now_ms() - 1})
        await watcher.heard.next(happenings.ReplicaRemoved)
        assert [type(it).__name__ for it in watcher.heard.of(happenings.ReplicaHappening)] == [
            "ReplicaRegistered",
            "ReplicaExpired",
            "ReplicaRemoved",
        ]
        [expired] = watcher.heard.of(happenings.ReplicaExpired)
        assert (expired.by, expired.reason) == ("", "no heartbeat of pod-1 for 5 s")
