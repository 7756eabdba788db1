"""The health loop: probes the replicas that are due, and reports the results in batches.

The leader runs it in its terms, for all replicas or for its share of the plan. Every other router with a share of the
plan runs it for that share. `Authority` is all that differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import Fenced, StoreError
from shared_registry.leader.authority import Authority, Mandate
from shared_registry.leader.duties import end_of_term
from shared_registry.leader.election import StandAside
from shared_registry.leader.local_health import LocalHealth
from shared_registry.leader.reports import Predecessors, Reports, SendReport
from shared_registry.leader.sampling import Sampling, is_settled
from shared_registry.leader.schedule import Schedule
from shared_registry.model import (
    NO_DOUBT,
    Event,
    EventKind,
    ProbeResult,
    Replica,
    ReplicaRecord,
    ReplicaStatus,
    Thresholds,
)
from shared_registry.probing import HttpProbe, HttpProber, ProbeOutcome, guarded
from shared_registry.probing.listeners import ProbeListeners
from shared_registry.probing.peer import KnownReplicas
from shared_registry.probing.prompt import PromptProbe, PromptProbes

LONGEST_WAIT_SECONDS = 1.0
GATHER_SHARE, LEAST_GATHER_SECONDS, MOST_GATHER_SECONDS = 0.01, 0.02, 0.05
"""For which share of the interval to gather probes that are due, after some have begun: each wake of the loop costs."""
REVIEWED_AT_ONCE = 100
"""How many changed replicas are taken over before other tasks run: about a millisecond."""

EFFORT_AT_ONCE, TASK_EFFORT = 192, 4
"""How many probes begin before others have their turn, such as reports, and for how many one counts that needs a task.
See `PromptProbe.begin` for the others.
"""


class ProbedReplicas(KnownReplicas, Protocol):
    """The part of the shared state that the loop reads."""

    def replica(self, key: str) -> Replica | None:
        """Return the handle of one replica, which shows its record from now on; `None` if the replica was removed."""

    async def read_probe_times(self) -> float:
        """Read anew when each replica was last probed, and return the server's time."""


@dataclass(frozen=True)
class HealthSettings:
    """How replicas are probed; see `RouterConfig` for each. `url_of` returns the url that is probed for a replica."""

    url_of: Callable[[ReplicaRecord], str]
    interval_seconds: float
    fast_interval_seconds: float
    timeout_seconds: float
    thresholds: Thresholds
    concurrency: int


class _Run(NamedTuple):
    """What the probes of one `run` of the loop need. `prompts` makes probes without a task, if these are possible."""

    authority: Authority
    schedule: Schedule
    reports: Reports
    group: asyncio.TaskGroup
    prompts: PromptProbes | None


class _Probing:
    """How a replica is probed as long as nothing about it changes.

    Attributes:
        replica: The replica.
        record: Its record. Once the replica has another one, this is outdated.
        mandate: The mandate under which the probes count.
        url: The url that is probed.
        is_settled: Whether a success says nothing new of the replica.
        is_in_doubt: Whether a kept connection must not vouch for the replica.
        prompt: Makes the probes that need no task.
    """

    __slots__ = ("is_in_doubt", "is_settled", "mandate", "prompt", "record", "replica", "url")

    def __init__(self, replica: Replica, mandate: Mandate, url: str, prompts: PromptProbes | None) -> None:
        self.replica = replica
        self.record = record = replica.record
        self.mandate = mandate
        self.url = url
        self.is_settled = is_settled(record)
        self.is_in_doubt = _is_in_doubt(record)
        self.prompt = prompts.of(url, self) if prompts is not None else None


class HealthLoop:
    """Probes for the cluster while this router has the authority. Only one `run` at a time."""

    def __init__(
        self,
        replicas: ProbedReplicas,
        send_report: SendReport,
        probe: HttpProbe,
        settings: HealthSettings,
        *,
        router: str,
        listeners: ProbeListeners,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; nothing is probed before `run`.

        Args:
            replicas: The replicas to probe.
            send_report: Writes a batch of results to Redis.
            probe: Makes one HTTP request; any exception counts as a failure.
            settings: How often replicas are probed, for how long, and how many at once.
            router: This router's key.
            listeners: Called with what the loop finds out.
            clock: Used for due times and waits.
            rng: Used for jitter.
        """
        self._replicas = replicas
        self._send_report = send_report
        self._probe = probe
        gather_seconds = max(GATHER_SHARE * settings.interval_seconds, LEAST_GATHER_SECONDS)
        self._gather_seconds = min(gather_seconds, MOST_GATHER_SECONDS)
        self._prober = probe if isinstance(probe, HttpProber) else None
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._listeners = listeners
        self._local_health = self._new_local_health()
        self._sampling = Sampling(interval_seconds=settings.interval_seconds)
        self._router = router
        self._predecessors = Predecessors(router=router, clock=clock)
        self._called: set[str] = set()
        self._needs_fresh: set[str] = set()
        self._changed: set[str] | None = None
        self._urls: dict[str, str] = {}
        self._probing: dict[str, _Probing] = {}
        self._is_running = False
        self._wake = asyncio.Event()
        self._waits_until = math.inf
        self._held: deque[tuple[str, float]] = deque()
        self._free = settings.concurrency
        self._broken: Exception | None = None
        self.refused_reports = 0

    def notice(self, events: Sequence[Event]) -> None:
        """Receive changes. For `Mirror.subscribed`; no events mean that anything may have changed."""
        if not events or any(event.kind is EventKind.PLAN_CHANGED for event in events):
            self._changed = None
        elif self._changed is not None:
            self._changed.update(record.key for event in events for record in event.carried)
        if self._has_changes:
            self._wake.set()
        for event in events:
            self._predecessors.notice(event)
            if event.kind is EventKind.REPLICA_REPORTED:
                self._called.add(event.reported)
                self._wake.set()
            elif event.kind is EventKind.REPLICA_HANDED_BACK and event.record is not None:
                self._called.add(event.record.key)
            elif event.kind is EventKind.REPLICA_CLEARED and event.by == self._router and event.record is not None:
                self._local_health.refuted(event.record.key, now=self._clock.monotonic())
                self._listeners.on_reach([event.record.key], False)  # noqa: FBT003  the state to set

    def distrust(self, key: str) -> None:
        """Use a fresh connection for the next probe of this replica, whenever it is due; report each for a while."""
        self._needs_fresh.add(key)
        self._sampling.watch(key, now=self._clock.monotonic())

    def _new_local_health(self) -> LocalHealth:
        return LocalHealth(
            failure_threshold=self._settings.thresholds.failure, interval_seconds=self._settings.interval_seconds
        )

    @property
    def local_health(self) -> float | None:
        """See `LocalHealth.share`; `None` also while the loop does not run."""
        return self._local_health.share(now=self._clock.monotonic()) if self._is_running else None

    async def run(self, authority: Authority) -> None:
        """Probe until cancelled or until the authority is over. The results so far are reported before the call ends.

        Raises:
            Fenced: Another leader was elected, and Redis refused the results of this one.
            StandAside: Too many probes fail because of this router's own trouble, or Redis takes none of its
                results; another router should lead.
        """
        self._is_running = True
        self._local_health = self._new_local_health()
        self._sampling = Sampling(interval_seconds=self._settings.interval_seconds)
        self._called.clear()
        self._urls.clear()
        self._probing.clear()
        self._needs_fresh.clear()
        self._held.clear()
        schedule = Schedule(
            interval=self._settings.interval_seconds,
            fast_interval=self._settings.fast_interval_seconds,
            rng=self._rng,
        )
        reports = Reports(
            self._send_report,
            authority,
            self._settings.thresholds,
            predecessors=self._predecessors,
            on_progress=self._go_on,
            clock=self._clock,
            rng=self._rng,
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(reports.run())
                await self._probe_due(authority, schedule, reports, group)
        except BaseExceptionGroup as failures:
            end = end_of_term(failures)
            if end is None:
                raise
            if isinstance(end, StandAside):
                raise end from None
            self.refused_reports += 1
            reports.discard()
            raise Fenced(f"{authority} is over; its probe results were refused") from None
        finally:
            self._is_running = False
            with contextlib.suppress(StoreError):
                await reports.send_all()

    async def _probe_due(
        self, authority: Authority, schedule: Schedule, reports: Reports, group: asyncio.TaskGroup
    ) -> None:
        mandate = authority.mandate
        run = self._new_run(authority, schedule, reports, group)
        await self._take_over(authority, schedule)
        schedule.hasten_next(self._clock.monotonic())
        self._free, self._broken = self._settings.concurrency, None
        try:
            while authority.is_current:
                self._complain(authority, schedule)
                if mandate != authority.mandate:
                    mandate = authority.mandate
                    await self._take_over(authority, schedule)
                if self._has_changes:
                    await self._follow(authority, schedule)
                self._hasten_called(schedule)
                has_begun = self._begin_due(run, mandate if mandate == authority.mandate else authority.mandate)
                due = schedule.next_due() if self._free else math.inf
                if has_begun:
                    due = max(due, self._clock.monotonic() + self._gather_seconds)
                await self._wait_until(due)
        finally:
            if run.prompts is not None:
                run.prompts.flush()
                run.prompts.give_up()

    def _new_run(self, authority: Authority, schedule: Schedule, reports: Reports, group: asyncio.TaskGroup) -> _Run:
        def on_well(probes: Sequence[PromptProbe]) -> None:
            self._call_safely(self._end_well, run, probes)

        def on_ended(probe: PromptProbe, outcome: ProbeOutcome | float) -> None:
            self._call_safely(self._end_prompt, run, probe.owner, outcome)

        prompts = None
        if self._prober is not None:
            timeout = self._settings.timeout_seconds
            prompts = self._prober.prompt_probes(timeout=timeout, on_well=on_well, on_ended=on_ended)
        run = _Run(authority, schedule, reports, group, prompts)
        return run

    def _call_safely(self, end: Callable[..., None], *arguments: object) -> None:
        """Let the loop raise what goes wrong; nobody else would notice it."""
        try:
            end(*arguments)
        except Exception as error:  # noqa: BLE001
            self._broken = error
            self._wake.set()

    def _complain(self, authority: Authority, schedule: Schedule) -> None:
        """Stand aside if this router is not fit to probe for all."""
        if self._broken is not None:
            raise self._broken
        now, health = self._clock.monotonic(), self._local_health
        complaint = health.complaint(len(schedule), now=now)
        if complaint is not None:
            authority.stand_aside(complaint, is_contradicted=health.is_contradicted(len(schedule), now=now))

    def _hasten_called(self, schedule: Schedule) -> None:
        while self._called:
            called = self._called.pop()
            self._sampling.watch(called, now=self._clock.monotonic())
            if schedule.hasten(called, now=self._clock.monotonic()):
                self._needs_fresh.add(called)

    def _begin_due(self, run: _Run, mandate: Mandate) -> bool:
        """Begin the probes that are due, as far as there is room. Return whether there were any."""
        lags: list[float] = []
        monotonic, is_crowded, effort = self._clock.monotonic, run.reports.is_crowded, EFFORT_AT_ONCE
        due_now = self._due(run, monotonic())
        for at, (key, due) in enumerate(due_now):
            if not self._free or effort <= 0:
                for later, later_due in due_now[at:]:
                    run.schedule.put_back(later, due=later_due)
                break
            spent = (not is_crowded and self._begin_again(mandate, key)) or self._begin(run, mandate, key, due)
            if spent:
                effort -= spent
                self._free -= 1
                lags.append(monotonic() - due)
        self._listeners.counts.begun(lags)
        return bool(due_now)

    def _due(self, run: _Run, now: float) -> list[tuple[str, float]]:
        """Return replicas that may be probed now, and when they were due. What was held comes first."""
        held, most = list[tuple[str, float]](), min(self._free, EFFORT_AT_ONCE)
        if not run.reports.is_full:
            while self._held and len(held) < most:
                held.append(self._held.popleft())
        return held + run.schedule.pop_due(now, most=most - len(held))

    def _begin_again(self, mandate: Mandate, key: str) -> int:
        """Begin the usual probe, if nothing about the replica is new or in doubt. Return the effort; 0 for none."""
        probing = self._probing.get(key)
        if (
            probing is None
            or probing.prompt is None
            or probing.replica.record is not probing.record
            or not probing.is_settled
            or probing.mandate is not mandate
            or (self._needs_fresh and key in self._needs_fresh)
        ):
            return 0
        return probing.prompt.begin(fresh=False)

    def _go_on(self) -> None:
        """Probe what was held, now that results have been reported."""
        if self._held:
            self._wake.set()

    def _begin(self, run: _Run, mandate: Mandate, key: str, due: float) -> int:
        """Begin a probe, without a task if possible, and over the kept connection if that may vouch for the replica.

        While many results of replicas that are not healthy wait to be reported, no more of these are probed.

        Returns:
            The effort; 0 if it has not begun.
        """
        replica = self._replicas.replica(key)
        # It may have been removed or disabled, or given to another router, since it was scheduled.
        is_probed = replica is not None and replica.record.is_probed and run.authority.covers(key)
        if replica is None or not is_probed or run.reports.is_behind(key):
            run.schedule.put_back(key, due=self._clock.monotonic() + self._settings.fast_interval_seconds)
            return 0
        record = replica.record
        if record.health.status is not ReplicaStatus.HEALTHY and run.reports.is_full:
            self._held.append((key, due))
            return 0
        probing = self._probing.get(key)
        if probing is None or probing.record is not record or probing.mandate is not mandate:
            probing = self._probing[key] = _Probing(replica, mandate, self._url(record), run.prompts)
        is_fresh = probing.is_in_doubt
        if self._needs_fresh and key in self._needs_fresh:
            self._needs_fresh.discard(key)
            is_fresh = True
        effort = probing.prompt.begin(fresh=is_fresh) if probing.prompt is not None else 0
        if not effort:
            run.group.create_task(self._ask(run, probing, fresh=is_fresh))
        return effort or TASK_EFFORT

    async def _ask(self, run: _Run, probing: _Probing, *, fresh: bool, spent: float = 0.0) -> None:
        """Probe in a task of its own."""
        try:
            outcome = await guarded(self._probe, probing.url, self._settings.timeout_seconds, fresh=fresh, spent=spent)
        except BaseException:
            self._free += 1
            raise
        self._end(run, probing, outcome)

    def _end(self, run: _Run, probing: _Probing, outcome: ProbeOutcome) -> None:
        self._release(1)
        if self._settle(probing.record, outcome, run.schedule):
            result = self._result(probing.record, outcome, outcome.named_address(probing.url))
            if result is not None:
                self._report(run, probing, result, is_well=outcome.error is None and outcome.trouble is None)
        self._wake_in_time(run)

    def _end_prompt(self, run: _Run, probing: _Probing, outcome: ProbeOutcome | float) -> None:
        """End a probe without a task that did not succeed, or repeat it."""
        if isinstance(outcome, float):
            run.group.create_task(self._ask(run, probing, fresh=True, spent=outcome))
        else:
            self._end(run, probing, outcome)

    def _end_well(self, run: _Run, prompts: Sequence[PromptProbe]) -> None:
        """End probes that have succeeded. What is known of settled replicas stays as it is, and is done for all."""
        ended: dict[str, PromptProbe] = {}
        for prompt in prompts:
            probing: _Probing = prompt.owner
            record = probing.record
            if probing.is_settled and probing.replica.record is record:
                ended[record.key] = prompt
            else:
                self._end(run, probing, prompt.outcome)
        keys, now = list(ended), self._clock.monotonic()
        self._release(len(keys))
        run.schedule.settle_well(keys, now=now)
        self._listeners.note_well([prompt.seconds for prompt in ended.values()])
        self._listeners.on_reach(keys, True)  # noqa: FBT003  the state to set
        self._local_health.note_well(keys)
        for key in self._sampling.successes_to_tell(keys, now=now):
            probing, outcome = ended[key].owner, ended[key].outcome
            address = outcome.named_address(probing.url)
            result = ProbeResult(key, probing.record.incarnation, outcome.latency_ms, address=address)
            self._report(run, probing, result, is_well=True)
        self._wake_in_time(run)

    def _release(self, ended: int) -> None:
        """Make room for as many probes as have ended."""
        if not self._free and ended:
            self._wake.set()
        self._free += ended

    def _wake_in_time(self, run: _Run) -> None:
        """Wake the loop if it would wait for too long."""
        if run.schedule.next_due() + self._gather_seconds < self._waits_until:
            self._wake.set()

    def _report(self, run: _Run, probing: _Probing, result: ProbeResult, *, is_well: bool) -> None:
        pace = self._settings.interval_seconds if is_well else self._settings.fast_interval_seconds
        is_awaited = probing.record.health.status is not ReplicaStatus.HEALTHY
        good_seconds = self._settings.timeout_seconds + pace
        run.reports.add(result, probing.mandate, good_seconds=good_seconds, is_awaited=is_awaited)

    async def _take_over(self, authority: Authority, schedule: Schedule) -> None:
        """Schedule the replicas that are new here by when they were probed last."""
        self._changed = None
        with contextlib.suppress(StoreError):
            server_now = await self._replicas.read_probe_times()
            await self._follow(authority, schedule, server_now=server_now)

    @property
    def _has_changes(self) -> bool:
        return self._changed is None or bool(self._changed)

    async def _follow(self, authority: Authority, schedule: Schedule, *, server_now: float | None = None) -> None:
        """Take over what has changed since the last call. Other tasks run in between if that is much."""
        changed, self._changed = self._changed, set()
        is_anything = changed is None
        if changed is None:
            changed = self._urls.keys() | {record.key for record in self._replicas.probed()}
        for at, key in enumerate(changed, 1):
            self._review(key, authority, schedule, server_now)
            if not at % REVIEWED_AT_ONCE:
                await asyncio.sleep(0)
        if is_anything and self._listeners.retain:
            self._listeners.retain(self._urls.values())

    def _review(self, key: str, authority: Authority, schedule: Schedule, server_now: float | None) -> None:
        """Schedule a replica if it is to be probed."""
        record = self._replicas.record(key)
        if record is None or not record.is_probed or not authority.covers(key):
            schedule.drop(key)
            self._local_health.forget(key)
            self._sampling.forget(key)
            self._probing.pop(key, None)
            self._forget_url(key)
            return
        schedule.add(record, now=self._clock.monotonic(), server_now=server_now)
        if record.health.status is not ReplicaStatus.HEALTHY:
            self._listeners.on_reach([key], True)  # noqa: FBT003  nobody uses it
        self._url(record)

    def _forget_url(self, key: str) -> None:
        """Close the connection over which a replica was probed."""
        url = self._urls.pop(key, None)
        if url is not None and self._listeners.forget:
            self._listeners.forget(url)

    def _url(self, record: ReplicaRecord) -> str:
        """Return the url to probe. If it is another one than before, close the connection to that."""
        url = self._settings.url_of(record)
        if self._urls.get(record.key) != url:
            self._forget_url(record.key)
            self._urls[record.key] = url
        return url

    async def _wait_until(self, due: float) -> None:
        """Wait for a due time, or until woken."""
        self._wake.clear()
        self._waits_until = min(due, self._clock.monotonic() + LONGEST_WAIT_SECONDS)
        await wait_until(self._clock, self._waits_until, self._wake)

    def _settle(self, record: ReplicaRecord, outcome: ProbeOutcome, schedule: Schedule) -> bool:
        """Schedule the next probe of a replica after this one. Return whether the result is worth a report."""
        key, now = record.key, self._clock.monotonic()
        known = self._replicas.record(key) or record
        is_ok = outcome.error is None and outcome.trouble is None
        if known.incarnation == record.incarnation:
            is_good = is_ok or _is_good(outcome, known.health.status) or self._is_handed_over(known)
            schedule.settle(key, known.health.status, ok=is_good, now=now)
        else:
            schedule.put_back(key, due=now)
        self._judge_oneself(known, outcome, schedule, is_ok=is_ok)
        return known.incarnation != record.incarnation or self._sampling.has_to_tell(known, ok=is_ok, now=now)

    def _result(self, record: ReplicaRecord, outcome: ProbeOutcome, address: str) -> ProbeResult | None:
        """Return what to report; nothing of a probe that could not be made, unless that happens again and again."""
        if outcome.trouble is None:
            return ProbeResult(record.key, record.incarnation, outcome.latency_ms, outcome.error, address=address)
        if self._local_health.is_lasting(record.key):
            return ProbeResult(record.key, record.incarnation, 0.0, str(outcome.trouble), is_unsure=True)
        return None

    def _judge_oneself(self, record: ReplicaRecord, outcome: ProbeOutcome, schedule: Schedule, *, is_ok: bool) -> None:
        """Record whether the probe failed because of this router's own trouble, and whether it should go on leading."""
        self._listeners.note(outcome)
        if is_ok:
            self._listeners.on_reach([record.key], True)  # noqa: FBT003  the state to set
        elif outcome.trouble is None and self._is_handed_over(record):
            self._listeners.on_reach([record.key], False)  # noqa: FBT003  the state to set
        health = self._local_health
        health.note(record.key, outcome.trouble, is_healthy=record.health.status is ReplicaStatus.HEALTHY)
        if health.may_complain and health.complaint(len(schedule), now=self._clock.monotonic()) is not None:
            self._wake.set()

    def _is_handed_over(self, record: ReplicaRecord) -> bool:
        """Return whether another router probes the replica, so that failures here do not count for now."""
        return record.doubt.prober not in ("", self._router)


def _is_in_doubt(record: ReplicaRecord) -> bool:
    """Return whether a kept connection must not vouch for the replica."""
    is_failing = record.health.status is not ReplicaStatus.HEALTHY or record.health.consecutive_failures > 0
    return is_failing or record.doubt is not NO_DOUBT


def _is_good(outcome: ProbeOutcome, status: ReplicaStatus) -> bool:
    """Return whether to schedule the next probe as after a success.

    A probe that this router could not make says nothing about the replica, so the replica's status decides.
    """
    return outcome.error is None if outcome.trouble is None else status is ReplicaStatus.HEALTHY
