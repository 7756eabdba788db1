"""What a router knows about replicas that another router probes. Every router that runs health checks is such a peer.

It probes a replica in five cases. Another router's probes fail, and this one is asked (an opinion). It was the one that
reached a replica that its prober did not, twice (a hand-over: it is the prober now). The replica is not healthy, and it
is this router's turn to try (an appeal). It did not reach the replica the last time, and chooses it last until it does.
A session of its own could not connect. `docs/verdicts.md` explains the rules, and `lua/give_opinions.lua` decides what
each word changes.

All of it is separate from the leader's health loop: other tasks, other connections, another limit of probes at once.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import StoreError
from shared_registry.model import (
    AdminState,
    Event,
    EventKind,
    Evidence,
    Leader,
    Opinion,
    OpinionKind,
    Plan,
    ProbeResult,
    ReplicaRecord,
    ReplicaStatus,
    Thresholds,
    planned_prober,
)
from shared_registry.probing import HttpProbe, ProbeOutcome, guarded
from shared_registry.probing.listeners import ProbeListeners
from shared_registry.probing.prober_list import ProberList

PROBES_AT_ONCE = 64
OPINIONS_AT_ONCE = 40
REVIEWED_AT_ONCE = 100
ANSWER_SECONDS = 0.05
"""How long an opinion waits for others, to be sent together."""
NEW_PROBERS = (EventKind.LEADER_ELECTED, EventKind.PLAN_CHANGED)
"""Events after which replicas may have other probers."""
logger = logging.getLogger(__name__)


class KnownReplicas(Protocol):
    """The part of the shared state that probing reads."""

    @property
    def leader(self) -> Leader | None:
        """The last known leader; `None` if there is none."""

    @property
    def plan(self) -> Plan | None:
        """How routers share the probing; `None` if the leader probes all replicas."""

    def probed(self) -> Iterable[ReplicaRecord]:
        """Return the records of all replicas as known now."""

    def record(self, key: str) -> ReplicaRecord | None:
        """Return one replica's record as known now; `None` if the replica was removed."""


class Handled(Protocol):
    """The reply to a list of results: the first `done` of them were handled, the others have to be sent again."""

    @property
    def done(self) -> int:
        """How many of the results were handled."""


SendOpinions = Callable[[Sequence[Opinion], Thresholds], Awaitable[Handled]]
"""See `Store.give_opinions`."""


@dataclass(frozen=True)
class PeerSettings:
    """How a peer probes; see `RouterConfig` for each. `url_of` returns the url that is probed for a replica."""

    url_of: Callable[[ReplicaRecord], str]
    fast_interval_seconds: float
    thresholds: Thresholds


class PeerReason(enum.Enum):
    """Why this router probes a replica that another router probes too."""

    OPINION = "opinion"
    REPORT = "report"
    APPEAL = "appeal"
    REACH = "reach"
    SESSION = "session"


@dataclass
class PeerTask:
    """A replica that is probed for a reason, once or repeatedly.

    Attributes:
        key: The replica's canonical url.
        incarnation: The replica's incarnation.
        reason: Why it is probed.
        id: The id of the question, for an opinion.
        due: When the next probe begins, on the monotonic clock; infinity while one is under way.
        count: The number of the last report, of successes in a row, or of sessions that failed during the probe.
    """

    key: str
    incarnation: str
    reason: PeerReason
    id: str
    due: float
    count: int = 0


class Peer:
    """Probes for other routers, and tells what it finds. Only one `run` at a time."""

    def __init__(
        self,
        replicas: KnownReplicas,
        send: SendOpinions,
        probe: HttpProbe,
        settings: PeerSettings,
        *,
        probers: ProberList,
        clock: Clock,
        rng: random.Random,
        listeners: ProbeListeners,
    ) -> None:
        """Set up; nothing is probed before `run`.

        Args:
            replicas: The replicas as this router's mirror shows them.
            send: Writes opinions to Redis.
            probe: Makes one probe.
            settings: How replicas are probed.
            probers: The routers that can probe.
            clock: Used for due times and waits.
            rng: Used for jitter.
            listeners: Called with what the probes find out.
        """
        self._replicas = replicas
        self._send = send
        self._probe = probe
        self._settings = settings
        self._probers = probers
        self._router = probers.router
        self._clock = clock
        self._rng = rng
        self._listeners = listeners
        self._tasks: dict[tuple[str, PeerReason], PeerTask] = {}
        self._heap: list[tuple[float, str, str]] = []
        self._answered: dict[str, str] = {}
        self._unreached: set[str] = set()
        self._unknown: set[str] = set()
        self._opinions: dict[tuple[str, PeerReason], _Kept] = {}
        self._changed: set[str] | None = None
        self._wake = asyncio.Event()
        self._has_opinions = asyncio.Event()

    def notice(self, events: Sequence[Event]) -> None:
        """Receive changes. For `Mirror.subscribed`; no events mean that anything may have changed."""
        if not events or any(event.kind in NEW_PROBERS for event in events):
            self._changed = None
        elif self._changed is not None:
            for event in events:
                self._changed.update(question.key for question in event.questions)
                self._changed.update(record.key for record in event.carried)
        for event in events:
            if event.kind is EventKind.REPLICA_REPORTED:
                self._hasten_report(event.reported)
        if self._changed is None or self._changed:
            self._wake.set()

    def distrust(self, key: str) -> None:
        """Probe a replica once, because a session of this router could not connect to it.

        If the replica is reached, the failure was not this router's own, and counts; see `ProbeListeners.testify`.
        """
        self._hasten_report(key)
        record, task = self._replicas.record(key), self._tasks.get((key, PeerReason.SESSION))
        if record is None or not _is_probed_and_healthy(record) or not self._probers.has_others:
            return
        if task is None:
            self._add(PeerTask(key, record.incarnation, PeerReason.SESSION, "", self._clock.monotonic()))
        elif task.due == math.inf:
            task.count += 1

    def _hasten_report(self, key: str) -> None:
        """Make the next probe of a replica due now if it was handed over to this router, unless one is under way.

        A session that failed is a reason to probe, not a failure of the replica: it may have failed for a reason of its
        router's own which its error does not show, such as a resolver that hangs.
        """
        task = self._tasks.get((key, PeerReason.REPORT))
        if task is not None and self._clock.monotonic() < task.due < math.inf:
            self._schedule(task, self._clock.monotonic())

    def learn(self, keys: Sequence[str], is_reached: bool) -> None:  # noqa: FBT001  the state to set
        """Record whether this router reached replicas as their prober, for the time when it no longer probes them."""
        self._unknown.difference_update(keys)
        self._set_reached(keys, is_reached=is_reached)

    async def run(self) -> None:
        """Probe and tell until cancelled."""
        self._changed = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell())
            slots = asyncio.Semaphore(PROBES_AT_ONCE)
            while True:
                self._wake.clear()
                await self._follow()
                task = self._pop_due()
                if task is None:
                    await self._wait()
                    continue
                await slots.acquire()
                group.create_task(self._probe_one(task, slots))

    async def _follow(self) -> None:
        """Take over what has changed since the last call. Other tasks run in between if that is much."""
        changed, self._changed = self._changed, set()
        if changed is None:
            records = {record.key: record for record in self._replicas.probed()}
            changed = records.keys() | {key for key, _ in self._tasks}
        for at, key in enumerate(changed, 1):
            self._review(key, self._replicas.record(key))
            if not at % REVIEWED_AT_ONCE:
                await asyncio.sleep(0)

    def _review(self, key: str, record: ReplicaRecord | None) -> None:
        """Decide for which reasons this router probes a replica from now on."""
        is_healthy = record is not None and record.health.status is ReplicaStatus.HEALTHY
        if not is_healthy and key in self._unreached:
            # Where nobody reaches the replica there is no disagreement. Once it is back, this router tries again.
            self._unknown.add(key)
            self._set_reached([key], is_reached=True)
        if record is None:
            self._answered.pop(key, None)
            self._unknown.discard(key)
        wanted = self._wanted(record) if record is not None and record.is_probed else {}
        for reason in PeerReason:
            task = self._tasks.get((key, reason))
            if record is None or reason not in wanted:
                self._tasks.pop((key, reason), None)
            elif task is None or (task.incarnation, task.id) != (record.incarnation, wanted[reason][0]):
                self._add(PeerTask(key, record.incarnation, reason, *wanted[reason]))

    def _wanted(self, record: ReplicaRecord) -> dict[PeerReason, tuple[str, float]]:
        """Return for which reasons to probe a replica: the id of the question, and when to begin."""
        key, doubt, now = record.key, record.doubt, self._clock.monotonic()
        wanted: dict[PeerReason, tuple[str, float]] = {}
        if self._router in doubt.asked and self._answered.get(key) != doubt.suspicion:
            wanted[PeerReason.OPINION] = doubt.suspicion, now
        if doubt.prober == self._router and self._planned(key) != self._router:
            wanted[PeerReason.REPORT] = "", now + self._interval
        elif self._may_appeal(record):
            wanted[PeerReason.APPEAL] = "", now + self._first_turn(record)
        elif self._has_to_find_out(record):
            wanted[PeerReason.REACH] = "", now + (self._interval if key in self._unreached else 0)
        session = self._tasks.get((key, PeerReason.SESSION))
        if session is not None and session.incarnation == record.incarnation and _is_probed_and_healthy(record):
            wanted[PeerReason.SESSION] = "", now
        return wanted

    def _set_reached(self, keys: Sequence[str], *, is_reached: bool) -> None:
        (self._unreached.difference_update if is_reached else self._unreached.update)(keys)
        self._listeners.on_reach(keys, is_reached)

    def _has_to_find_out(self, record: ReplicaRecord) -> bool:
        """Return whether the replica is healthy, and was not reached when this router last tried."""
        is_healthy = record.health.status is ReplicaStatus.HEALTHY
        return (
            is_healthy and record.key in self._unreached | self._unknown and self._planned(record.key) != self._router
        )

    def _may_appeal(self, record: ReplicaRecord) -> bool:
        """Return whether to speak for the replica if it is reached. Its prober's probes must have the same settings."""
        is_out = record.health.status is not ReplicaStatus.HEALTHY and record.admin is AdminState.ACTIVE
        return is_out and self._planned(record.key) in self._probers.peers()

    def _planned(self, key: str) -> str:
        """Return the router that probes a replica for all, unless the replica was handed over."""
        return planned_prober(key, self._replicas.plan, self._replicas.leader)

    @property
    def _interval(self) -> float:
        return self._settings.thresholds.interval_seconds

    def _first_turn(self, record: ReplicaRecord) -> float:
        """Return in how many seconds it is this router's turn to appeal for a replica that was just judged or is new.

        The routers take turns, one an interval. Those that did not reach the replica when they were asked come last.
        The first one tries at once after a verdict; a new replica is left to its prober for an interval and a timeout.
        """
        wait = self._order(record).index(self._router) * self._interval
        if record.health.status is ReplicaStatus.UNKNOWN:
            wait += self._interval + self._settings.thresholds.timeout_seconds
        return wait

    def _order(self, record: ReplicaRecord) -> list[str]:
        others = [*self._probers.peers(), self._router]
        planned = self._planned(record.key)
        candidates = [router for router in others if router != planned]

        def rank(router: str) -> tuple[bool, bytes]:
            seed = f"{record.key} {record.status_since} {router}"
            return router in record.doubt.unreached_by, blake2b(seed.encode(), digest_size=8).digest()

        return sorted(candidates, key=rank)

    def _add(self, task: PeerTask) -> None:
        self._tasks[task.key, task.reason] = task
        heapq.heappush(self._heap, (task.due, task.key, task.reason.value))
        self._wake.set()

    def _schedule(self, task: PeerTask, due: float) -> None:
        if self._tasks.get((task.key, task.reason)) is task:
            task.due = due
            heapq.heappush(self._heap, (due, task.key, task.reason.value))
            self._wake.set()

    def _pop_due(self) -> PeerTask | None:
        while self._heap and self._heap[0][0] <= self._clock.monotonic():
            due, key, reason = heapq.heappop(self._heap)
            task = self._tasks.get((key, PeerReason(reason)))
            if task is not None and task.due == due:
                task.due = math.inf
                return task
        return None

    async def _wait(self) -> None:
        while self._heap and self._is_outdated(*self._heap[0]):
            heapq.heappop(self._heap)
        due = self._heap[0][0] if self._heap else math.inf
        await wait_until(self._clock, due, self._wake)

    def _is_outdated(self, due: float, key: str, reason: str) -> bool:
        task = self._tasks.get((key, PeerReason(reason)))
        return task is None or task.due != due

    async def _probe_one(self, task: PeerTask, slots: asyncio.Semaphore) -> None:
        try:
            timeout_seconds = self._settings.thresholds.timeout_seconds
            record = self._replicas.record(task.key)
            if record is not None:
                url = self._settings.url_of(record)
                address = record.doubt.suspected_address if task.reason is PeerReason.OPINION else ""
                began_at = self._clock.monotonic()
                outcome = await guarded(self._probe, url, timeout_seconds, fresh=True, address=address)
                is_current = self._tasks.get((task.key, task.reason)) is task
                self._on_outcome(task, outcome, outcome.named_address(url))
                if task.reason is PeerReason.SESSION and is_current and outcome.evidence is Evidence.OK:
                    # A session may have failed because the resolver hangs, while a probe goes on by the last answer.
                    probed_at = min(began_at, outcome.looked_up_at)
                    await self._listeners.testify(task.key, probed_at=probed_at)
        finally:
            slots.release()

    def _on_outcome(self, task: PeerTask, outcome: ProbeOutcome, address: str) -> None:
        """Tell what a probe has found, and schedule the next one."""
        is_current = self._tasks.get((task.key, task.reason)) is task
        is_ok = outcome.evidence is Evidence.OK
        self._listeners.note(outcome)
        now, fast = self._clock.monotonic(), self._settings.fast_interval_seconds
        match task.reason:
            case PeerReason.OPINION:
                self._answered[task.key] = task.id
                self._tell_later(task, OpinionKind.OPINION, task.id, outcome, address)
            case PeerReason.REPORT if is_current:
                task.count = max(task.count + 1, round(now * 1000))  # rises over all hand-overs to this router
                self._tell_later(task, OpinionKind.REPORT, str(task.count), outcome, address)
                self._schedule(task, now + (self._interval if is_ok else fast))
            case PeerReason.APPEAL if is_current:
                task.count = task.count + 1 if is_ok else 0
                if is_ok:
                    self._tell_later(task, OpinionKind.APPEAL, str(task.count), outcome, address)
                self._schedule(task, now + (fast if is_ok else max(1, len(self._probers.peers())) * self._interval))
            case PeerReason.REACH if is_current:
                self._schedule(task, now + self._interval)
            case PeerReason.SESSION if is_current and task.count:
                task.count = 0
                self._schedule(task, now)
            case PeerReason.SESSION if is_current:
                del self._tasks[task.key, task.reason]
        is_left_to_loop = task.reason is PeerReason.SESSION and self._planned(task.key) == self._router
        if outcome.evidence is not Evidence.UNSURE and not is_left_to_loop:
            self._unknown.discard(task.key)
            self._set_reached([task.key], is_reached=is_ok)
        self._review(task.key, self._replicas.record(task.key))

    def _tell_later(
        self, task: PeerTask, kind: OpinionKind, opinion_id: str, outcome: ProbeOutcome, address: str
    ) -> None:
        self._listeners.counts.told(outcome)
        error = outcome.error if outcome.trouble is None else str(outcome.trouble)
        is_unsure = outcome.evidence is Evidence.UNSURE
        result = ProbeResult(
            task.key, task.incarnation, outcome.latency_ms, error, is_unsure=is_unsure, address=address
        )
        pace = self._interval if outcome.evidence is Evidence.OK else self._settings.fast_interval_seconds
        good_until = self._clock.monotonic() + self._settings.thresholds.timeout_seconds + pace
        self._opinions[task.key, task.reason] = _Kept(Opinion(kind, opinion_id, result), good_until)
        self._has_opinions.set()

    async def _tell(self) -> None:
        """Send opinions as they come, several at once. While Redis is away, keep the last of each replica."""
        backoff, is_behind = Backoff(rng=self._rng), False
        while True:
            await self._has_opinions.wait()
            if not is_behind:
                await self._clock.sleep(ANSWER_SECONDS)
            self._drop_old()
            batch = [*self._opinions.items()][:OPINIONS_AT_ONCE]
            if batch:
                try:
                    answer = await self._send([kept.opinion for _, kept in batch], self._settings.thresholds)
                except StoreError as error:
                    is_behind = False
                    logger.debug("probing: opinions are kept: %s", error)
                    await self._clock.sleep(backoff.next_seconds())
                    continue
                backoff.reset()
                is_behind = answer.done < len(batch) or len(batch) == OPINIONS_AT_ONCE
                for key, kept in batch[: answer.done]:
                    if self._opinions.get(key) is kept:
                        del self._opinions[key]
            if not self._opinions:
                self._has_opinions.clear()

    def _drop_old(self) -> None:
        """Drop what no longer says anything about its replica, because Redis did not take it in time."""
        now = self._clock.monotonic()
        old = [key for key, kept in self._opinions.items() if now > kept.good_until]
        for key in old:
            del self._opinions[key]
        if old:
            logger.info("probing: dropped %d results of this peer, which Redis did not take in time", len(old))


@dataclass(frozen=True, slots=True)
class _Kept:
    """An opinion, and until when it says something about the replica."""

    opinion: Opinion
    good_until: float


def _is_probed_and_healthy(record: ReplicaRecord) -> bool:
    return record.is_probed and record.health.status is ReplicaStatus.HEALTHY
