"""Every command, brought to every answer that it can give; only refusals are left to test_scripts_refusals.py."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from shared_registry.lua_files import assemble, command_names
from shared_registry.model import AdminState, ProbeResult, ReplicaEndpoint, ReplicaRecord, Source
from shared_registry.scripts import Reply, Scripts
from shared_registry.wire import removed_entry, restored_entry
from tests.redis.support import THRESHOLDS, A, B, C, D, E, Space, info


class ScriptRunner:
    """Stands between `Scripts` and a client, and keeps what every command answered. Subclasses do more."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.answers: list[tuple[str, str]] = []
        self._names = {assemble(name): name for name in command_names()}

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


async def run_scenario(space: Space, runner: ScriptRunner) -> None:
    """Run every command through `runner` on an empty namespace; fails where an answer is not the expected one."""
    scripts = Scripts(runner, space.keys)
    await _replicas(scripts, space)
    await _election(scripts, space)
    await _probes(scripts, space)
    await _routers(scripts, space)
    await _leases(LeaseCalls(scripts, space), space)
    await _partings(LeaseCalls(scripts, space), space)
    await _line(LeaseCalls(scripts, space), space)
    await _history(scripts, space)
    await _expect("inspected", scripts.inspect_replicas([A, B, C]))
    await _repair(scripts, space)


async def _expect(status: str, reply: Awaitable[Reply]) -> None:
    assert (await reply).status == status


async def _replicas(scripts: Scripts, space: Space) -> None:
    def register(request: str, mode: Source = Source.EXPLICIT, url: str = A, **spec: Any) -> Awaitable[Reply]:
        return scripts.register_replica(
            mode=mode,
            request=request,
            birth="birth",
            router="r~1",
            by="me",
            key=url,
            endpoint=ReplicaEndpoint(url, **spec),
        )

    def deregister(incarnation: str, url: str = A) -> Awaitable[Reply]:
        return scripts.deregister_replica(
            key=url, incarnation=incarnation, router="r~1", by="me", reason="why", when_drained=False
        )

    def set_admin(state: str, reason: str = "") -> Awaitable[Reply]:
        return scripts.set_admin(key=A, state=state, router="r~1", by="me", reason=reason)

    await _expect("not_found", deregister("a1"))
    await _expect("not_found", set_admin("draining"))
    await _expect("created", register("a1", weight=0.1 + 0.2))
    await _expect("unchanged", register("a2", weight=0.1 + 0.2))
    await _expect("updated", register("a3", capacity=2, order=7, name="A"))
    await _expect("overridden", register("a4", Source.SEED))
    await _expect("set", set_admin("draining", "deploy"))
    await _expect("unchanged", set_admin("draining", "deploy"))
    await _expect("set", set_admin("draining", "still"))
    await _expect("set", set_admin("active"))
    await _expect("removed", deregister("a1"))
    await _expect("not_found", set_admin("draining"))
    await _expect("tombstone", register("a5", Source.SEED))
    await _expect("created", register("a6", primary=True))
    await _expect("created", register("b1", Source.SEED, B, capacity=1))
    await _expect("updated", register("b2", Source.SEED, B, capacity=2))
    await _expect("created", register("c1", url=C))
    space.raw.hset(space.keys.replica(C), "in_flight", "1")
    await _expect("removed", deregister("c1", C))


async def _election(scripts: Scripts, space: Space) -> None:
    def campaign(router: str, token: str) -> Awaitable[Reply]:
        return scripts.campaign(router=router, token=token, lease_seconds=60, seen_epoch=0, birth="birth")

    await _expect("lost", scripts.renew(token="t1", lease_seconds=60))
    await _expect("lost", scripts.resign(token="t1"))
    await _expect("elected", campaign("r~1", "t1"))
    await _expect("elected", campaign("r~1", "t1"))
    await _expect("held", campaign("r~2", "t2"))
    await _expect("renewed", scripts.renew(token="t1", lease_seconds=60))
    space.raw.persist(space.keys.leader)
    await _expect("held", campaign("r~2", "t2"))
    await _expect("resigned", scripts.resign(token="t1"))

    def step_down(epoch: int) -> Awaitable[Reply]:
        return scripts.step_down(epoch=epoch, sit_out_seconds=9, by="me", reason="why")

    await _expect("over", step_down(1))
    epoch = int((await campaign("r~1", "t2")).values[0])
    await _expect("over", step_down(epoch - 1))
    await _expect("deposed", step_down(epoch))


async def _probes(scripts: Scripts, space: Space) -> None:
    elected = await scripts.campaign(router="r~1", token="t3", lease_seconds=60, seen_epoch=0, birth="birth")
    epoch = int(elected.values[0])
    await _expect("fenced", scripts.advance_ramps(token="other", epoch=epoch, slow_start_seconds=9, urls=[A]))
    await _expect("advanced", scripts.advance_ramps(token="t3", epoch=epoch, slow_start_seconds=9000, urls=[]))
    await _expect("fenced", scripts.declare_panic(token="other", epoch=epoch, why="few"))
    await _expect("declared", scripts.declare_panic(token="t3", epoch=epoch, why="few"))
    await _expect("unchanged", scripts.declare_panic(token="t3", epoch=epoch, why="fewer"))
    await _expect("declared", scripts.declare_panic(token="t3", epoch=epoch, why=""))
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
        reply = scripts.report_probes(token="t3", epoch=epoch, batch=number, thresholds=THRESHOLDS, results=results)
        await _expect("applied", reply)
    reply = scripts.report_probes(token="t3", epoch=epoch, batch=1, thresholds=THRESHOLDS, results=batches[0])
    await _expect("duplicate", reply)
    advanced = await scripts.advance_ramps(token="t3", epoch=epoch, slow_start_seconds=0, urls=[A, B, C])
    assert advanced.values == [A, B]
    space.raw.hset(space.keys.replica(A), "status_since_ms", "1")
    advanced = await scripts.advance_ramps(token="t3", epoch=epoch, slow_start_seconds=0, urls=[A, B])
    assert advanced.values == [B]
    reply = scripts.report_probes(token="t0", epoch=epoch, batch=9, thresholds=THRESHOLDS, results=batches[0])
    await _expect("fenced", reply)
    for result in [bad(B), bad(B), bad(B), good(B)]:
        outcome = scripts.record_outcome(result=result, thresholds=THRESHOLDS, router="r~1", by="me", is_passive=False)
        await _expect("applied", outcome)
    gone = ProbeResult(C, "c1", 1.0)
    await _expect(
        "not_found", scripts.record_outcome(result=gone, thresholds=THRESHOLDS, router="r~1", by="", is_passive=True)
    )
    # A replica whose last slot is taken: it moves to `full` with the next change.
    await scripts.record_outcome(result=good(B), thresholds=THRESHOLDS, router="r~1", by="", is_passive=False)
    space.raw.hset(space.keys.replica(B), "in_flight", "2")
    await _expect("set", scripts.set_admin(key=B, state="active", router="r~1", by="", reason="refresh"))
    assert space.ready() == ({A}, set(), {B})


async def _routers(scripts: Scripts, space: Space) -> None:
    def beat(key: str) -> Awaitable[Reply]:
        return scripts.heartbeat(info=info(key), expiry_seconds=5, birth="birth")

    def leave() -> Awaitable[Reply]:
        return scripts.leave_cluster(key="r~1", affinity_seconds=60)

    def reap() -> Awaitable[Reply]:
        return scripts.reap_router(key="r~2", by="r~1", affinity_seconds=60)

    await _expect("not_found", leave())
    await _expect("not_found", reap())
    await _expect("alive", beat("r~1"))
    await _expect("alive", beat("r~2"))
    await _expect("alive", reap())
    space.raw.zadd(space.keys.routers, {"r~1": space.now_ms() + 10**9})
    await _expect("alive", beat("r~2"))
    space.expire_router("r~2")
    await _expect("reaped", reap())
    await _expect("left", leave())


class LeaseCalls:
    """The commands on leases, with what stays the same filled in."""

    def __init__(self, scripts: Scripts, space: Space) -> None:
        self.scripts = scripts
        self.space = space

    def acquire(
        self,
        lease_id: str,
        *excluded: str,
        avoided: Sequence[str] = (),
        max_queue: int = 0,
        sequence: str = "",
        router: str = "r~1",
    ) -> Awaitable[Reply]:
        return self.scripts.acquire_lease(
            router=router,
            lease_id=lease_id,
            max_queue=max_queue,
            sequence=sequence,
            avoided=avoided,
            excluded=excluded,
        )

    def release(self, lease_id: str, affinity_seconds: float = 60) -> Awaitable[Reply]:
        return self.scripts.release_lease(router="r~1", lease_id=lease_id, affinity_seconds=affinity_seconds)

    def restore(self, leases: dict[str, str], router: str = "r~1") -> Awaitable[Reply]:
        return self.scripts.restore_leases(router=router, leases=leases)

    def deregister(self, url: str, *, when_drained: bool = True) -> Awaitable[Reply]:
        incarnation = self.space.incarnation(url)
        return self.scripts.deregister_replica(
            key=url, incarnation=incarnation, router="r~1", by="me", reason="why", when_drained=when_drained
        )

    async def beat(self) -> None:
        for router in ("r~1", "r~2"):
            await self.scripts.heartbeat(info=info(router), expiry_seconds=5, birth="birth")


async def _leases(calls: LeaseCalls, space: Space) -> None:
    """Leases on A, which is unlimited, and on D and E, which take one each."""
    first, other, third, fourth = (f"{number:08x}" for number in range(4))
    await _expect("not_registered", calls.acquire(first))
    await _expect("not_registered", calls.restore({first: A}))
    await calls.beat()
    await _expect("granted", calls.acquire(first))
    await _expect("held", calls.acquire(first))
    await _expect("saturated", calls.acquire(other, A))  # B is full
    for state, answer in (("disabled", "no_healthy"), ("active", "saturated")):
        await calls.scripts.set_admin(key=B, state=state, router="r~1", by="", reason="")
        await _expect(answer, calls.acquire(other, A))
    for url in (D, E):
        await space.add(url, primary=url == D, capacity=1)
        await space.make("healthy", url)
    await _expect("granted", calls.acquire(f"{other}:session", E, avoided=[A]))
    await _expect("released", calls.release(f"{other}:session"))
    await _expect("granted", calls.acquire(f"{other}:session"))
    await _expect("granted", calls.acquire(f"{third}:session", avoided=[A, E]))
    moved = f"{third}:session"
    await _expect("restored", calls.restore({moved: E, fourth: D, first: A, "0000000f": "http://unknown"}))
    await _expect("draining", calls.deregister(D))
    await _expect("draining", calls.deregister(D))
    await _expect("restored", calls.restore({moved: D}))
    await _expect("restored", calls.restore({moved: E}))
    await _expect("released", calls.release(f"{other}:session"))
    await _expect("released", calls.release(fourth))
    await _expect("not_found", calls.release(fourth))
    assert space.fields(D)["admin"] == AdminState.REMOVED.value
    await _expect("removed", calls.deregister(E, when_drained=False))
    await _expect("restored", calls.restore({moved: A}))
    await _expect("restored", calls.restore({moved: E}))
    await _expect("released", calls.release(moved, 0))
    await _expect("released", calls.release(first))
    await space.add(D)
    await _expect("restored", calls.restore({first: D}))
    await _expect("draining", calls.deregister(D))
    await _expect("restored", calls.restore({first: A}))
    assert space.fields(D)["admin"] == AdminState.REMOVED.value


async def _partings(calls: LeaseCalls, space: Space) -> None:
    """Routers with many leases leave, and are reaped."""

    def leave() -> Awaitable[Reply]:
        return calls.scripts.leave_cluster(key="r~1", affinity_seconds=60)

    def reap() -> Awaitable[Reply]:
        return calls.scripts.reap_router(key="r~2", by="r~1", affinity_seconds=0)

    ids = [f"{number:08x}:{number}" for number in range(1300)]
    for router, part in (("r~1", leave), ("r~2", reap)):
        await space.add(D)
        await _expect("restored", calls.restore(dict.fromkeys(ids, D), router))
        await _expect("draining", calls.deregister(D))
        space.expire_router("r~2")
        await _expect("partial", part())
        while (await part()).status == "partial":
            pass
        assert space.fields(D)["admin"] == AdminState.REMOVED.value
        assert not space.raw.exists(space.keys.leases(router))
    assert space.fields(A)["in_flight"] == "0"


class Waiters:
    """Sessions of a router that wait beside room, as after a script was cut short, and get it from what comes next."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._serial = itertools.count(1)

    async def served_by(self, reply: Awaitable[Reply], status: str) -> None:
        space = self._space
        waiter = f"{next(self._serial):08x}:waits"
        space.raw.zadd(space.keys.queue, {f"r~2/{waiter}": 1})
        await _expect(status, reply)
        assert space.raw.hexists(space.keys.leases("r~2"), waiter)
        assert space.raw.xrevrange(space.keys.inbox("r~2"))[0][1]["lease_id"] == waiter
        assert not space.raw.exists(space.keys.queue)


async def _line(calls: LeaseCalls, space: Space) -> None:
    """The waiting line, and every command that serves somebody; only A has room, and any number of it."""
    scripts, waiters, first = calls.scripts, Waiters(space), "000000a1:first"

    def set_admin(state: str) -> Awaitable[Reply]:
        return scripts.set_admin(key=A, state=state, router="r~1", by="", reason="")

    await calls.beat()
    await _expect("excluded", calls.acquire(first, A, max_queue=9))
    await _expect("set", set_admin("draining"))
    for _ in range(2):
        await _expect("waiting", calls.acquire(first, max_queue=2))
    await _expect("waiting", calls.acquire("000000a2:second", max_queue=2, sequence="5"))
    await _expect("saturated", calls.acquire("000000a3", max_queue=2))
    await _expect("inspected", scripts.inspect_waiters(router="r~1", lease_ids=["000000a2:second", "000000a3"]))
    await _expect("inspected", scripts.inspect_queue(routers=["r~1", "gone~1"]))
    await _expect("abandoned", calls.release(first))
    await _expect("left", scripts.leave_cluster(key="r~1", affinity_seconds=60))
    assert space.raw.get(space.keys.place_prefix + "second") == "5"
    await calls.beat()
    await _expect("waiting", calls.acquire("000000a4:second", max_queue=9))
    assert space.raw.zscore(space.keys.queue, "r~1/000000a4:second") == 5
    await _expect("saturated", calls.acquire("000000a4:second"))
    await waiters.served_by(set_admin("active"), "set")
    await waiters.served_by(calls.acquire("000000a5"), "granted")
    await waiters.served_by(calls.release("000000a5"), "released")
    await waiters.served_by(calls.restore({"000000a6": A}), "restored")
    # The last slot of A goes to a waiter; the update below takes the limit away again.
    space.raw.hset(space.keys.replica(A), "capacity", int(space.fields(A)["in_flight"]) + 1)
    await waiters.served_by(scripts.heartbeat(info=info("r~2"), expiry_seconds=5, birth="birth"), "alive")
    endpoint = ReplicaEndpoint(A, weight=3.0)
    update = scripts.register_replica(
        mode=Source.EXPLICIT, request="a7", birth="birth", router="r~1", by="me", key=A, endpoint=endpoint
    )
    await waiters.served_by(update, "updated")
    outcome = scripts.record_outcome(
        result=space.success(A), thresholds=THRESHOLDS, router="r~1", by="", is_passive=False
    )
    await waiters.served_by(outcome, "applied")
    elected = await scripts.campaign(router="r~1", token="t3", lease_seconds=60, seen_epoch=0, birth="birth")
    report = scripts.report_probes(
        token="t3", epoch=int(elected.values[0]), batch=99, thresholds=THRESHOLDS, results=[space.success(A)]
    )
    await waiters.served_by(report, "applied")
    repair = scripts.repair_namespace(router="r~1", by="me", first_event="", routers=[], urls=[])
    await waiters.served_by(repair, "repaired")
    space.raw.zadd(space.keys.queue, {"gone~1/00000001": 1})
    await waiters.served_by(scripts.leave_cluster(key="r~1", affinity_seconds=60), "left")
    for router in ("r~1", "r~3"):
        await scripts.heartbeat(info=info(router), expiry_seconds=5, birth="birth")
    await _expect("set", set_admin("draining"))
    await _expect("waiting", calls.acquire("000000a8:third", max_queue=9))
    await _expect("set", set_admin("active"))
    await _expect("held", calls.acquire("000000a8:third"))
    space.raw.zadd(space.keys.queue, {"r~3/000000a9:third": 1})
    space.expire_router("r~3")
    await waiters.served_by(scripts.reap_router(key="r~3", by="r~1", affinity_seconds=60), "reaped")
    await _expect("left", scripts.leave_cluster(key="r~2", affinity_seconds=60))
    assert not space.raw.exists(space.keys.inbox("r~2"))
    await _expect("released", calls.release("000000a8:third"))


async def _history(scripts: Scripts, space: Space) -> None:
    """Puts two views back after a loss of everything: the later one has the say."""
    lost = await space.reader.snapshot()
    known = lost.records[A]
    space.raw.delete(*space.dump())

    def restore(revision: str, *entries: list[str], is_complete: bool = False) -> Awaitable[Reply]:
        return scripts.restore_view(
            birth="birth 2",
            router="r~1",
            view_birth="birth",
            view_revision=revision,
            is_complete=is_complete,
            entries=[text for entry in entries for text in entry],
        )

    def entry(record: ReplicaRecord) -> list[str]:
        return restored_entry("replica", record)

    later, latest = _shifted(lost.head.revision, 1), _shifted(lost.head.revision, 2)
    space.raw.zadd(space.keys.routers, {"r~2": space.now_ms() + 10**6})
    space.raw.zadd(space.keys.queue, {"r~2/00000001:waits": 1})
    await _expect(
        "restored", restore(lost.head.revision, entry(known), entry(lost.records[B]), removed_entry("removed", C))
    )
    await _expect("restored", restore(later, removed_entry("absent", B), entry(known)))
    await _expect("restored", restore(latest, entry(known), is_complete=True))
    await _expect("superseded", restore(later, entry(known)))
    assert space.raw.hlen(space.keys.leases("r~2")) == 1
    assert space.fields(A)["admin"] == AdminState.ACTIVE.value
    assert space.fields(B)["admin"] == AdminState.REMOVED.value


async def _repair(scripts: Scripts, space: Space) -> None:
    """Puts in order what was written by hand."""
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
    await _expect("inspected", scripts.inspect_leases(routers=routers, urls=urls))
    _, (first_event, _), *_ = space.raw.xrange(space.keys.events)
    await _expect(
        "repaired",
        scripts.repair_namespace(router="r~1", by="me", first_event=first_event, routers=routers, urls=urls),
    )
    assert space.fields(A)["in_flight"] == "1"
    assert not space.raw.exists(space.keys.leases("gone~1"))


def _shifted(revision: str, steps: int) -> str:
    milliseconds, _, _ = revision.partition("-")
    return f"{int(milliseconds) + steps}-0"
