"""This router's live copy of the shared state. It reads everything once and then follows the event stream.

It reads everything again after a gap. A gap is one of these:

- an event whose predecessor is not the mirror's last event: another revision, or the same with another mark;
- a polled revision, lower or higher than the mirror's, without events that lead to it; replies to heartbeats name the
  revision too, and one that is not the mirror's leads to a poll (see `rest`);
- the mirror's revision with another mark, because the server lost the event and gave its id to another one;
- an own write that the event stream does not carry, because a failover lost it;
- another history id;
- an event after which every mirror must read everything, such as a repair.

While Redis is unavailable, the mirror keeps the last view.

The view is never replaced by a history to which it was not contributed. A full read is shown only if its history is the
one that the view shows already, or one that has received the view. An empty namespace is not a history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.breath import Breath
from shared_registry.aio.clock import Clock
from shared_registry.aio.completion import completed
from shared_registry.aio.garbage import note_replaced
from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.happenings import (
    Emitter,
    HistoryLost,
    HistoryRestored,
    StoreFailed,
    StoreRecovered,
    ViewFresh,
    ViewStale,
)
from shared_registry.mirror.own_writes import OwnWrites
from shared_registry.mirror.rest import Rest
from shared_registry.mirror.stream_lag import StreamLag
from shared_registry.model import (
    ORIGIN,
    Event,
    EventKind,
    Leader,
    Plan,
    Replica,
    ReplicaEndpoint,
    ReplicaRecord,
    is_later,
)
from shared_registry.selection.view import View
from shared_registry.store.reader import Gap, Head, Reader, Snapshot
from shared_registry.store.reads import ENTRIES_AT_ONCE
from shared_registry.store.replies import Heartbeat

HISTORY, MISSED, REPAIRED, DAMAGED = "history", "missed", "repaired", "damaged"
EMPTY = "the namespace is empty: Redis lost its data, and no router has begun anew yet"
RECORDS_AT_ONCE = 100
CHANGES_AT_ONCE = 20
"""How many changes of replicas the view takes over in one go. More cost little less for each, and delay sessions."""
OBJECTS_A_CHANGE = 2
"""A record and its health."""
BURST_CHANGES = 10
BURST_SECONDS = 0.02
"""After so many changes at once, more are let come for so long. In a burst most of the cost is that of many reads."""
DOUBTED_SHARE = 0.75
"""After this share of `max_staleness_seconds` without a word, a long wait for events ends: a poll may succeed."""
REPLICAS_A_SECOND = 2000
"""How many replicas refreshes read a second at most. More would take a large part of a core for what changes little."""
logger = logging.getLogger(__name__)
Notice = Callable[[Sequence[Event]], None]
Prepare = Callable[[Mapping[str, ReplicaRecord]], Awaitable[None]]


class Mirror:
    """Keeps a `View` equal to the shared state.

    Attributes:
        emitter: Delivers what happens.
        generation: Rises with every full read. A reply is not applied if its command was sent under an earlier one.
        revision: The id of the last event that the view includes.
        mark: The mark of that event; empty if it has none.
        history_id: The history that the view shows; `None` before the first read.
        epoch: The highest epoch seen.
        leader: The last known leader; `None` if there is none.
        plan: How routers share the probing; `None` if the leader probes all replicas.
        gap: Why everything was read again the last time, in a word; see `ViewLoaded.reason`.
        is_stale: The view is older than `max_staleness_seconds`, so that no replica is selected.
        is_settling: See `Head`.
        stream_lag: Measures how late events come.
    """

    def __init__(
        self,
        reader: Reader,
        view: View,
        *,
        rest: Rest,
        max_staleness_seconds: float | None,
        clock: Clock,
        rng: random.Random,
        on_lost_history: Callable[[], Awaitable[str | None]],
        emitter: Emitter,
    ) -> None:
        """Read nothing yet; `load` does.

        Args:
            reader: Reads the shared state from Redis.
            view: The view to keep current; it may already show the configured replicas.
            rest: How long to wait for an event before polling. Its `refresh_seconds` are also the minimum time between
                refreshes.
            max_staleness_seconds: No replica is selected from a view older than this; `None` for no limit.
            clock: For ages and waits.
            rng: For jitter.
            on_lost_history: Awaited when Redis has another history id, or none. It contributes the view, and returns
                the id of the history that has received the view.
            emitter: Delivers what happens. The mirror reports its own state; `News` reports the changes in the view.
        """
        self.view = view
        self.generation = 0
        self.revision = ORIGIN
        self.mark = ""
        self.history_id: str | None = None
        self.epoch = 0
        self.leader: Leader | None = None
        self.plan: Plan | None = None
        self.gap = ""
        self.is_stale = False
        self.is_settling = False
        self.stream_lag = StreamLag()
        self.emitter = emitter
        self._reader = reader
        self._refresh_seconds = rest.refresh_seconds
        self._max_staleness_seconds = max_staleness_seconds
        self._clock = clock
        self._backoff = Backoff(rng=rng)
        self._on_lost_history = on_lost_history
        self._listeners: list[Notice] = []
        self._preparers: list[Prepare] = []
        self._confirmed_at: float | None = None
        self._polled_at = -math.inf
        self._refreshed_at: float | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        self._has_gap = False
        self._own_writes = OwnWrites()
        self._is_contributing = False
        self._rest = rest

    @property
    def age_seconds(self) -> float | None:
        """How long ago the view was last known to be current; `None` before the first read."""
        return None if self._confirmed_at is None else self._clock.monotonic() - self._confirmed_at

    @property
    def read_age_seconds(self) -> float | None:
        """How long ago the data that the event stream does not carry were read; `None` before the first read."""
        return None if self._refreshed_at is None else self._clock.monotonic() - self._refreshed_at

    @contextlib.contextmanager
    def subscribed(self, *listeners: Notice, prepare: Prepare | None = None) -> Iterator[None]:
        """Within the block, call these listeners with the events of every step.

        They are called without events after a full read and after an outage. They must not block or raise.

        Args:
            listeners: The listeners.
            prepare: Awaited with the records of a full read shortly before the listeners are called. It does there, in
                pieces, what would keep the event loop waiting too long in a listener.
        """
        preparers = [] if prepare is None else [prepare]
        self._listeners += listeners
        self._preparers += preparers
        try:
            yield
        finally:
            for one in preparers:
                self._preparers.remove(one)
            for listener in listeners:
                self._listeners.remove(listener)

    async def load(self, since: Snapshot | None = None) -> None:
        """Read everything, and replace the view with it.

        Args:
            since: What was read shortly before. Then only the events since are read, if the event stream has them.

        Raises:
            StoreError: Redis could not be read, or is empty; the view is unchanged.
        """
        await self._load(None, since)

    async def _load(self, history_id: str | None, since: Snapshot | None = None) -> None:
        """Read everything of that history, or of any history if `history_id` is `None`.

        Raises:
            Gap: Redis has another history by now; the view is unchanged.
            StoreError: See `load`.
        """
        while True:
            try:
                snapshot = await self._reader.snapshot(since, known=self.record)
            except Gap:
                since = None
                await self._clock.sleep(self._backoff.next_seconds())
                continue
            break
        if snapshot.head.history_id is None:
            raise StoreUnavailable(EMPTY)
        if history_id is not None and snapshot.head.history_id != history_id:
            raise Gap(HISTORY)
        await self.view.load(snapshot.records, snapshot.removed)
        for prepare in self._preparers:
            await prepare(snapshot.records)
        # From here on nothing else runs until all agrees.
        written_meanwhile = self._written_after(snapshot.head)
        self.generation += 1
        self.history_id = snapshot.head.history_id
        self.revision, self.mark = snapshot.head.revision, snapshot.head.mark
        self.epoch = max(self.epoch, snapshot.head.epoch)
        self.is_settling = snapshot.head.is_settling
        self.leader = snapshot.leader
        self.plan = snapshot.plan
        self._own_writes.keep(written_meanwhile)
        self.view.follow(written_meanwhile)
        self._refreshed_at = self._clock.monotonic()
        self._confirm()
        self._notify(())

    def begin_write(self) -> Callable[[Sequence[Event]], None]:
        """Return a function for the events in the reply of a command. Call this before the command is sent.

        The function applies the events by `apply_reply`.
        """
        generation = self.generation
        return lambda events: self.apply_reply(events, generation)

    def apply_reply(self, events: Sequence[Event], generation: int) -> None:
        """Apply the events of a command of this router, so that its caller reads its own write.

        This does not advance the revision, because the event stream carries the same events in order. Events of a
        command that runs while the view is contributed to another history are not applied. They belong to that history,
        and the full read that follows includes them. Before the mirror has noticed a loss, a command may be answered by
        another history than the view shows. There the view takes only what was changed on purpose: of the rest it may
        know more than that history, and must reach it as it was.
        """
        events = [event for event in events if self._is_of_this_history(event) or _is_on_purpose(event)]
        if generation == self.generation and events and not self._is_contributing:
            self._own_writes.add(events, revision=self.revision)
            self._take(events)

    def _is_of_this_history(self, event: Event) -> bool:
        return self.history_id is None or event.history_id in ("", self.history_id)

    async def run(self) -> None:
        """Follow the event stream until cancelled. Reconnect, and read everything again, as needed.

        Call `load` before.
        """
        async with asyncio.TaskGroup() as group:
            if self._max_staleness_seconds is not None:
                group.create_task(self._watch_staleness(self._max_staleness_seconds))
            group.create_task(self._rest.run())
            self._has_gap = False
            while True:
                try:
                    if self._has_gap:
                        await self._reload()
                        self._has_gap = False
                    await self._follow()
                except Gap as gap:
                    self._has_gap, self.gap = True, str(gap)
                except StoreError as error:
                    self._report_trouble(error)
                    await self._clock.sleep(self._backoff.next_seconds())

    def hear(self, heartbeat: Heartbeat | None) -> None:
        """Take the reply to a heartbeat in place of a poll: it names the last event. `None` for a failed heartbeat.

        While heartbeats confirm the view, polls are fewer. If one does not, and the event that it names does not come
        soon, there is a poll at once.
        """
        is_current = (
            heartbeat is not None
            and self._is_current(heartbeat.history_id, heartbeat.revision, heartbeat.mark)
            and self._trouble is None
            and not self._has_gap
        )
        if is_current:
            self._rest.confirm()
            self.view.look_at_clock()
            self._confirm()
        else:
            self._rest.doubt()

    async def refresh(self, *, at_once: bool = False) -> None:
        """Read the data that the event stream does not carry: probe times, counters and loads.

        Without `at_once`, read at most once per `refresh_seconds`, and at most `REPLICAS_A_SECOND`. Concurrent callers
        share one read.

        Raises:
            StoreError: Redis could not be read; the view is unchanged.
        """
        if self._refreshing is None:
            age, count = self.read_age_seconds, len(self.view.all())
            if not at_once and age is not None and age < max(self._refresh_seconds, count / REPLICAS_A_SECOND):
                return
            self._refreshing = asyncio.ensure_future(self._read_records())
            self._refreshing.add_done_callback(self._end_refresh)
        await asyncio.shield(self._refreshing)

    def probed(self) -> list[ReplicaRecord]:
        """Return the last known records of all replicas, for the leader's probes."""
        return [replica.record for replica in self.view.all()]

    def record(self, key: str) -> ReplicaRecord | None:
        """Return one replica's last known record; `None` if the view does not have the replica."""
        replica = self.view.get(key)
        return replica.record if replica else None

    def replica(self, key: str) -> Replica | None:
        """Return the handle of one replica, which shows its record from now on; `None` if the view does not have it."""
        return self.view.get(key)

    async def handle(self, key: str) -> Replica:
        """Return a replica's handle, also for a replica that the view does not have yet.

        Raises:
            StoreError: Redis could not be read.
        """
        replica = self.view.get(key)
        if replica is None:
            record = (await completed(self._reader.records([key]))).get(key)
            replica = self.view.handle(record or Replica(ReplicaEndpoint(key)).record)
        return replica

    async def read_probe_times(self) -> float:
        """Read the time of each replica's last probe, and return the server's time."""
        await self.refresh(at_once=True)
        return await self._reader.server_time()

    async def _read_records(self) -> None:
        generation, leader_before = self.generation, self.leader
        records = await self._reader.records([replica.key for replica in self.view.all()], known=self.record)
        leader = await self._reader.leader()
        head = await self._reader.head()
        if generation != self.generation or head.history_id != self.history_id:
            return  # the records belong to another history than the view
        if self.leader is leader_before:
            self.leader = leader
        self._refreshed_at = self._clock.monotonic()
        changed = iter(records.values())
        while generation == self.generation and (piece := list(itertools.islice(changed, RECORDS_AT_ONCE))):
            self.view.read(piece)
            await asyncio.sleep(0)

    def _end_refresh(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()

    async def _follow(self) -> None:
        """Apply events as they arrive. Never return.

        Raises:
            Gap: See the module.
        """
        is_at_rest = True
        while True:
            if self._clock.monotonic() - self._polled_at >= self._rest.poll_seconds:
                await self._poll()
            head = None
            if is_at_rest:
                waited = await self._rest.wait(self._wait_at_rest)
                if waited is None:
                    self._polled_at = -math.inf
                    continue
                events, head = waited
            else:
                events = await self._reader.wait_events(after=self.revision, seconds=self._refresh_seconds)
            await self._advance(events)
            if head is not None:
                self._take_head(head)
            # After entries that are no events, the read that passes over them comes next.
            is_at_rest = head is not None or not (is_at_rest or events)
            if len(events) < ENTRIES_AT_ONCE and sum(map(_size, events)) >= BURST_CHANGES:
                await self._clock.sleep(BURST_SECONDS)

    def _wait_at_rest(self, seconds: float) -> Awaitable[tuple[list[Event], Head | None]]:
        return self._reader.wait_at_rest(after=self.revision, seconds=seconds)

    async def _poll(self) -> None:
        expected = self._own_writes.pending()
        head, events = await self._reader.poll(after=self.revision)
        if head.history_id is None:
            raise StoreUnavailable(EMPTY)
        if head.history_id != self.history_id:
            raise Gap(HISTORY)
        if not events and not self._is_last(head.revision, head.mark):
            raise Gap(MISSED)
        self._polled_at = self._clock.monotonic()
        await self._advance(events)
        self.is_settling = head.is_settling
        self._own_writes.expect_carried(expected)
        self.view.look_at_clock()
        self._confirm()

    def _take_head(self, head: Head) -> None:
        """Save the next poll if the head is what the view shows. Otherwise that poll finds out what has changed."""
        if self._is_current(head.history_id, head.revision, head.mark):
            self._polled_at = self._clock.monotonic()
            self.is_settling = head.is_settling
            self.view.look_at_clock()
            self._confirm()
        else:
            self._rest.doubt()

    async def _advance(self, events: Sequence[Event]) -> None:
        """Apply events of the stream up to the first gap. Other tasks run in between; the view is as of one event then.

        Raises:
            Gap: See the module.
        """
        breath = Breath()
        for some in _in_pieces(events):
            self._advance_by(some)
            await breath.pause()

    def _advance_by(self, events: Sequence[Event]) -> None:
        for position, event in enumerate(events):
            if not event.follows(self.revision, self.mark):
                self._take(events[:position])
                raise Gap(MISSED)
            self.revision, self.mark = event.id, event.mark
        self.stream_lag.note(events, now=self._clock.monotonic())
        has_taken_all = self._take(events)
        note_replaced(OBJECTS_A_CHANGE * sum(map(_size, events)))
        self._own_writes.pass_by(events)
        if any(event.kind is EventKind.NAMESPACE_REPAIRED for event in events):
            raise Gap(REPAIRED)  # events do not carry the repaired data
        if not has_taken_all or any(event.unreadable for event in events):
            raise Gap(DAMAGED)
        self._confirm()

    def _is_current(self, history_id: str | None, revision: str, mark: str) -> bool:
        """Return whether the view shows exactly this history up to this event."""
        return history_id == self.history_id and self._is_last(revision, mark) and not self._own_writes.pending()

    def _is_last(self, revision: str, mark: str) -> bool:
        """Return whether the view includes exactly the events up to this one."""
        is_same_mark = not mark or self.mark in ("", mark)
        return revision == self.revision and is_same_mark

    def _written_after(self, head: Head) -> list[Event]:
        """Return own writes that are later than a full read. Return none if the history or the revision went back."""
        is_same_history = head.history_id == self.history_id and not is_later(self.revision, head.revision)
        return self._own_writes.later_than(head.revision) if is_same_history else []

    def _take(self, events: Sequence[Event]) -> bool:
        """Take over events. Return whether the view had all that they changed."""
        for event in events:
            self.epoch = max(self.epoch, event.epoch)
            if event.kind is EventKind.LEADER_ELECTED:
                self.leader = Leader(event.router, event.epoch, event.at)
            elif event.kind is EventKind.LEADER_RESIGNED:
                self.leader = None
            elif event.kind is EventKind.PLAN_CHANGED:
                self.plan = event.plan
            elif event.kind in (EventKind.SETTLING_BEGAN, EventKind.SETTLING_ENDED):
                self.is_settling = event.kind is EventKind.SETTLING_BEGAN
        told, has_all = self.view.follow(events)
        if told or not events:  # none would mean that anything may have changed
            self._notify(told)
        return has_all

    async def _reload(self) -> None:
        """Read everything again. If Redis has another history, contribute the view to it first.

        Raises:
            Gap: History was lost meanwhile. The view is unchanged, and the next call contributes it again.
        """
        history_id = self.history_id
        head = await self._reader.head()
        if head.history_id != history_id:
            logger.warning("redis: another history (%s) has replaced %s", head.history_id or "none yet", history_id)
            former, self.gap = history_id, HISTORY
            if self.emitter.has_listeners:
                self.emitter.emit(HistoryLost(at=time.time(), former=former, present=head.history_id))
            self._is_contributing = True
            try:
                history_id = await self._on_lost_history()
            finally:
                self._is_contributing = False
            if self.emitter.has_listeners and history_id is not None:
                self.emitter.emit(HistoryRestored(at=time.time(), former=former, present=history_id))
        await self._load(history_id)

    def _notify(self, events: Sequence[Event]) -> None:
        for listener in self._listeners:
            listener(events)

    def _confirm(self) -> None:
        self._confirmed_at = self._clock.monotonic()
        self._backoff.reset()
        if self._trouble is not None:
            self._trouble = None
            logger.info("redis: following the shared state again")
            self._notify(())
            if self.emitter.has_listeners:
                self.emitter.emit(StoreRecovered(at=time.time()))
        if self.is_stale:
            self._mark_stale(is_stale=False)

    def _report_trouble(self, error: StoreError) -> None:
        """Log only the first of several failures of one kind in a row."""
        self._polled_at = -math.inf
        if self._trouble != type(error).__name__:
            self._trouble = type(error).__name__
            logger.warning("redis: keeping the last view: %s", error)
            if self.emitter.has_listeners:
                self.emitter.emit(StoreFailed(at=time.time(), kind=self._trouble, error=str(error)))

    async def _watch_staleness(self, limit_seconds: float) -> None:
        doubted_seconds = DOUBTED_SHARE * limit_seconds
        while True:
            age = self.age_seconds or 0.0
            if age >= limit_seconds and not self.is_stale:
                self._mark_stale(is_stale=True)
            if age >= doubted_seconds:
                self._rest.doubt()
            next_age = next((one for one in (doubted_seconds, limit_seconds) if age < one), age + self._refresh_seconds)
            await self._clock.sleep(next_age - age)

    def _mark_stale(self, *, is_stale: bool) -> None:
        self.is_stale = is_stale
        self.view.withhold(is_stale)
        if is_stale:
            logger.warning("redis: the view is older than max_staleness_seconds; selecting nothing")
        if self.emitter.has_listeners:
            at, age = time.time(), self.age_seconds or 0.0
            self.emitter.emit(ViewStale(at=at, age_seconds=age) if is_stale else ViewFresh(at=at))


def _size(event: Event) -> int:
    """Return how many replicas an event changes, but at least 1."""
    return max(1, len(event.changes))


def _in_pieces(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Return the events in pieces that change about as many replicas each."""
    first = count = 0
    for position, event in enumerate(events, 1):
        count += _size(event)
        if count >= CHANGES_AT_ONCE or position == len(events):
            yield events[first:position]
            first, count = position, 0


def _is_on_purpose(event: Event) -> bool:
    return event.record is not None and not event.record.restored_from
