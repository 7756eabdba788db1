"""Every command, brought to every answer that it can give; only refusals are left to test_scripts_refusals.py."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from shared_registry.lua_files import assemble, command_names
from shared_registry.model import AdminState, ProbeResult, ReplicaEndpoint, ReplicaRecord, Source
from shared_registry.scripts import Reply, Scripts
from shared_registry.wire import removed_entry, restored_entry
from tests.redis.support import THRESHOLDS, A, B, C, Space, info


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
    await _history(scripts, space)
    await _expect("inspected", scripts.inspect_replicas([A, B, C]))


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
        return scripts.deregister_replica(key=url, incarnation=incarnation, router="r~1", by="me", reason="why")

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
    reply = scripts.report_probes(token="t0", epoch=epoch, batch=9, thresholds=THRESHOLDS, results=batches[0])
    await _expect("fenced", reply)
    for result in [bad(B), bad(B), bad(B), good(B)]:
        outcome = scripts.record_outcome(result=result, thresholds=THRESHOLDS, router="r~1", by="me")
        await _expect("applied", outcome)
    gone = ProbeResult(C, "c1", 1.0)
    await _expect("not_found", scripts.record_outcome(result=gone, thresholds=THRESHOLDS, router="r~1", by=""))
    # A replica whose last slot is taken: it moves to `full` with the next change.
    await scripts.record_outcome(result=good(B), thresholds=THRESHOLDS, router="r~1", by="")
    space.raw.hset(space.keys.replica(B), "in_flight", "2")
    await _expect("set", scripts.set_admin(key=B, state="active", router="r~1", by="", reason="refresh"))
    assert space.ready() == ({A}, set(), {B})


async def _routers(scripts: Scripts, space: Space) -> None:
    def beat(key: str) -> Awaitable[Reply]:
        return scripts.heartbeat(info=info(key), expiry_seconds=5, birth="birth")

    await _expect("not_found", scripts.leave_cluster(key="r~1"))
    await _expect("not_found", scripts.reap_router(key="r~2", by="r~1"))
    await _expect("alive", beat("r~1"))
    await _expect("alive", beat("r~2"))
    await _expect("alive", scripts.reap_router(key="r~2", by="r~1"))
    space.raw.zadd(space.keys.routers, {"r~1": space.now_ms() + 10**9})
    await _expect("alive", beat("r~2"))
    space.expire_router("r~2")
    await _expect("reaped", scripts.reap_router(key="r~2", by="r~1"))
    await _expect("left", scripts.leave_cluster(key="r~1"))


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
    await _expect(
        "restored", restore(lost.head.revision, entry(known), entry(lost.records[B]), removed_entry("removed", C))
    )
    await _expect("restored", restore(later, removed_entry("absent", B), entry(known)))
    await _expect("restored", restore(latest, entry(known), is_complete=True))
    await _expect("superseded", restore(later, entry(known)))
    assert space.fields(A)["admin"] == AdminState.ACTIVE.value
    assert space.fields(B)["admin"] == AdminState.REMOVED.value


def _shifted(revision: str, steps: int) -> str:
    milliseconds, _, _ = revision.partition("-")
    return f"{int(milliseconds) + steps}-0"
