"""Simulated pods: programs that announce replicas in a simulation, and what happens to them."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shared_registry.announcing.announcement import Announcement
from shared_registry.config import RouterConfig
from shared_registry.model import AdminState, ReplicaEndpoint, ReplicaRecord
from tests.support.simulation.faults import PODS, Fault, Kind
from tests.support.simulation.keyspace import Hash
from tests.support.simulation.loop import Process, VirtualLoop
from tests.support.simulation.operators import Change, is_sure
from tests.support.simulation.wire import Link

if TYPE_CHECKING:
    from tests.support.simulation.world import World

TTL_SECONDS = 5.0
DRAIN_SECONDS = (0.0, 1.0, 8.0)
RECOVERY_SECONDS = 3.0
"""Within which a heartbeat of a pod arrives after a fault: the time limit of a call, and a pause."""
TWINS = "twin of "
FEW_SILENT = 3
"""If more than these, and more than half, send no heartbeats, those that probes reach stay."""


@functools.cache
def pod_settings() -> RouterConfig:
    """Return the settings of the programs that announce. Checking them takes a while."""
    return RouterConfig(redis_url="redis://10.0.0.1:6379/0", namespace="sim")


class SimulatedPod:
    """One run of a program that announces a replica. A restart makes another one.

    Attributes:
        name: The replica's name.
        url: The replica's address.
        announcement: What announces it.
        is_over: The program was killed, or is asked to end.
        calm_since: When the last fault is over that may have kept its heartbeats from Redis.
    """

    def __init__(self, loop: VirtualLoop, process: Process, name: str, url: str, drain_seconds: float) -> None:
        self.process = process
        self.name = name
        self.url = url
        endpoint = ReplicaEndpoint(url, name=name, capacity=2)
        self.announcement = Announcement(pod_settings(), endpoint, ttl_seconds=TTL_SECONDS, drain_seconds=drain_seconds)
        self.is_over = False
        self.calm_since = loop.time()
        self._stops = asyncio.Event()
        loop.start(process, self._run())

    async def _run(self) -> None:
        async with self.announcement:
            await self._stops.wait()

    def stop(self) -> None:
        """End as at SIGTERM."""
        self.is_over = True
        self._stops.set()


class Pods:
    """All pods of a simulation. Their faults are methods with the names of the kinds.

    Attributes:
        runs: The program of each pod; `None` while it is down.
        twins: Programs that announce an address of another pod.
        past: Programs that were killed or stopped.
        removed: Instances that operators have removed, and how.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.runs: dict[int, SimulatedPod | None] = {}
        self.twins: list[SimulatedPod] = []
        self.past: list[SimulatedPod] = []
        self.removed: dict[str, Change] = {}
        self._moves: dict[int, int] = {}
        self._lost: set[int] = set()
        self._answering: set[str] = set()
        self._starts = 0

    # What there is

    def alive(self) -> Iterator[SimulatedPod]:
        """Yield the programs that run."""
        yield from (run for run in self.runs.values() if run is not None)
        yield from self.twins

    def at(self, url: str) -> list[SimulatedPod]:
        """Return the programs that run for an address."""
        return [pod for pod in self.alive() if pod.url == url]

    def urls(self) -> list[str]:
        """Return all addresses that there were."""
        return list(dict.fromkeys(pod.url for pod in (*self.past, *self.alive())))

    def called(self, records: dict[str, ReplicaRecord]) -> dict[str, ReplicaRecord]:
        """Return replicas also by the names and instances of the programs that hold them."""
        found = dict(records)
        for pod in (*self.past, *self.alive()):
            record = records.get(pod.url)
            if record is not None and record.instance == pod.announcement.instance:
                if record.expired_at is None:
                    found[pod.announcement.instance] = record
                if not pod.is_over:
                    found[pod.name] = record
        return found

    def away(self, called: dict[str, ReplicaRecord]) -> set[str]:
        """Return the names of pods that hold nothing, and all instances: only names carry what operators changed."""
        names = {pod.name for pod in (*self.past, *self.alive())}
        return {name for name in names if name not in called} | set(self.removed)

    def of_instance(self, instance: str) -> SimulatedPod | None:
        return next((pod for pod in self.alive() if pod.announcement.instance == instance), None)

    def answers(self, url: str) -> bool:
        """Return whether something answers probes at an address of a pod. Not every address is one."""
        return url in self._answering or bool(self.at(url)) or url not in self.urls()

    def held(self, pod: SimulatedPod) -> Hash | None:
        """Return the hash of its replica while it is in service as that of this program."""
        found = self._world.redis.keyspace.values.get(self._world.keys.replica(pod.url))
        if not isinstance(found, Hash) or found.get("instance") != pod.announcement.instance:
            return None
        has_left = found.get("admin") == "removed" or "expired_at_ms" in found or "withdrawn_at_ms" in found
        return None if has_left else found

    # Their life

    def _start(self, number: int) -> None:
        if self.runs.get(number) is None and number not in self._lost:
            url = f"http://10.0.2.{number + len(PODS) * 10 * (self._moves.get(number, 0) % 2) + 1}:8000"
            self.runs[number] = self._make(f"pod-{number}", url)

    def _make(self, name: str, url: str) -> SimulatedPod:
        world, self._starts = self._world, self._starts + 1
        rng = random.Random(f"{world.seed} {name} {self._starts}")
        process = world.loop.add_process(f"{name}, start {self._starts}")
        world.network.links[process] = Link(world.loop, rng)
        self._answering.discard(url)
        drain_seconds = rng.choice(DRAIN_SECONDS)
        return process.context.copy().run(SimulatedPod, world.loop, process, name, url, drain_seconds)

    def _end(self, number: int) -> SimulatedPod | None:
        run = self.runs.get(number)
        if run is not None:
            self.runs[number] = None
            self.past.append(run)
        return run

    def _kill(self, pod: SimulatedPod) -> None:
        pod.is_over = True
        pod.process.kill()
        self._world.network.links[pod.process].break_all()

    def disturb(self, pod: SimulatedPod, seconds: float = 0.0) -> None:
        """Note that its heartbeats may not reach Redis for that time."""
        pod.calm_since = max(pod.calm_since, self._world.loop.time() + seconds)

    def disturb_all(self, seconds: float = 0.0) -> None:
        """Note that no heartbeats may reach Redis for that time."""
        for pod in self.alive():
            self.disturb(pod, seconds)

    def heal(self) -> None:
        """End all faults."""
        for number in self.runs:
            self._start(number)
        for pod in self.alive():
            self._world.loop.resume(pod.process)

    def stop(self) -> None:
        """Stop the programs that run."""
        for pod in self.alive():
            pod.stop()
            self.past.append(pod)
        self.runs.clear()
        self.twins.clear()

    # Faults

    def happen(self, fault: Fault) -> None:
        if fault.kind is Kind.POD_JOINS:
            self.runs[fault.replica] = None
            self._start(fault.replica)
        elif fault.kind is Kind.PODS_CUT_OFF:
            for pod in self.alive():
                self._block(pod, fault.seconds)
        elif (run := self.runs.get(fault.replica)) is not None:
            getattr(self, f"_{fault.kind.name.lower()}")(run, fault)

    def _at(self, seconds: float, call: Any, *args: Any) -> None:
        self._world.at(self._world.now + seconds, call, *args)

    def _pod_crash(self, pod: SimulatedPod, fault: Fault) -> None:
        self._end(fault.replica)
        self._kill(pod)
        self._at(fault.seconds, self._start, fault.replica)

    def _pod_move(self, pod: SimulatedPod, fault: Fault) -> None:
        self._moves[fault.replica] = self._moves.get(fault.replica, 0) + 1
        self._pod_crash(pod, fault)

    def _pod_stop(self, pod: SimulatedPod, fault: Fault) -> None:
        if not pod.process.is_paused:
            self._end(fault.replica)
            pod.stop()
            self._at(fault.seconds, self._start, fault.replica)

    def _pod_lost(self, pod: SimulatedPod, fault: Fault) -> None:
        self._end(fault.replica)
        self._kill(pod)
        self._lost.add(fault.replica)
        self._answering.add(pod.url)

    def _pod_twin(self, pod: SimulatedPod, fault: Fault) -> None:
        twin = self._make(f"{TWINS}{pod.name} {fault.number}", pod.url)
        self.twins.append(twin)
        self._at(fault.seconds, self._end_twin, twin)

    def _end_twin(self, twin: SimulatedPod) -> None:
        if twin in self.twins and not self._world.is_healed:
            self.twins.remove(twin)
            self.past.append(twin)
            self._kill(twin)

    def _pod_pause(self, pod: SimulatedPod, fault: Fault) -> None:
        if not pod.process.is_paused:
            pod.process.pause()
            self.disturb(pod, fault.seconds)
            self._at(fault.seconds, self._world.loop.resume, pod.process)

    def _link(self, pod: SimulatedPod) -> Link:
        return self._world.network.links[pod.process]

    def _pod_break(self, pod: SimulatedPod, fault: Fault) -> None:
        self.disturb(pod)
        self._link(pod).break_all()

    def _pod_lose_replies(self, pod: SimulatedPod, fault: Fault) -> None:
        self.disturb(pod, 2 * fault.count)
        self._link(pod).loses_replies += fault.count

    def _pod_repeat(self, pod: SimulatedPod, fault: Fault) -> None:
        self._link(pod).repeats += fault.count

    def _pod_cut_off(self, pod: SimulatedPod, fault: Fault) -> None:
        self._block(pod, fault.seconds)

    def _block(self, pod: SimulatedPod, seconds: float) -> None:
        link = self._link(pod)
        link.blocks_commands = link.blocks_replies = True
        self.disturb(pod, seconds)
        self._at(seconds, link.unblock)

    def _pod_cut_replies(self, pod: SimulatedPod, fault: Fault) -> None:
        link = self._link(pod)
        link.blocks_replies = True
        self.disturb(pod, fault.seconds)
        self._at(fault.seconds, link.unblock)

    def _pod_sick(self, pod: SimulatedPod, fault: Fault) -> None:
        self._world.die(pod.url, fault.seconds)

    def _pod_remove(self, pod: SimulatedPod, fault: Fault) -> None:
        instance = pod.announcement.instance

        def done(change: Change) -> None:
            self.removed[instance] = change
            self._world.operators.give_up(pod.name)  # a removal ends what was said of the name

        self._operate(pod, fault, instance, lambda registry: registry.deregister(pod.url, by="operator"), done)

    def _pod_drain(self, pod: SimulatedPod, fault: Fault) -> None:
        self._operate(pod, fault, pod.name, lambda registry: registry.drain(pod.url, by="operator"))

    def _pod_enable(self, pod: SimulatedPod, fault: Fault) -> None:
        self._operate(pod, fault, pod.name, lambda registry: registry.enable(pod.url, by="operator"))

    def _operate(self, pod: SimulatedPod, fault: Fault, what: str, act: Any, done: Any = None) -> None:
        """Let an operator change what a program holds. It is not known what is changed if it ceases to hold it."""
        if self.held(pod) is None:
            return
        change = Change(Kind[fault.kind.name.removeprefix("POD_")], what)
        if done is not None:
            done(change)

        def made() -> None:
            is_removal = change.kind is Kind.REMOVE
            found = self._world.redis.keyspace.values.get(self._world.keys.replica(pod.url))
            instance = found.get("instance") if isinstance(found, Hash) else None
            change.is_lost |= self.held(pod) is None and not (is_removal and instance == pod.announcement.instance)

        self._world.operate(fault.router, change, act, made)


def wrong_pods(world: World, records: dict[str, ReplicaRecord]) -> list[str]:
    """Return what does not hold of the addresses of pods, some time after the last fault."""
    problems = []
    silent = _silent_together(world, records)
    for url in world.pods.urls():
        record, programs = records.get(url), world.pods.at(url)
        if not programs and url not in silent:
            if record is not None and (_is_in_service(record) or record.in_flight == 0):
                problems.append(f"{url} is listed, although nothing announces it: {record}")
        elif programs:
            problems += _wrong_holder(world, programs, record)
    return problems


def _silent_together(world: World, records: dict[str, ReplicaRecord]) -> set[str]:
    """Return addresses that stay listed: most are silent, and something answers there; see lua/lib/expiry.lua."""
    listed = {url for url in world.pods.urls() if (record := records.get(url)) is not None and _is_in_service(record)}
    silent = {url for url in listed if not world.pods.at(url) and world.pods.answers(url)}
    return silent if len(silent) > FEW_SILENT and len(silent) > len(listed) / 2 else set()


def _wrong_holder(world: World, programs: list[SimulatedPod], record: ReplicaRecord | None) -> list[str]:
    """Compare the holder of an address with the programs that announce it."""
    url, removed, problems = programs[0].url, world.pods.removed, []
    instance = record.instance if record is not None and _is_in_service(record) else ""
    by_instance = {pod.announcement.instance: pod for pod in programs}
    holder = by_instance.get(instance)
    if holder is None and (instance or any(one not in removed for one in by_instance)):
        problems.append(f"{url} should be held by one of {list(by_instance)}, but there is {record}")
    if instance in removed and is_sure(removed[instance], world.alive()):
        problems.append(f"{url} was removed, and is in service again: {record}")
    if held := [one for one, pod in by_instance.items() if pod.announcement.is_held != (pod is holder)]:
        problems.append(f"{url} is held by {instance or None}, but {held} say otherwise")
    is_changed = holder is None or any(change.url == holder.name for change in world.operators.changes)
    if record is not None and record.admin is not AdminState.ACTIVE and not is_changed:
        problems.append(f"{url} is {record.admin.value}, although no operator has changed it")
    return problems


def _is_in_service(record: ReplicaRecord) -> bool:
    return record.expired_at is None and record.withdrawn_at is None and not record.removes_when_drained
