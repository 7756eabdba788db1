"""One simulation: Redis, routers, replicas and operators on virtual time, what happens to them, and what must hold."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from shared_registry.config import RouterConfig
from shared_registry.errors import UnknownReplica
from shared_registry.model import AdminState, ReplicaEndpoint, ReplicaRecord
from shared_registry.store.channel import scripts
from shared_registry.store.codec import parse_record
from shared_registry.store.keys import Keys
from tests.support.simulation.faults import (
    AT_REDIS,
    CUT_OFF_FOR_A_MOMENT,
    KEEP_CAPACITY,
    POD_KINDS,
    ROUTERS,
    Fault,
    Kind,
    end_of,
)
from tests.support.simulation.keyspace import Keyspace, Refusal
from tests.support.simulation.loop import VirtualLoop
from tests.support.simulation.lua_runner import LuaRunner
from tests.support.simulation.operators import Change, Operators
from tests.support.simulation.pods import Pods
from tests.support.simulation.router import SimulatedRouter, settings
from tests.support.simulation.scripted_redis import ScriptedRedis
from tests.support.simulation.settled import check_settled, check_stopped
from tests.support.simulation.watch import Watch
from tests.support.simulation.wire import Link, Network

LEASE_SECONDS = 3.0
UNKNOWING_SHARE = 4
"""In one seed of so many the server does not know the commands at first. Sending them takes much time."""
CAPACITIES = (3, 2, 2, 1)
URLS = [f"http://10.0.1.{number}:8000" for number in range(1, 5)]
CONFIGURED = [ReplicaEndpoint(url, capacity=capacity) for url, capacity in zip(URLS[:2], CAPACITIES, strict=False)]


@functools.cache
def settings_of(router: int) -> RouterConfig:
    """Return the settings of a router. Checking them takes a while."""
    return settings(router, CONFIGURED)


class ErrorLog(logging.Handler):
    """Keeps what the package logs as an error: a background task has failed, which no fault explains."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = f": {record.exc_info[1]!r}" if record.exc_info else ""
        self.lines.append(f"logged: {record.getMessage()}{error}")


class World:
    """See the module.

    Attributes:
        loop: The virtual time.
        routers: The router of each number that runs; `None` while it is down.
        problems: What was violated.
        redis: The server.
    """

    def __init__(self, seed: int, lua: LuaRunner) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        self.problems: list[str] = []
        self.keys = Keys("sim")
        self._server = self.loop.add_process("redis")
        self.network = Network(self.loop, self._server)
        names = {lua.load_script(one): name for name, one in scripts().items()}
        knows_scripts = seed % UNKNOWING_SHARE != 0
        self.redis = ScriptedRedis(self.loop, self._server, lua, names, knows_scripts=knows_scripts)
        self.network.listen = self.redis.accept
        self.loop.connect = self.network.connect
        self.watch = Watch(self.redis.keyspace, self.keys, self.loop.time)
        self.watch.on_elected = self._judge_leaders
        self.redis.on_command = self.watch.on_command
        self.redis.on_changed_again = self.watch.on_changed_again
        self.pods = Pods(self)
        self.watch.announcements.of_instance = self.pods.of_instance
        self.operators = Operators(self._find)
        self.routers: list[SimulatedRouter | None] = [None] * ROUTERS
        self.past: list[SimulatedRouter] = []
        self._starts = 0
        self._lock_lost_at = float("-inf")
        self._keeps_capacity = self._may_be_away = self.is_healed = False
        self._dead: set[str] = set()
        self._copies: dict[int, tuple[dict[str, Any], Any, float]] = {}
        self._errors = ErrorLog()

    def run(self, faults: Sequence[Fault]) -> list[str]:
        """Run the simulation, and return what was violated, first things first."""
        logger = logging.getLogger("shared_registry")
        logger.addHandler(self._errors)
        try:
            self.loop.run_until_complete(self._run(faults))
        except Exception as error:  # noqa: BLE001  a simulation that cannot go on is a finding
            self.problems.append(f"the simulation ended: {error!r}")
        finally:
            logger.removeHandler(self._errors)
            logging.getLogger(__name__).debug("seed %d ended; Redis executed %s", self.seed, self.watch.counts)
            self.loop.close()
        routers = [one for one in (*self.past, *self.routers) if one is not None]
        return [
            *self.watch.problems,
            *self.watch.announcements.problems,
            *(problem for router in routers for problem in router.problems),
            *self._errors.lines,
            *self.loop.failures,
            *self.problems,
        ]

    @property
    def now(self) -> float:
        return self.loop.time() - 1000.0

    def alive(self) -> list[SimulatedRouter]:
        return [router for router in self.routers if router is not None and router.is_started]

    async def _run(self, faults: Sequence[Fault]) -> None:
        self._keeps_capacity = all(fault.kind in KEEP_CAPACITY for fault in faults)
        self._may_be_away = any(fault.kind in CUT_OFF_FOR_A_MOMENT for fault in faults)
        for number in range(ROUTERS):
            self._start_router(number)
        for fault in faults:
            if fault.kind in (Kind.OLDER_COPY, Kind.FAILOVER):
                self.at(fault.at - fault.amount, self._keep_copy, fault)
            self.at(fault.at, self._happen, fault)
        await self._sleep_until(end_of(faults))
        self._heal()
        await check_settled(self)
        await check_stopped(self)

    def at(self, at: float, call: Any, *args: Any) -> None:
        """Call something at that time."""
        self.loop.call_at(1000.0 + at, call, *args, context=self.loop.main.context)

    async def _sleep_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.now))

    # Routers

    def _start_router(self, number: int) -> None:
        if self.routers[number] is not None:
            return
        self._starts += 1
        rng = random.Random(f"{self.seed} router {number} {self._starts}")
        process = self.loop.add_process(f"router {number}, start {self._starts}")
        self.network.links[process] = Link(self.loop, random.Random(f"{self.seed} link {number} {self._starts}"))
        made = process.context.copy().run(SimulatedRouter, self.loop, process, settings_of(number), self._probe, rng)
        made.on_lease = self._count_sessions
        if self.is_healed:
            made.take_no_more()
        self.routers[number] = made

    def _end_router(self, number: int) -> SimulatedRouter | None:
        router = self.routers[number]
        if router is not None:
            self.routers[number] = None
            router.is_over = True
            self.past.append(router)
        return router

    async def _probe(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        await asyncio.sleep(0.004)
        return 4.0, "connection refused" if self._is_dead(url.removesuffix("/health")) else None

    def _is_dead(self, url: str) -> bool:
        return url in self._dead or not self.pods.answers(url)

    def _judge_leaders(self, elected: str) -> None:
        """Note a router that still leads when another one is elected, unless the lock was lost before its time."""
        if self.loop.time() - self._lock_lost_at < LEASE_SECONDS:
            return
        for router in self.alive():
            key = router.registry.router_key
            if key != elected and router.registry.is_leader and not router.process.is_paused:
                self.problems.append(f"{key} leads when {elected} is elected")

    def _count_sessions(self, url: str) -> None:
        """Note a replica with more sessions than its capacity, where no fault explains that."""
        if not self._keeps_capacity:
            return
        leases = [one.lease for router in self.alive() for one in router.sessions if one.lease and one.uses == url]
        if self._may_be_away and any(lease.is_degraded for lease in leases):
            return
        capacity = next((one.capacity for one in CONFIGURED if one.url == url), 0)
        if 0 < capacity < len(leases):
            self.problems.append(f"{url} has {len(leases)} sessions at {self.now:.2f} s, and a capacity of {capacity}")

    # Faults

    def _happen(self, fault: Fault) -> None:
        if fault.kind in POD_KINDS:
            self.pods.happen(fault)
            return
        if fault.kind in AT_REDIS:
            self.pods.disturb_all(fault.seconds)
        getattr(self, f"_{fault.kind.name.lower()}")(fault)

    def _link(self, fault: Fault) -> Link | None:
        router = self.routers[fault.router]
        return None if router is None else self.network.links[router.process]

    def _pause(self, fault: Fault) -> None:
        router = self.routers[fault.router]
        if router is not None and not router.process.is_paused:
            router.process.pause()
            router.paused_seconds += fault.seconds
            self.at(self.now + fault.seconds, self.loop.resume, router.process)

    def _crash(self, fault: Fault) -> None:
        router = self._end_router(fault.router)
        if router is not None:
            router.process.kill()
            self.network.links[router.process].break_all()
        self.at(self.now + fault.seconds, self._start_router, fault.router)

    def _stop(self, fault: Fault) -> None:
        router = self.routers[fault.router]
        if router is not None and router.is_started and not router.process.is_paused:
            self._end_router(fault.router)
            router.run(router.stop())
        self.at(self.now + fault.seconds, self._start_router, fault.router)

    def _break(self, fault: Fault) -> None:
        if (link := self._link(fault)) is not None:
            link.break_all()

    def _lose_replies(self, fault: Fault) -> None:
        if (link := self._link(fault)) is not None:
            link.loses_replies += fault.count

    def _lose_commands(self, fault: Fault) -> None:
        if (link := self._link(fault)) is not None:
            link.loses_commands += fault.count

    def _repeat(self, fault: Fault) -> None:
        if (link := self._link(fault)) is not None:
            link.repeats += fault.count

    def _slow(self, fault: Fault) -> None:
        if (link := self._link(fault)) is not None:
            link.latency_seconds = fault.amount
            self.at(self.now + fault.seconds, setattr, link, "latency_seconds", 0.002)

    def _cut_off(self, fault: Fault) -> None:
        if (link := self._link(fault)) is not None:
            link.blocks_commands = link.blocks_replies = True
            self.at(self.now + fault.seconds, link.unblock)

    def _cut_replies(self, fault: Fault) -> None:
        if (link := self._link(fault)) is not None:
            link.blocks_replies = True
            self.at(self.now + fault.seconds, link.unblock)

    def _freeze(self, fault: Fault) -> None:
        self._server.pause()
        self.at(self.now + fault.seconds, self.loop.resume, self._server)

    def _restart(self, fault: Fault) -> None:
        self.network.listen = None
        self.redis.restart()
        self.at(self.now + fault.seconds, self._listen)

    def _listen(self) -> None:
        self.network.listen = self.redis.accept

    def _flush(self, fault: Fault) -> None:
        for pod in self.pods.alive():
            if self.pods.held(pod) is None:
                self.operators.give_up(pod.name)  # what was said of it is kept in Redis only
        self.operators.lose_all(self.alive())
        self.redis.keyspace.replace(Keyspace(self.redis.keyspace.now_ms).copied())
        self.watch.on_loss()
        self._lock_lost_at = self.loop.time()

    def _lose_all(self, fault: Fault) -> None:
        self._restart(fault)
        self._flush(fault)

    def _keep_copy(self, fault: Fault) -> None:
        self._copies[fault.number] = self.redis.keyspace.copied(), self.watch.memory(), self.now

    def _older_copy(self, fault: Fault) -> None:
        self._restart(fault)
        copied, memory, at = self._copies[fault.number]
        self.operators.lose_since(at, self._records_in(copied))
        self._lock_lost_at = self.loop.time()
        self.redis.keyspace.replace(copied)
        self.watch.go_back(memory)

    def _records_in(self, copied: dict[str, Any]) -> dict[str, ReplicaRecord]:
        hashes = {url: copied["values"].get(self.keys.replica(url)) for url in (*URLS, *self.pods.urls())}
        records = {url: parse_record(url, fields) for url, fields in hashes.items() if fields}
        return self.pods.called({url: it for url, it in records.items() if it.admin is not AdminState.REMOVED})

    def _find(self, router: SimulatedRouter, called: str) -> ReplicaRecord | None:
        """Return what a router shows of the replica that a change names."""
        return self.pods.called({replica.key: replica.record for replica in router.registry.all()}).get(called)

    def _failover(self, fault: Fault) -> None:
        self._older_copy(fault)
        self._step_clock(-fault.count)

    def _read_only(self, fault: Fault) -> None:
        self._refuse(fault, Refusal.READ_ONLY)

    def _no_memory(self, fault: Fault) -> None:
        self._refuse(fault, Refusal.NO_MEMORY)

    def _refuse(self, fault: Fault, refusal: Refusal) -> None:
        self.redis.keyspace.refuse(refusal)
        self.at(self.now + fault.seconds, self.redis.keyspace.refuse, None)

    def _clock(self, fault: Fault) -> None:
        self._step_clock(fault.amount)

    def _step_clock(self, seconds: float) -> None:
        self.redis.clock_offset_seconds += seconds
        self.watch.on_step(seconds)
        self._lock_lost_at = self.loop.time()

    def _dies(self, fault: Fault) -> None:
        self.die(URLS[fault.replica], fault.seconds)

    def die(self, url: str, seconds: float) -> None:
        """Let a replica answer no probes for that time."""
        self._dead.add(url)
        self.at(self.now + seconds, self._dead.discard, url)

    def _add(self, fault: Fault) -> None:
        url = URLS[fault.replica]
        change = Change(Kind.ADD, url, capacity=fault.count)
        self.operate(fault.router, change, lambda registry: registry.register(url, capacity=fault.count, by="operator"))

    def _remove(self, fault: Fault) -> None:
        url = URLS[fault.replica]
        self.operate(fault.router, Change(Kind.REMOVE, url), lambda registry: registry.deregister(url, by="operator"))

    def _drain(self, fault: Fault) -> None:
        url = URLS[fault.replica]
        self.operate(fault.router, Change(Kind.DRAIN, url), lambda registry: registry.drain(url, by="operator"))

    def _enable(self, fault: Fault) -> None:
        url = URLS[fault.replica]
        self.operate(fault.router, Change(Kind.ENABLE, url), lambda registry: registry.enable(url, by="operator"))

    def operate(self, number: int, change: Change, act: Any, made: Callable[[], None] = lambda: None) -> None:
        """Make a change at a router, unless that is down. Call `made` once it is acknowledged."""
        router = self.routers[number]
        if router is None or not router.is_started or router.process.is_paused:
            return

        change.begun = self.now

        async def operate() -> None:
            try:
                if await router.operate(act):
                    change.at = self.now
                    made()
            except UnknownReplica:
                if change.kind is not Kind.REMOVE:  # otherwise a call that ran twice may have removed it
                    self.operators.changes.remove(change)

        self.operators.begin(change)
        router.run(operate())

    def _heal(self) -> None:
        """End all faults."""
        self.is_healed = True
        self.loop.resume(self._server)
        self._listen()
        self.redis.keyspace.refuse(None)
        self._dead.clear()
        self.pods.heal()
        for number, router in enumerate(self.routers):
            if router is None:
                self._start_router(number)
            else:
                self.loop.resume(router.process)
                router.take_no_more()
        for link in self.network.links.values():
            link.heal()
