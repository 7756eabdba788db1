"""Every command, brought to every answer that it can give; only refusals are left to test_refusal_scripts.py."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from redis.exceptions import NoScriptError

from shared_registry.admin.inspector import Inspector, LeaseInspection, QueueInspection
from shared_registry.errors import ConfigError, Fenced, ReplicaClaimed, StoreRefused
from shared_registry.model import (
    AdminState,
    ConnectedSessions,
    EjectionLimits,
    Opinion,
    OpinionKind,
    ProbeResult,
    ReplicaEndpoint,
    ReplicaRecord,
    RouterInfo,
    Share,
    Source,
    Term,
)
from shared_registry.model.plan import BUCKETS, bucket_of
from shared_registry.store.channel import Channel, scripts
from shared_registry.store.client import Clients
from shared_registry.store.codec import removed_entry, restored_entry
from shared_registry.store.commands import Store
from shared_registry.store.discovering import WantedState
from shared_registry.store.lane import Lane
from shared_registry.store.replies import Affinity, Departure, Elected, Heartbeat, WrongAffinity
from tests.support.space import THRESHOLDS, A, B, C, D, E, Space, info

PATIENCE_SECONDS = 60.0
"""For one command, which some runners execute slowly."""
RAISED = {"fenced": Fenced, "claimed": ReplicaClaimed, "name_taken": ConfigError, "wrong_cluster": StoreRefused}
"""What a store makes of a status word, where it returns nothing."""

T = TypeVar("T")


def prober(router: str) -> RouterInfo:
    """Return the description of a router that can probe, on a machine of its own."""
    return replace(info(router), machine=f"machine-{router}", probe_print="settings")


class ScriptRunner:
    """Stands between a store and a client, and keeps what every command answered. Subclasses do more."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.answers: list[tuple[str, str]] = []
        self._names = {script.text: name for name, script in scripts().items()}

    async def evalsha(self, digest: str, count: int, *rest: str) -> list[str]:
        raise NoScriptError  # so that the text comes, which tells the command

    async def eval(self, text: str, count: int, *rest: str) -> list[str]:
        name = self._names[text]
        reply = await self.run(name, text, rest[:count], rest[count:])
        self.answers.append((name, reply[0]))
        return reply

    async def run(self, name: str, text: str, keys: Sequence[str], args: Sequence[str]) -> list[str]:
        reply: list[str] = await self.client.eval(text, len(keys), *keys, *args)
        return reply


class Scene:
    """The stores of routers, and an inspector, over one runner.

    Attributes:
        one: The store of the router that does most: r~1.
    """

    def __init__(self, space: Space, runner: ScriptRunner) -> None:
        self.space = space
        self.inspector = Inspector(Clients(runner, runner, 1.0), space.keys, timeout_seconds=PATIENCE_SECONDS)
        self._runner = runner
        self._stores: dict[str, Store] = {}
        self.one = self.store("r~1")

    def store(self, router: str) -> Store:
        if router not in self._stores:
            self._stores[router] = Store(
                Clients.of(self._runner), self.space.keys, router=router, timeout_seconds=PATIENCE_SECONDS
            )
        return self._stores[router]

    async def answered(self, status: str, call: Awaitable[T]) -> T:
        """Return what a call returns; fail unless it ran one command, which answered with that word."""
        before = len(self._runner.answers)
        result = await call
        assert [word for _, word in self._runner.answers[before:]] == [status]
        return result

    async def run(self, name: str, *args: str) -> list[str]:
        """Run a command that is called for several sessions at once, and return the values of its reply."""
        channel = Channel(
            self._runner, self.space.keys, Lane(1, seconds=PATIENCE_SECONDS), timeout_seconds=PATIENCE_SECONDS
        )
        return (await channel.run(name, args)).values

    async def share(self, *routers: str) -> None:
        """Let routers send heartbeats that offer to share the probing."""
        for router in routers:
            described = replace(prober(router), probing="shared")
            await self.answered("alive", self.one.heartbeat(described, expiry_seconds=5))

    async def refused(self, status: str, call: Awaitable[object]) -> None:
        """Likewise, of a call that raises what that word means."""
        before = len(self._runner.answers)
        with pytest.raises(RAISED[status]):
            await call
        assert [word for _, word in self._runner.answers[before:]] == [status]

    async def elect(self, token: str) -> Term:
        elected = await self.answered("elected", self.one.campaign(token, lease_seconds=60, seen_epoch=0))
        assert isinstance(elected, Elected)
        return Term(elected.epoch, token)

    async def heartbeat(self, *routers: str) -> None:
        for router in routers:
            await self.answered("alive", self.one.heartbeat(prober(router), expiry_seconds=5))

    def acquire(self, lease_id: str, *excluded: str, **how: Any) -> Awaitable[object]:
        """A slot for a session, which waits for it where a line of any length is allowed."""
        return self.one.acquire(lease_id, excluded=excluded, **how)

    def release(self, lease_id: str, affinity_seconds: float = 60) -> Awaitable[object]:
        return self.one.release(lease_id, affinity_seconds=affinity_seconds)

    def restore(self, leases: dict[str, str], router: str = "r~1") -> Awaitable[object]:
        return self.store(router).restore_leases(leases)

    def deregister(self, url: str, *, when_drained: bool = True) -> Awaitable[object]:
        incarnation = self.space.incarnation(url)
        return self.one.deregister(url, incarnation, by="me", reason="why", when_drained=when_drained)

    def set_admin(self, url: str, state: AdminState, reason: str = "") -> Awaitable[object]:
        return self.one.set_admin(url, state, by="me", reason=reason)

    def leave(self, router: str = "r~1") -> Awaitable[object]:
        return self.store(router).leave(affinity_seconds=60)


async def run_scenario(space: Space, runner: ScriptRunner) -> None:
    """Run every command through `runner` on an empty namespace; fails where an answer is not the expected one."""
    scene = Scene(space, runner)
    for part in (
        _replicas,
        _election,
        _probes,
        _discovery,
        _routers,
        _leases,
        _departures,
        _doubt,
        _ejection,
        _sharing,
        _queue,
        _spares,
        _history,
        _inspection,
        _repair,
        _late_removal,
        _together,
        _announced,
    ):
        await part(scene, space)


async def _replicas(scene: Scene, space: Space) -> None:
    answered = scene.answered

    def register(request: str, mode: Source = Source.EXPLICIT, url: str = A, **spec: Any) -> Awaitable[object]:
        return scene.one.register(url, ReplicaEndpoint(url, **spec), mode=mode, request=request, by="me")

    def deregister(incarnation: str, url: str = A) -> Awaitable[object]:
        return scene.one.deregister(url, incarnation, by="me", reason="why")

    def set_admin(state: AdminState, reason: str = "") -> Awaitable[object]:
        return scene.set_admin(A, state, reason)

    await answered("not_found", deregister("a1"))
    await answered("not_found", set_admin(AdminState.DRAINING))
    await answered("created", register("a1", weight=0.1 + 0.2))
    await answered("unchanged", register("a2", weight=0.1 + 0.2))
    await answered("updated", register("a3", capacity=2, order=7, name="A"))
    await scene.refused("name_taken", register("b0", url=B, name="A"))
    earlier = {f"http://earlier-{number}": number for number in range(1500)}
    space.raw.zadd(space.keys.replicas, earlier)
    space.raw.hdel(space.keys.meta, "names_cursor")
    await scene.run("register_replica", "explicit", "b0", "0" * 16, "r~1", "me", B, "", "name", "B")
    assert space.raw.hget(space.keys.meta, "names_cursor") != "done"
    space.raw.zrem(space.keys.replicas, *earlier)
    space.raw.hset(space.keys.meta, "names_cursor", "done")
    await answered("overridden", register("a4", Source.SEED))
    await answered("set", set_admin(AdminState.DRAINING, "deploy"))
    await answered("unchanged", set_admin(AdminState.DRAINING, "deploy"))
    await answered("set", set_admin(AdminState.DRAINING, "still"))
    await answered("set", set_admin(AdminState.ACTIVE))
    await answered("removed", deregister("a1"))
    await answered("not_found", set_admin(AdminState.DRAINING))
    await answered("tombstone", register("a5", Source.SEED))
    await answered("created", register("a6", primary=True))
    await answered("created", register("b1", Source.SEED, B, capacity=1))
    await answered("updated", register("b2", Source.SEED, B, capacity=2))
    await answered("created", register("c1", url=C))
    space.raw.hset(space.keys.replica(C), "in_flight", "1")
    await answered("removed", deregister("c1", C))
    many = {A: ReplicaEndpoint(A, name="A"), D: ReplicaEndpoint(D, name="D"), C: ReplicaEndpoint(C)}
    await answered("registered", space.add_all(many, mode=Source.SEED, by="me", store=scene.one))
    await answered("removed", deregister(space.incarnation(D), D))


async def _election(scene: Scene, space: Space) -> None:
    answered, one = scene.answered, scene.one

    def campaign(router: str, token: str) -> Awaitable[object]:
        return scene.store(router).campaign(token, lease_seconds=60, seen_epoch=0)

    await answered("lost", one.renew("t1", lease_seconds=60))
    await answered("lost", one.resign("t1"))
    first = await scene.elect("t1")
    assert await scene.elect("t1") == first
    await answered("held", campaign("r~2", "t2"))
    await answered("renewed", one.renew("t1", lease_seconds=60))
    space.raw.persist(space.keys.leader)
    await answered("held", campaign("r~2", "t2"))
    await answered("resigned", one.resign("t1", reason="done"))

    def step_down(epoch: int) -> Awaitable[str | None]:
        return one.step_down(epoch, sit_out_seconds=9, by="me", reason="why")

    await answered("over", step_down(first.epoch))
    second = await scene.elect("t2")
    await answered("over", step_down(second.epoch - 1))
    assert await answered("deposed", step_down(second.epoch)) == "r~1"


async def _probes(scene: Scene, space: Space) -> None:
    answered, one = scene.answered, scene.one
    term = await scene.elect("t3")
    former = Term(term.epoch, "other")
    await scene.refused("fenced", one.advance_ramps(former, [A], slow_start_seconds=9))
    await answered("advanced", one.advance_ramps(term, [], slow_start_seconds=9000))
    await scene.refused("fenced", one.declare_panic(former, "few"))
    assert await answered("declared", one.declare_panic(term, "few"))
    assert not await answered("unchanged", one.declare_panic(term, "fewer"))
    assert await answered("declared", one.declare_panic(term, ""))
    good, bad = space.success, space.failure
    batches = [
        [good(A), bad(B), ProbeResult(C, "c1", 1.0), ProbeResult("http://unknown", "x", 1.0)],
        [good(A), bad(B)],
        [good(A), bad(B)],
        [good(A), good(B)],
        [good(A), good(B)],
        [],
    ]
    for number, results in enumerate(batches, 1):
        report = await answered("applied", one.report(term, number, results, THRESHOLDS))
        assert report.done == len(results)
        assert report.dropped == (2 if number == 1 else 0)
    await answered("duplicate", one.report(term, 1, batches[0], THRESHOLDS))
    assert await answered("advanced", one.advance_ramps(term, [A, B, C], slow_start_seconds=0)) == [A, B]
    space.raw.hset(space.keys.replica(A), "status_since_ms", "1")
    assert await answered("advanced", one.advance_ramps(term, [A, B], slow_start_seconds=0)) == [B]
    await scene.refused("fenced", one.report(former, 9, batches[0], THRESHOLDS))
    for result in [bad(B), bad(B), bad(B), good(B)]:
        await answered("applied", one.record_outcome(result, THRESHOLDS, by="me"))
    gone = ProbeResult(C, "c1", 1.0)
    await answered("not_found", one.record_outcome(gone, THRESHOLDS, is_passive=True))
    # A replica whose last slot is taken: it moves to `full` with the next change.
    await answered("applied", one.record_outcome(good(B), THRESHOLDS))
    space.raw.hset(space.keys.replica(B), "in_flight", "2")
    await answered("set", scene.set_admin(B, AdminState.ACTIVE, "refresh"))
    assert space.ready() == ({A}, set(), {B})


async def _discovery(scene: Scene, space: Space) -> None:
    answered, one = scene.answered, scene.one
    term = await scene.elect("t3")
    former = Term(term.epoch, "other")
    url = "http://10.0.0.9:8000"

    def register(source: str = "dns:pods", mandate: Term = term, **spec: Any) -> Awaitable[bool]:
        return one.register_discovered(mandate, source, url, ReplicaEndpoint(url, "pod-9", **spec))

    def govern(state: WantedState, reason: str = "", mandate: Term = term) -> Awaitable[object]:
        return one.govern(mandate, "dns:pods", url, state, reason=reason)

    await scene.refused("fenced", register(mandate=former))
    await answered("not_found", govern("draining"))
    await answered("created", register())
    await answered("unchanged", register())
    await answered("updated", register(capacity=1))
    await scene.refused("claimed", register("file:fleet"))
    await scene.refused("claimed", one.register(url, ReplicaEndpoint(url), mode=Source.EXPLICIT, request="a7"))
    await scene.refused("fenced", govern("draining", mandate=former))
    await answered("set", govern("draining", "why"))
    await answered("unchanged", govern("draining", "why"))
    await answered("set", govern("active"))
    space.raw.hset(space.keys.replica(url), "in_flight", "1")
    await answered("set", scene.set_admin(url, AdminState.DRAINING, "deploy"))
    await answered("noted", govern("missing"))
    await answered("unchanged", govern("missing"))
    await answered("noted", govern("found"))
    await answered("unchanged", govern("found"))
    await answered("draining", govern("gone", "why"))
    await answered("unchanged", govern("gone", "why"))
    await answered("set", govern("active"))
    space.raw.hset(space.keys.replica(url), "in_flight", "0")
    await answered("removed", govern("gone", "why"))
    await answered("created", register())
    await answered("set", scene.set_admin(url, AdminState.ACTIVE))
    await answered("removed", scene.deregister(url))
    await answered("tombstone", register())


async def _routers(scene: Scene, space: Space) -> None:
    answered = scene.answered

    def reap() -> Awaitable[object]:
        return scene.one.reap("r~2", affinity_seconds=60)

    await answered("not_found", scene.leave())
    await answered("not_found", reap())
    await scene.heartbeat("r~1", "r~2")
    await answered("alive", reap())
    space.raw.zadd(space.keys.routers, {"r~1": space.now_ms() + 10**9})
    await scene.heartbeat("r~2")
    await _upgrade(scene, space)
    space.expire_router("r~2")
    await answered("reaped", reap())
    await answered("left", scene.leave())


async def _upgrade(scene: Scene, space: Space) -> None:
    answered, one = scene.answered, scene.one
    await answered("current", one.upgrade(by="me"))
    space.raw.hset(space.keys.meta, "schema", "1-2")
    space.raw.hset(space.keys.router("r~2"), "schemas", "1-1")
    await answered("older", one.upgrade(by="me"))
    space.raw.hdel(space.keys.router("r~2"), "schemas")
    await answered("early", one.upgrade(by="me", quiet_seconds=60))
    await answered("possible", one.upgrade(by="me", is_dry_run=True))
    await answered("upgraded", one.upgrade(by="me"))


async def _together(scene: Scene, space: Space) -> None:
    """Several leases in one call, on a replica of each tier."""
    leases = ["r~1", *(f"{number:08x}" for number in range(100, 106))]
    await scene.heartbeat("r~1")
    for url, is_primary in (("http://127.0.0.8:1", False), ("http://127.0.0.8:2", True)):
        for registered in space.raw.zrange(space.keys.replicas, 0, -1):
            await scene.one.set_admin(registered, AdminState.DISABLED)
        await space.add(url, primary=is_primary, capacity=6)
        await space.make("healthy", url)
        await scene.answered("granted", scene.run("acquire_leases", *leases))
        assert space.fields(url)["in_flight"] == "6"
        assert space.raw.sismember(space.keys.full, url)
        await scene.answered("released", scene.run("release_leases", *leases))
        assert space.fields(url)["in_flight"] == "0"


async def _leases(scene: Scene, space: Space) -> None:
    """Leases on A, which is unlimited, and on D and E, which take one each."""
    answered = scene.answered
    first, other, third, fourth = (f"{number:08x}" for number in range(4))
    await answered("not_registered", scene.acquire(first))
    await answered("not_registered", scene.restore({first: A}))
    await scene.heartbeat("r~1", "r~2")
    await answered("granted", scene.acquire(first))
    await answered("held", scene.acquire(first))
    await answered("saturated", scene.acquire(other, A))  # B is full
    for state, answer in ((AdminState.DISABLED, "no_healthy"), (AdminState.ACTIVE, "saturated")):
        await answered("set", scene.set_admin(B, state))
        await answered(answer, scene.acquire(other, A))
    for url in (D, E):
        await space.add(url, primary=url == D, capacity=1)
        await space.make("healthy", url)
    await answered("granted", scene.acquire(f"{other}:session", E, avoided=[A]))
    await answered("released", scene.release(f"{other}:session"))
    await answered("returned", scene.acquire(f"{other}:session"))
    await answered("granted", scene.acquire(f"{third}:session", avoided=[A, E]))
    moved = f"{third}:session"
    await answered("restored", scene.restore({moved: E, fourth: D, first: A, "0000000f": "http://unknown"}))
    await answered("draining", scene.deregister(D))
    await answered("draining", scene.deregister(D))
    await answered("restored", scene.restore({moved: D}))
    await answered("restored", scene.restore({moved: E}))
    await answered("released", scene.release(f"{other}:session"))
    await answered("released", scene.release(fourth))
    await answered("not_found", scene.release(fourth))
    assert space.fields(D)["admin"] == AdminState.REMOVED.value
    await answered("removed", scene.deregister(E, when_drained=False))
    await answered("restored", scene.restore({moved: A}))
    await answered("restored", scene.restore({moved: E}))
    await answered("released", scene.release(moved, 0))
    await answered("released", scene.release(first))
    await space.add(D)
    await answered("restored", scene.restore({first: D}))
    await answered("draining", scene.deregister(D))
    await answered("restored", scene.restore({first: A}))
    assert space.fields(D)["admin"] == AdminState.REMOVED.value


async def _departures(scene: Scene, space: Space) -> None:
    """Routers with many leases leave, and are reaped."""
    answered = scene.answered

    def leave() -> Awaitable[Departure]:
        return scene.one.leave(affinity_seconds=60)

    def reap() -> Awaitable[Departure]:
        return scene.one.reap("r~2", affinity_seconds=0)

    ids = [f"{number:08x}:{number}" for number in range(1300)]
    for router, part in (("r~1", leave), ("r~2", reap)):
        await space.add(D)
        await answered("restored", scene.restore(dict.fromkeys(ids, D), router))
        await answered("draining", scene.deregister(D))
        space.expire_router("r~2")
        await answered("partial", part())
        while await part() is Departure.PARTIAL:
            pass
        assert space.fields(D)["admin"] == AdminState.REMOVED.value
        assert not space.raw.exists(space.keys.leases(router))
    assert space.fields(A)["in_flight"] == "0"


async def _doubt(scene: Scene, space: Space) -> None:
    """Three routers that probe disagree about D, and the leader resigns as long as another one can lead."""
    answered, one = scene.answered, scene.one
    await scene.heartbeat("r~1", "r~2", "r~3")
    await space.add(D)
    term = await scene.elect("t3")
    batches = itertools.count(50)
    limits = replace(THRESHOLDS, timeout_seconds=60.0)

    async def report(*results: ProbeResult) -> None:
        await answered("applied", one.report(term, next(batches), results, limits))

    async def give(
        router: str, kind: OpinionKind, result: ProbeResult, opinion_id: str = "", *, stale: int = 0
    ) -> None:
        opinions = [Opinion(kind, opinion_id, result)]
        answer = await answered("applied", scene.store(router).give_opinions(opinions, limits))
        assert (answer.done, answer.stale) == (1, stale)

    async def answer(router: str, result: ProbeResult, *, stale: int = 0) -> None:
        await give(router, OpinionKind.OPINION, result, space.fields(D).get("suspicion", "answered"), stale=stale)

    def doubt() -> dict[str, str]:
        return {name: value for name, value in space.fields(D).items() if name in ("prober", "refuted_prober")}

    good, bad = space.success(D), space.failure(D)
    await report(good, bad, bad)
    await answer("r~2", bad)
    await answer("r~2", bad, stale=1)
    await answer("r~3", good)
    assert doubt() == {"refuted_prober": "r~1"}
    await report(bad, bad)
    await answer("r~3", good)
    assert doubt() == {"refuted_prober": "r~1", "prober": "r~3"}
    await report(bad, bad, bad)
    await give("r~3", OpinionKind.REPORT, good, "1")
    await give("r~3", OpinionKind.REPORT, good, "1", stale=1)
    assert space.fields(D)["status"] == "healthy"
    await answered("applied", scene.store("r~3").record_outcome(bad, limits, is_passive=True))
    for number in ("2", "3"):
        await give("r~3", OpinionKind.REPORT, bad, number)
    assert doubt() == {"refuted_prober": "r~1"}
    await answer("r~1", bad)
    await answer("r~2", bad)
    assert space.fields(D)["status"] == "unhealthy"
    await give("r~2", OpinionKind.APPEAL, good, "1", stale=1)
    await give("r~2", OpinionKind.APPEAL, good, "2")
    assert doubt() == {"prober": "r~2"}
    for number in ("1", "2"):
        await give("r~2", OpinionKind.REPORT, bad, number)
    assert space.fields(D)["suspected_by"] == "r~2"
    for _ in range(3):
        await answered("applied", one.record_outcome(bad, limits))
    await answered("resigned", one.resign("t3", reason="why", handicap_seconds=60))
    await scene.elect("t4")
    await answered("resigned", one.resign("t4", reason="why", handicap_seconds=60))
    for router in ("r~2", "r~3"):
        space.raw.hset(space.keys.router(router), "handicap_until_ms", space.now_ms() + 60_000)
    await scene.elect("t5")
    await answered("needed", one.resign("t5", reason="why", handicap_seconds=60))
    await answered("resigned", one.resign("t5"))
    await answered("removed", scene.deregister(D, when_drained=False))
    for router in ("r~1", "r~2", "r~3"):
        await answered("left", scene.leave(router))


async def _ejection(scene: Scene, space: Space) -> None:
    """Sessions of two machines do not reach E, then sessions of two clients fail on it; D is another one."""
    answered, limits = scene.answered, replace(THRESHOLDS, interval_seconds=5)
    await scene.heartbeat("r~1", "r~2", "r~3")
    for url in (D, E):
        await space.add(url)
        await space.make("healthy", url)

    def fail(router: str, client: str = "", failures: int = 1) -> Awaitable[object]:
        sessions = ConnectedSessions(failures, client) if client else None
        outcome = scene.store(router).record_outcome(
            space.failure(E), limits, is_passive=True, sessions=sessions, ejection=EjectionLimits(50, 30, 5)
        )
        return answered("applied", outcome)

    def shift(name: str, seconds: float) -> None:
        space.raw.hset(space.keys.replica(E), name, space.now_ms() + int(1000 * seconds))

    await fail("r~1")
    shift("last_ok_at_ms", 1)
    await fail("r~2")
    assert space.fields(E)["ejections"] == "1"
    space.raw.zadd(space.keys.ejected, {E: 1})
    await scene.heartbeat("r~1")
    assert "ejected_until_ms" not in space.fields(E)
    shift("reported_at_ms", -6)
    await fail("r~1", "a", 3)
    for name in ("sessions_failing_since_ms", "reported_at_ms", "announced_at_ms"):
        shift(name, -2)
    await fail("r~2", "b", 3)
    assert space.fields(E)["ejections"] == "2"
    space.raw.delete(space.keys.ejected)
    assert await answered("repaired", scene.one.repair(loads=dict.fromkeys([E]), routers=[], first_event="", by="me"))
    assert space.raw.zscore(space.keys.ejected, E) == float(space.fields(E)["ejected_until_ms"])
    await answered("set", scene.set_admin(E, AdminState.ACTIVE))
    await answered(
        "applied",
        scene.one.record_outcome(
            space.success(E), limits, is_passive=True, sessions=ConnectedSessions(0), ejection=EjectionLimits(50, 30, 5)
        ),
    )
    for url in (D, E):
        await answered("removed", scene.deregister(url))
    for router in ("r~1", "r~2", "r~3"):
        await answered("left", scene.leave(router))


class Waiters:
    """Sessions of a router that wait beside room, as after a script was cut short, and get it from what comes next."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._serial = itertools.count(1)

    async def served_by(self, call: Awaitable[object], status: str) -> None:
        space = self._scene.space
        waiter = f"{next(self._serial):08x}:waits"
        space.raw.zadd(space.keys.queue, {f"r~2/{waiter}": 1})
        await self._scene.answered(status, call)
        assert space.raw.hexists(space.keys.leases("r~2"), waiter)
        assert space.raw.xrevrange(space.keys.inbox("r~2"))[0][1]["lease_id"] == waiter
        assert not space.raw.exists(space.keys.queue)


async def _sharing(scene: Scene, space: Space) -> None:
    """Two of three routers share the probing of D, until the leader ends that."""
    answered, one = scene.answered, scene.one
    await scene.share("r~1", "r~2")
    await scene.heartbeat("r~3")
    await space.add(D)
    term = await scene.elect("t6")
    former = Term(term.epoch, "other")
    await scene.refused("fenced", one.participants(former))
    await scene.refused("fenced", one.write_plan(former, {}))
    assert not await answered("unchanged", one.write_plan(term, {}))
    found = await answered("listed", one.participants(term))
    assert (found.routers, found.plan) == (["r~1", "r~2"], None)
    shares = dict.fromkeys(BUCKETS, "r~1") | {bucket_of(D): "r~2"}
    assert await answered("written", one.write_plan(term, shares))
    assert not await answered("unchanged", one.write_plan(term, shares))
    plan = (await answered("listed", one.participants(term))).plan
    assert plan is not None
    assert (plan.epoch, plan.shares) == (term.epoch, shares)
    other, limits = scene.store("r~2"), replace(THRESHOLDS, interval_seconds=60.0, timeout_seconds=60.0)
    good, bad = space.success(D), space.failure(D)
    batches = [[good, ProbeResult("http://unknown", "x", 1.0)], [bad, bad], [good], []]
    for number, results in enumerate(batches, 1):
        report = await answered("applied", other.report(Share(plan.number, "r~2"), number, results, limits))
        assert (report.done, report.dropped) == (len(results), number == 1)
    await answered("duplicate", other.report(Share(plan.number, "r~2"), 1, batches[0], limits))
    dropped = await answered("applied", one.report(Share(plan.number, "r~1"), 1, [good], limits))
    assert dropped.dropped == 1
    await scene.refused("fenced", other.report(Share(plan.number + 1, "r~2"), 9, [good], limits))
    assert await answered("written", one.write_plan(term, dict.fromkeys(BUCKETS, "r~1")))
    assert (await answered("applied", other.report(Share(plan.number, "r~2"), 9, [good], limits))).dropped == 0
    assert await answered("written", one.write_plan(term, {}))
    await answered("resigned", one.resign("t6"))
    await answered("removed", scene.deregister(D, when_drained=False))
    for router in ("r~1", "r~2", "r~3"):
        await answered("left", scene.leave(router))


async def _queue(scene: Scene, space: Space) -> None:
    """The queue, and every command that serves somebody; only A has room, and any number of it."""
    answered, one, waiters, first = scene.answered, scene.one, Waiters(scene), "000000a1:first"

    def set_admin(state: AdminState) -> Awaitable[object]:
        return scene.set_admin(A, state)

    await scene.heartbeat("r~1", "r~2")
    await answered("excluded", scene.acquire(first, A, max_queue=9))
    await answered("set", set_admin(AdminState.DRAINING))
    for _ in range(2):
        await answered("waiting", scene.acquire(first, max_queue=2))
    await answered("waiting", scene.acquire("000000a2:second", max_queue=2, sequence="5"))
    await answered("saturated", scene.acquire("000000a3", max_queue=2))
    depth, positions = await answered("inspected", scene.inspector.positions("r~1", ["000000a2:second", "000000a3"]))
    assert (depth, positions) == (2, {"000000a2:second": 1})
    queue = await answered("inspected", scene.inspector.inspect_queue(["r~1", "gone~1"]))
    assert queue == QueueInspection(2, 0, ["gone~1"])
    await answered("abandoned", scene.release(first))
    await answered("left", scene.leave())
    assert space.raw.get(space.keys.sequence_prefix + "second") == "5"
    await scene.heartbeat("r~1", "r~2")
    await answered("waiting", scene.acquire("000000a4:second", max_queue=9))
    assert space.raw.zscore(space.keys.queue, "r~1/000000a4:second") == 5
    await answered("saturated", scene.acquire("000000a4:second"))
    await waiters.served_by(set_admin(AdminState.ACTIVE), "set")
    await waiters.served_by(scene.acquire("000000a5"), "granted")
    await waiters.served_by(scene.release("000000a5"), "released")
    await waiters.served_by(scene.restore({"000000a6": A}), "restored")
    # The last slot of A goes to a waiter; the update below takes the limit away again.
    space.raw.hset(space.keys.replica(A), "capacity", int(space.fields(A)["in_flight"]) + 1)
    await waiters.served_by(one.heartbeat(prober("r~2"), expiry_seconds=5), "alive")
    update = one.register(A, ReplicaEndpoint(A, weight=3.0), mode=Source.EXPLICIT, request="a7", by="me")
    await waiters.served_by(update, "updated")
    heavier = {A: ReplicaEndpoint(A, weight=4.0)}
    await waiters.served_by(space.add_all(heavier, by="me", store=one), "registered")
    await waiters.served_by(one.record_outcome(space.success(A), THRESHOLDS), "applied")
    await waiters.served_by(scene.store("r~2").give_opinions([], THRESHOLDS), "applied")
    term = await scene.elect("t3")
    await waiters.served_by(one.report(term, 99, [space.success(A)], THRESHOLDS), "applied")
    await _serve_by_share(scene, waiters, term)
    await waiters.served_by(one.repair(loads={}, routers=[], first_event="", by="me"), "repaired")
    space.raw.zadd(space.keys.queue, {"gone~1/00000001": 1})
    await waiters.served_by(scene.leave(), "left")
    await scene.heartbeat("r~1", "r~3")
    await answered("set", set_admin(AdminState.DRAINING))
    await answered("waiting", scene.acquire("000000a8:third", max_queue=9))
    await answered("set", set_admin(AdminState.ACTIVE))
    await answered("held", scene.acquire("000000a8:third"))
    space.raw.zadd(space.keys.queue, {"r~3/000000a9:third": 1})
    space.expire_router("r~3")
    await waiters.served_by(one.reap("r~3", affinity_seconds=60), "reaped")
    await answered("left", scene.leave("r~2"))
    assert not space.raw.exists(space.keys.inbox("r~2"))
    await answered("released", scene.release("000000a8:third"))
    await _settle(scene, space)


async def _settle(scene: Scene, space: Space) -> None:
    """Put back a lease that Redis lost, and then begin another history, after each of which r~1 has nothing left."""
    answered = scene.answered

    def heartbeat(**said: Any) -> Awaitable[Heartbeat]:
        return scene.one.heartbeat(prober("r~1"), expiry_seconds=5, **said)

    await _move(scene)
    await answered("restored", scene.one.restore_leases({"000000aa": A}, is_lost=True))
    for known_history in ("", "lost"):
        word = (await answered("alive", heartbeat(known_history=known_history))).settling
        await answered("settling", scene.acquire("000000ab"))
        queue = await answered("inspected", scene.inspector.inspect_queue([]))
        assert not queue.ready
        await answered("alive", heartbeat(settled=word))
        assert not space.raw.exists(space.keys.settling)
    await answered("released", scene.release("000000aa"))
    space.raw.hset(space.keys.meta, "cluster", "eu")
    stranger = replace(prober("r~9"), cluster="us", config_fingerprint="other")
    await scene.refused("wrong_cluster", scene.one.heartbeat(stranger, expiry_seconds=5))
    space.raw.hdel(space.keys.meta, "cluster")


async def _move(scene: Scene) -> None:
    """Move a lease that may move, by a client that comes to another router, and by its router's departure."""
    answered, lease_id = scene.answered, "000000ac~moves"
    await scene.heartbeat("r~1", "r~6")
    await answered("restored", scene.restore({lease_id: A}))
    other = scene.store("r~6")
    await answered("not_registered", scene.store("r~7").take_over(lease_id))
    await answered("moved", other.take_over(lease_id))
    await answered("held", other.take_over(lease_id))
    await answered("restored", scene.restore({lease_id: A}))
    await answered("released", other.release(lease_id))
    await answered("ended", scene.one.take_over(lease_id))
    await answered("restored", scene.restore({lease_id: A}))
    await answered("restored", other.restore_leases({"000000ad~moves": A}))
    scene.space.expire_router("r~6")
    await answered("reaped", scene.one.reap("r~6", moves=True))
    await answered("released", scene.release("000000ad~moves"))
    await scene.heartbeat("r~6")
    await answered("restored", other.restore_leases({lease_id: A}))
    await answered("left", other.leave(moves=True))
    await answered("released", scene.release(lease_id))
    await answered("not_found", scene.one.take_over(lease_id))


async def _serve_by_share(scene: Scene, waiters: Waiters, term: Term) -> None:
    answered, one = scene.answered, scene.one
    await answered("written", one.write_plan(term, dict.fromkeys(BUCKETS, "r~2")))
    plan = (await answered("listed", one.participants(term))).plan
    assert plan is not None
    result = scene.space.success(A)
    await waiters.served_by(scene.store("r~2").report(Share(plan.number, "r~2"), 99, [result], THRESHOLDS), "applied")
    await answered("written", one.write_plan(term, {}))


async def _spares(scene: Scene, space: Space) -> None:
    """A panic: no replica is healthy, and D, which takes one session, has answered lately."""
    answered, waiters, first, second = scene.answered, Waiters(scene), "000000b1", "000000b2:second"

    def heartbeat(router: str) -> Awaitable[object]:
        return scene.one.heartbeat(info(router), expiry_seconds=5, panic_percent=50)

    for url in (A, B):
        await answered("set", scene.set_admin(url, AdminState.DISABLED))
    await space.add(D, capacity=1)
    for status in ("healthy", "unhealthy"):
        await space.make(status, D)
    await answered("alive", heartbeat("r~1"))
    await answered("no_healthy", scene.acquire(first, takes_spare=False))
    await answered("spare", scene.acquire(first))
    await answered("spare", scene.acquire(first))
    await answered("waiting", scene.acquire(second, max_queue=9))
    await answered("released", scene.release(first))
    await answered("spare", scene.acquire(second))
    await answered("left", scene.leave())
    await answered("alive", heartbeat("r~1"))
    await answered("alive", heartbeat("r~2"))
    await waiters.served_by(heartbeat("r~1"), "alive")
    space.expire_router("r~2")
    await answered("reaped", scene.one.reap("r~2", affinity_seconds=60))
    assert space.raw.zscore(space.keys.spare_secondary, D) == 0
    await answered("removed", scene.deregister(D))
    for url in (A, B):
        await answered("set", scene.set_admin(url, AdminState.ACTIVE))


async def _history(scene: Scene, space: Space) -> None:
    """Puts two views back after a loss of everything: the later one has the say."""
    answered = scene.answered
    lost = await space.reader.snapshot()
    history_id = lost.head.history_id
    known = replace(lost.records[A], endpoint=replace(lost.records[A].endpoint, name="A"))
    assert history_id is not None
    space.raw.delete(*space.dump())

    def restore(revision: str, *entries: list[str], is_complete: bool = False) -> Awaitable[object]:
        return scene.one.restore(entries, view_history_id=history_id, view_revision=revision, is_complete=is_complete)

    def entry(record: ReplicaRecord) -> list[str]:
        return restored_entry("replica", record)

    later, latest = _shifted(lost.head.revision, 1), _shifted(lost.head.revision, 2)
    space.raw.zadd(space.keys.routers, {"r~2": space.now_ms() + 10**6})
    space.raw.zadd(space.keys.queue, {"r~2/00000001:waits": 1})
    await answered(
        "restored", restore(lost.head.revision, entry(known), entry(lost.records[B]), removed_entry("removed", C))
    )
    await answered("restored", restore(later, removed_entry("absent", B), entry(known)))
    await answered("restored", restore(latest, entry(known), is_complete=True))
    await answered("superseded", restore(later, entry(known)))
    assert space.raw.hlen(space.keys.leases("r~2")) == 1
    assert space.fields(A)["admin"] == AdminState.ACTIVE.value
    assert space.fields(B)["admin"] == AdminState.REMOVED.value


async def _inspection(scene: Scene, space: Space) -> None:
    found = await scene.answered("inspected", scene.inspector.inspect([A, B, C]))
    assert found == await space.reader.inspect([A, B, C])
    assert [one.url for one in found if one.fields.get("admin") == AdminState.ACTIVE.value] == [A]


async def _repair(scene: Scene, space: Space) -> None:
    """Puts in order what was written by hand."""
    space.raw.delete(space.keys.names)
    space.raw.hset(space.keys.replica(A), "in_flight", "9")
    space.raw.zadd(space.keys.ready_secondary, {C: 1})
    space.raw.zadd(space.keys.replicas, {C: 9, "http://x": 1})
    space.raw.persist(space.keys.replica(C))
    space.raw.sadd(space.keys.full, A)
    space.raw.zadd(space.keys.removed, {A: 1})
    space.raw.zadd(space.keys.routers, {"r~1": 1})
    space.raw.hset(space.keys.leases("r~1"), "00000001", A)
    space.raw.hset(space.keys.leases("gone~1"), "00000002", A)
    urls, routers = [A, B, C, "http://x"], ["gone~1"]
    leases = await scene.answered("inspected", scene.inspector.inspect_leases(routers, urls))
    assert leases == LeaseInspection(["gone~1"], [(A, "9", 1)])
    _, (first_event, _), *_ = space.raw.xrange(space.keys.events)
    space.raw.zadd(space.keys.probers, {"malformed": space.now_ms() + 60_000})
    repair = scene.one.repair(
        loads=dict.fromkeys(urls) | {A: ("9", 1)}, routers=routers, first_event=first_event, by="me"
    )
    assert await scene.answered("repaired", repair)
    assert space.fields(A)["in_flight"] == "1"
    assert not space.raw.exists(space.keys.leases("gone~1"))
    space.raw.hset(space.keys.leases("r~1"), mapping={"00000003:s": A, "00000004:s": B})
    space.raw.hset(space.keys.several_prefix + "s", mapping={A: "3"})
    space.raw.set(space.keys.affinity_prefix + "t", A)
    counts = {"s": {A: 1, B: 1}, "t": {}}
    wrong = [WrongAffinity(one, read, counts[one]) for one, read in (await space.reader.affinities(["s", "t"])).items()]
    assert await scene.answered("repaired", scene.one.repair_affinities(wrong, by="me")) == 2
    assert await space.reader.affinities(["s", "t"]) == {
        "s": Affinity(A, has_end=False, several={A: "1", B: "1"}),
        "t": Affinity("", has_end=False, several={}),
    }
    space.raw.delete(space.keys.leases("r~1"), space.keys.affinity_prefix + "s", space.keys.several_prefix + "s")


async def _announced(scene: Scene, space: Space) -> None:
    """One replica after the other is announced, on a url that the other parts do not use."""
    answered, one, url = scene.answered, scene.one, "http://127.0.0.9:1"

    def announce(instance: str, at: str = url) -> Awaitable[object]:
        spec = ReplicaEndpoint(at, name="pod")
        return one.announce(at, spec, owner="o", instance=instance, ttl_seconds=10, by="me")

    def withdraw(instance: str, *, when_drained: bool = False) -> Awaitable[object]:
        return one.withdraw(url, instance, by="me", reason="why", when_drained=when_drained)

    async def fall_silent() -> None:
        space.raw.zadd(space.keys.announced, {url: 1})
        known = {"heartbeat_at_ms": space.now_ms(), "announcements_resumed_at_ms": 0, "reap_after_ms": 0}
        space.raw.hset(space.keys.meta, mapping=known)
        space.raw.hset(space.keys.replica(url), "last_heartbeat_at_ms", 1)
        await scene.heartbeat("r~1")

    await answered("not_found", withdraw("i1"))
    await answered("created", announce("i1"))
    await answered("beaten", one.beat(url, "i1"))
    await answered("taken", announce("i2"))
    await answered("taken", withdraw("i2"))
    await answered("claimed", announce("i1", "http://127.0.0.8:2"))
    await answered("set", scene.set_admin(url, AdminState.DISABLED))
    space.raw.hset(space.keys.replica(url), "in_flight", "1")
    await fall_silent()
    await answered("set", scene.set_admin(url, AdminState.DRAINING))
    await answered("created", announce("i3"))
    await answered("draining", withdraw("i3", when_drained=True))
    await answered("withdrawn", announce("i3"))
    await answered("removed", withdraw("i3"))
    space.raw.hset(space.keys.replica(url), "in_flight", "0")
    await answered("created", announce("i4"))
    await answered("removed", scene.deregister(url))
    await answered("tombstone", announce("i4"))
    await answered("created", announce("i5"))
    await answered("set", scene.set_admin(url, AdminState.DISABLED))
    await fall_silent()


async def _late_removal(scene: Scene, space: Space) -> None:
    """The last session of a replica ended without a script that would have removed it."""
    drained = {"admin": AdminState.DRAINING.value, "removes_when_drained": "1", "in_flight": "0"}
    space.raw.hset(space.keys.replica(A), mapping=drained)
    space.raw.hset(space.keys.meta, mapping={"heartbeat_at_ms": space.now_ms(), "reap_after_ms": 0})
    await scene.answered("alive", scene.one.heartbeat(prober("r~1"), expiry_seconds=5, drains=[A, "http://x"]))
    assert space.fields(A)["admin"] == AdminState.REMOVED.value


def _shifted(revision: str, steps: int) -> str:
    milliseconds, _, _ = revision.partition("-")
    return f"{int(milliseconds) + steps}-0"
