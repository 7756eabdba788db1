"""This router's live copy of the shared state: reads all once, then follows the event stream.

What makes it read all again (a gap): an event whose predecessor is not ours; a polled revision other than ours
with no event to explain it, in either direction; another history id; an event that says so. While Redis is away it
keeps the last view.

The view never gives way to a history to which it was not contributed: what a full read finds is shown only if it is the
history that the view shows, or the one that has the view now. An empty namespace is no history.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock
from shared_registry.aio.completion import completed
from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.model import ORIGIN, Event, EventKind, Leader, Replica, ReplicaEndpoint, ReplicaRecord, is_later
from shared_registry.selection.view import View
from shared_registry.store.reader import Gap, Head, Reader

EMPTY = "the namespace is empty: Redis lost its data, and no router has begun anew yet"
logger = logging.getLogger(__name__)
Listener = Callable[[Sequence[Event]], None]


class Mirror:
    """Keeps a `View` equal to the shared state.

    Attributes:
        generation: Rises with every full read. A reply to a command sent under an earlier one is not applied.
        revision: The last event that the view has taken in.
        history_id: The history that the view shows; `None` before the first read.
        epoch: The highest epoch seen.
        leader: Who leads, as last heard of.
    """

    def __init__(
        self,
        reader: Reader,
        view: View,
        *,
        refresh_seconds: float,
        max_staleness_seconds: float | None,
        clock: Clock,
        rng: random.Random,
        on_lost_history: Callable[[], Awaitable[str | None]],
    ) -> None:
        """Set up; nothing is read before `load`.

        Args:
            reader: Where to read from.
            view: What to keep; it may already show the configured replicas.
            refresh_seconds: How long to wait for an event before polling, and the least time between refreshes.
            max_staleness_seconds: Past this age nothing is selected; `None` for no limit.
            clock: For ages and waits.
            rng: For jitter.
            on_lost_history: Awaited when another history id is found, or none: contributes the view, and returns the
                history id of the history that has it.
        """
        self.view = view
        self.generation = 0
        self.revision = ORIGIN
        self.history_id: str | None = None
        self.epoch = 0
        self.leader: Leader | None = None
        self.is_stale = False
        self._reader = reader
        self._refresh_seconds = refresh_seconds
        self._max_staleness_seconds = max_staleness_seconds
        self._clock = clock
        self._backoff = Backoff(rng=rng)
        self._on_lost_history = on_lost_history
        self._listeners: list[Listener] = []
        self._confirmed_at: float | None = None
        self._polled_at = -math.inf
        self._refreshed_at: float | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        self._own_writes: list[Event] = []
        self._is_contributing = False

    @property
    def age_seconds(self) -> float | None:
        """How long ago the view was last known to be current; `None` before the first read."""
        return None if self._confirmed_at is None else self._clock.monotonic() - self._confirmed_at

    @property
    def is_cut_off(self) -> bool:
        """Whether following Redis failed the last time."""
        return self._trouble is not None

    @contextlib.contextmanager
    def subscribed(self, *listeners: Listener) -> Iterator[None]:
        """Call these with the events of every step, or with none after a full read and after an outage.

        They must not block or raise.
        """
        self._listeners += listeners
        try:
            yield
        finally:
            for listener in listeners:
                self._listeners.remove(listener)

    async def load(self) -> None:
        """Read all, and show it at once.

        Raises:
            StoreError: Redis could not be read, or is empty; the view is as before.
        """
        await self._load(None)

    async def _load(self, history_id: str | None) -> None:
        """Read all of that history, or of any where none is named.

        Raises:
            Gap: It is another one by now; the view is as before.
            StoreError: See `load`.
        """
        while True:
            try:
                snapshot = await self._reader.snapshot()
            except Gap:
                await self._clock.sleep(self._backoff.next_seconds())
                continue
            break
        if snapshot.head.history_id is None:
            raise StoreUnavailable(EMPTY)
        if history_id is not None and snapshot.head.history_id != history_id:
            raise Gap
        written_meanwhile = self._written_after(snapshot.head)
        self.generation += 1
        self.history_id = snapshot.head.history_id
        self.revision = snapshot.head.revision
        self.epoch = max(self.epoch, snapshot.head.epoch)
        self.leader = snapshot.leader
        self._own_writes = written_meanwhile
        self.view.replace_all(snapshot.records, snapshot.removed)
        self.view.apply(event.record for event in written_meanwhile if event.record)
        self._refreshed_at = self._clock.monotonic()
        self._confirm()
        self._notify(())

    def begin_write(self) -> Callable[[Sequence[Event]], None]:
        """Return what takes the events of the reply to a command that is about to be sent; see `apply_reply`."""
        generation = self.generation
        return lambda events: self.apply_reply(events, generation)

    def apply_reply(self, events: Sequence[Event], generation: int) -> None:
        """Take over what a command of this router did, so that its caller reads its own write.

        Does not move the revision: the event stream brings the same events in their place among the others. What is
        done while the view is contributed to another history belongs to that one; reading it brings that, too.
        """
        if generation == self.generation and events and not self._is_contributing:
            self._own_writes += [event for event in events if is_later(event.id, self.revision)]
            self._take(events)

    async def run(self) -> None:
        """Follow the event stream until cancelled, reconnecting and reading all again as needed. `load` comes first."""
        async with asyncio.TaskGroup() as group:
            if self._max_staleness_seconds is not None:
                group.create_task(self._watch_staleness(self._max_staleness_seconds))
            has_gap = False
            while True:
                try:
                    if has_gap:
                        await self._reload()
                        has_gap = False
                    await self._follow()
                except Gap:
                    has_gap = True
                except StoreError as error:
                    self._report_trouble(error)
                    await self._clock.sleep(self._backoff.next_seconds())

    async def refresh(self, *, at_once: bool = False) -> None:
        """Read again what the event stream does not carry: probe times, counters, load.

        At most once per `refresh_seconds`, unless at once; concurrent callers share one read.

        Raises:
            StoreError: Redis could not be read; the view is as before.
        """
        if self._refreshing is None:
            read_at = self._refreshed_at
            if not at_once and read_at is not None and self._clock.monotonic() - read_at < self._refresh_seconds:
                return
            self._refreshing = asyncio.ensure_future(self._read_records())
            self._refreshing.add_done_callback(self._end_refresh)
        await asyncio.shield(self._refreshing)

    def probed(self) -> list[ReplicaRecord]:
        """Return the records of all replicas as known now."""
        return [replica.record for replica in self.view.all()]

    def record(self, key: str) -> ReplicaRecord | None:
        """Return one replica's record as known now; `None` if it is gone."""
        replica = self.view.get(key)
        return replica.record if replica else None

    async def handle(self, key: str) -> Replica:
        """Return a replica's handle, also of one that the view does not show yet.

        Raises:
            StoreError: Redis could not be read.
        """
        replica = self.view.get(key)
        if replica is None:
            record = (await completed(self._reader.records([key]))).get(key)
            replica = self.view.handle(record or Replica(ReplicaEndpoint(key)).record)
        return replica

    async def read_probe_times(self) -> float:
        """Read again when each replica was probed, and return the server's time."""
        await self.refresh(at_once=True)
        return await self._reader.server_time()

    async def _read_records(self) -> None:
        generation, leader_before = self.generation, self.leader
        records = await self._reader.records([replica.key for replica in self.view.all()])
        leader = await self._reader.leader()
        head = await self._reader.head()
        if (
            generation == self.generation and head.history_id == self.history_id
        ):  # else it is of another history than the view
            self.view.read(records.values())
            if self.leader is leader_before:
                self.leader = leader
            self._refreshed_at = self._clock.monotonic()

    def _end_refresh(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()

    async def _follow(self) -> None:
        """Take in events as they come; return never.

        Raises:
            Gap: Events were missed.
        """
        while True:
            if self._clock.monotonic() - self._polled_at >= self._refresh_seconds:
                await self._poll()
            self._advance(await self._reader.wait_events(after=self.revision, seconds=self._refresh_seconds))

    async def _poll(self) -> None:
        expected = tuple(self._own_writes)
        head, events = await self._reader.poll(after=self.revision)
        if head.history_id is None:
            raise StoreUnavailable(EMPTY)
        if head.history_id != self.history_id or (head.revision != self.revision and not events):
            raise Gap
        self._polled_at = self._clock.monotonic()
        self._advance(events)
        self._give_up([event for event in expected if event in self._own_writes])
        self._confirm()

    def _advance(self, events: Sequence[Event]) -> None:
        """Move along the event stream as far as it is unbroken."""
        for position, event in enumerate(events):
            if event.previous != self.revision:
                self._take(events[:position])
                raise Gap
            self.revision = event.id
        if events:
            passed = [event for event in self._own_writes if not is_later(event.id, self.revision)]
            self._own_writes = [event for event in self._own_writes if is_later(event.id, self.revision)]
            self._take(events)
            brought = {event.id for event in events}
            self._give_up([event for event in passed if event.id not in brought])
            if any(event.kind is EventKind.NAMESPACE_REPAIRED for event in events):
                raise Gap  # what was put in order is on no event
            self._confirm()

    def _give_up(self, lost: Sequence[Event]) -> None:
        """Forget own writes that the event stream should have brought by now: a failover has lost them."""
        if lost:
            self._own_writes = [event for event in self._own_writes if event not in lost]
            raise Gap

    def _written_after(self, head: Head) -> list[Event]:
        """Return this router's own writes that a full read is too old to show; none if history went back."""
        is_same_history = head.history_id == self.history_id and not is_later(self.revision, head.revision)
        return [event for event in self._own_writes if is_same_history and is_later(event.id, head.revision)]

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            self.epoch = max(self.epoch, event.epoch)
            if event.kind is EventKind.LEADER_ELECTED:
                self.leader = Leader(event.router, event.epoch, event.at)
            elif event.kind is EventKind.LEADER_RESIGNED:
                self.leader = None
        self.view.apply(event.record for event in events if event.record)
        self._notify(events)

    async def _reload(self) -> None:
        """Read all again, after contributing the view where that is not in this history.

        Raises:
            Gap: History was lost meanwhile; the view is as before, to be contributed to the next one.
        """
        history_id = self.history_id
        head = await self._reader.head()
        if head.history_id != history_id:
            logger.warning("redis: another history (%s) has replaced %s", head.history_id or "none yet", history_id)
            self._is_contributing = True
            try:
                history_id = await self._on_lost_history()
            finally:
                self._is_contributing = False
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
        if self.is_stale:
            self._mark_stale(is_stale=False)

    def _report_trouble(self, error: StoreError) -> None:
        """Log the first failure of its kind in a row, not every attempt."""
        self._polled_at = -math.inf
        if self._trouble != type(error).__name__:
            self._trouble = type(error).__name__
            logger.warning("redis: keeping the last view: %s", error)

    async def _watch_staleness(self, limit_seconds: float) -> None:
        while True:
            age = self.age_seconds or 0.0
            if age >= limit_seconds and not self.is_stale:
                self._mark_stale(is_stale=True)
            await self._clock.sleep(limit_seconds - age if age < limit_seconds else self._refresh_seconds)

    def _mark_stale(self, *, is_stale: bool) -> None:
        self.is_stale = is_stale
        self.view.withhold(is_stale)
        if is_stale:
            logger.warning("redis: the view is older than max_staleness_seconds; selecting nothing")
