"""A history that tests write and lose at will, and the reader through which a mirror sees it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from shared_registry.aio.clock import finish_by
from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.model import (
    ORIGIN,
    AdminState,
    Event,
    EventKind,
    Leader,
    Removal,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
    StatusChange,
)
from shared_registry.store.reader import Gap, Head, Reader, Snapshot
from tests.support.fake_clock import FakeClock


def url_of(number: int) -> str:
    return f"http://10.0.0.{number}:8000"


class History:
    """What Redis holds of one namespace."""

    def __init__(self, history_id: str = "history id 1", *, first: int = 1) -> None:
        self.history_id: str | None = history_id
        self.revision = ORIGIN
        self.epoch = 0
        self.leader: Leader | None = None
        self.records: dict[str, ReplicaRecord] = {}
        self.removed: dict[str, Removal] = {}
        self.events: list[Event] = []
        self.changed = asyncio.Event()
        self._next = first

    def register(self, number: int, *, order: int | None = None, **spec: Any) -> Event:
        key = url_of(number)
        endpoint = ReplicaEndpoint(key, order=number if order is None else order, **spec)
        return self.emit(EventKind.REPLICA_REGISTERED, ReplicaRecord(key, endpoint, incarnation=f"{self._next}"))

    def change(self, number: int, **changes: Any) -> Event:
        """Change a replica's record; `status` its health, `order` its endpoint."""
        record = self.records[url_of(number)]
        if "status" in changes:
            changes["health"] = replace(record.health, status=changes.pop("status"))
        if "order" in changes:
            changes["endpoint"] = replace(record.endpoint, order=changes.pop("order"))
        return self.emit(EventKind.REPLICA_UPDATED, replace(record, **changes))

    def turn(self, numbers: Sequence[int], status: ReplicaStatus) -> Event:
        """Change the status of several replicas in one event."""
        kind = EventKind.REPLICA_HEALTHY if status is ReplicaStatus.HEALTHY else EventKind.REPLICA_UNHEALTHY
        before = {key: self.records[key] for key in map(url_of, numbers)}
        changes = [StatusChange(key, record.revision, 3, 1.0, "", (), "down") for key, record in before.items()]
        event = self.emit(kind, changes=tuple(changes))
        self.records |= {change.key: event.after(change, before[change.key]) for change in changes}
        return event

    def heal(self, number: int) -> Event:
        return self.change(number, status=ReplicaStatus.HEALTHY)

    def count(self, number: int, health: ReplicaHealth, *, in_flight: int = 0) -> None:
        """Change what no event carries."""
        key = url_of(number)
        self.records[key] = replace(self.records[key], health=health, in_flight=in_flight)

    def remove(self, number: int) -> Event:
        return self.emit(
            EventKind.REPLICA_DEREGISTERED, replace(self.records[url_of(number)], admin=AdminState.REMOVED)
        )

    def elect(self, router: str) -> Event:
        self.epoch += 1
        event = self.emit(EventKind.LEADER_ELECTED, router=router)
        self.leader = Leader(router, self.epoch, event.at)
        return event

    def resign(self) -> Event:
        self.leader = None
        return self.emit(EventKind.LEADER_RESIGNED)

    def join(self, router: str = "r") -> Event:
        return self.emit(EventKind.ROUTER_JOINED, router=router)

    def trim(self) -> None:
        """Forget all events but the last."""
        del self.events[:-1]

    def saved(self) -> Callable[[], None]:
        """Return what takes this history back to where it is now, as a failover does that lost what came since."""
        revision, epoch, leader = self.revision, self.epoch, self.leader
        records, removed, events = dict(self.records), dict(self.removed), list(self.events)

        def restore() -> None:
            self.revision, self.epoch, self.leader = revision, epoch, leader
            self.records, self.removed, self.events = dict(records), dict(removed), list(events)

        return restore

    def after(self, revision: str) -> list[Event]:
        number = _number(revision)
        return [event for event in self.events if _number(event.id) > number]

    def emit(
        self,
        kind: EventKind,
        record: ReplicaRecord | None = None,
        *,
        router: str = "r",
        changes: tuple[StatusChange, ...] = (),
    ) -> Event:
        event_id = f"{self._next}-0"
        self._next += 1
        if record is not None:
            record = replace(record, revision=event_id)
            if record.admin is AdminState.REMOVED:
                self.records.pop(record.key, None)
                self.removed[record.key] = Removal(event_id)
            else:
                self.records[record.key] = record
                self.removed.pop(record.key, None)
            record = replace(record, in_flight=0)  # an event carries no load
        event = Event(
            event_id, kind, float(self._next), self.revision, router, self.epoch, record=record, changes=changes
        )
        self.revision = event_id
        self.events.append(event)
        self.changed.set()
        return event


class ScriptedReader:
    """Reads a `History`, which the test may exchange; fails, and takes its time, as the test says."""

    def __init__(self, clock: FakeClock, history: History) -> None:
        self.history = history
        self.error: StoreError | None = None
        self.snapshot_error: StoreError | None = None
        self.gaps = 0
        self.on_head: Callable[[], None] | None = None
        self.calls: list[str] = []
        self.snapshot_gate = open_gate()
        self.records_gate = open_gate()
        self.stream_gate = open_gate()
        self.longest_wait_seconds = math.inf
        self._clock = clock

    def as_reader(self) -> Reader:
        return cast("Reader", self)

    def count(self, call: str) -> int:
        return self.calls.count(call)

    def order_of(self, key: str) -> int:
        return self.history.records[key].endpoint.order or 0

    def lose_connection(self) -> None:
        """Fail, at once also where it waits for events."""
        self.error = StoreUnavailable("connection lost")
        self.history.changed.set()

    async def head(self) -> Head:
        self._begin("head")
        head, happens, self.on_head = self._head(), self.on_head, None
        if happens is not None:
            happens()
        return head

    async def leader(self) -> Leader | None:
        self._begin("leader")
        return self.history.leader

    async def snapshot(
        self,
        since: Snapshot | None = None,
        *,
        known: Callable[[str], ReplicaRecord | None] = lambda _: None,
    ) -> Snapshot:
        """Read at once, and reply once the gate is open."""
        self._begin("snapshot")
        if self.snapshot_error:
            raise self.snapshot_error
        found = Snapshot(self._head(), dict(self.history.records), dict(self.history.removed), self.history.leader)
        await self.snapshot_gate.wait()
        if self.gaps:
            self.gaps -= 1
            raise Gap
        return found

    async def records(
        self, urls: Sequence[str], *, known: Callable[[str], ReplicaRecord | None] = lambda _: None
    ) -> dict[str, ReplicaRecord]:
        self._begin("records")
        present = self.history.records
        found = {url: present[url] for url in urls if url in present and present[url] != known(url)}
        await self.records_gate.wait()
        return found

    async def poll(self, *, after: str) -> tuple[Head, list[Event]]:
        self._begin("poll")
        return self._head(), self.history.after(after)

    async def wait_events(self, *, after: str, seconds: float) -> list[Event]:
        self._begin("wait_events")
        deadline = self._clock.monotonic() + min(seconds, self.longest_wait_seconds)
        await self.stream_gate.wait()
        with contextlib.suppress(TimeoutError):
            while not self.history.after(after):
                self.history.changed.clear()
                await finish_by(self._clock, deadline, _until(self.history.changed))
                self._fail()
        self._fail()
        return self.history.after(after)

    async def wait_at_rest(self, *, after: str, seconds: float) -> tuple[list[Event], Head | None]:
        events = await self.wait_events(after=after, seconds=seconds)
        return events, None if events else self._head()

    def _head(self) -> Head:
        return Head(self.history.history_id, self.history.revision, self.history.epoch)

    def _begin(self, call: str) -> None:
        self.calls.append(call)
        self._fail()

    def _fail(self) -> None:
        if self.error:
            raise self.error


def open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _number(revision: str) -> int:
    return int(revision.partition("-")[0])
