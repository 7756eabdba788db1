"""Keeps this router's waiters: their sessions, their positions, and when to ask for a slot again.

The queue itself is in Redis, and the scripts there make every decision. A slot that is given to a waiter is announced
in the inbox of the waiter's router. If that message is lost, the next poll of the positions, within about a second,
shows that the waiter should ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, call_at
from shared_registry.errors import NoHealthyReplica, Saturated, StoreError
from shared_registry.leases.ledger import MOVES
from shared_registry.leases.outage import AWAY
from shared_registry.leases.speed import QueueSpeed
from shared_registry.model import ORIGIN, Event
from shared_registry.store.failures import was_cut_off
from shared_registry.store.lane import Busy
from shared_registry.store.reader import Reader
from shared_registry.store.replies import Denial, Denied, Grant, Queued

if TYPE_CHECKING:
    from shared_registry.leases.asking import Asker
    from shared_registry.leases.lease_news import LeaseNews
    from shared_registry.leases.ledger import SlotRequest

OnPosition = Callable[[int, int], None]
"""Called with the session's position and the depth of the queue, both from 1.

It must not block. An exception that it raises ends the wait.
"""
POLL_SECONDS = 1.0
INBOX_SECONDS = 1.0
_ASK_AGAIN = (Denial.EXCLUDED, Denial.SETTLING)
COME_BACK_READS = 100
COME_BACK_PAUSE_SECONDS = 0.05
LAST_CALL_SECONDS = 1.0
"""How long a session may still wait to send its last request after its timeout has passed."""


class Waiter:
    """One session in the queue.

    Attributes:
        entry: The session's position, as last read; `None` before it has one.
        grant: The slot that the session was given, if this router has received the grant.
        is_called: Whether the session should ask again: it is no longer in the queue, or its timeout has passed.
        outage: Why the last poll of the position failed; `None` if it succeeded.
    """

    __slots__ = ("_changed", "_on_position", "_on_read", "_reported", "entry", "grant", "is_called", "outage")

    def __init__(self, on_read: Callable[[int], None], on_position: OnPosition | None = None) -> None:
        """Set up.

        Args:
            on_read: Called with the position whenever it was read.
            on_position: Called by `report`.
        """
        self.entry: Queued | None = None
        self.grant: Grant | None = None
        self.is_called = False
        self.outage: StoreError | None = None
        self._on_read = on_read
        self._on_position = on_position
        self._reported: tuple[int, int] | None = None
        self._changed = asyncio.Event()

    def move(self, entry: Queued) -> None:
        """Record the session's present position."""
        self.outage = None
        self._on_read(entry.position)
        if entry != self.entry:
            self.entry = entry
            self._changed.set()

    def cut_off(self, error: StoreError) -> None:
        """Record that the session's position could not be read."""
        self.outage = error
        self._changed.set()

    def serve(self, grant: Grant) -> None:
        """Record that the session was given a slot."""
        self.grant = grant
        self.call()

    def call(self) -> None:
        """Let the session ask again."""
        self.is_called = True
        self._changed.set()

    def report(self) -> None:
        """Report the position to the session if it differs from the one reported last."""
        if self._on_position is not None and self.entry is not None:
            now = self.entry.position, self.entry.depth
            if now != self._reported:
                self._reported = now
                self._on_position(*now)

    async def wait_changed(self) -> None:
        """Return once the session was moved, cut off or called."""
        await self._changed.wait()
        self._changed.clear()


class RouterQueue:
    """Keeps this router's waiters informed of positions and grants. `run` must be kept running.

    Attributes:
        speed: How fast the queue moves.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        router: str,
        is_known: Callable[[str], bool],
        on_orphaned_lease: Callable[[], None],
        news: LeaseNews,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; nothing is read while no session waits.

        Args:
            reader: Reads positions and the inbox.
            router: This router's key.
            is_known: Returns whether this router knows a lease id.
            on_orphaned_lease: Called when a slot was given to a lease id that this router does not know.
            news: Reports that a session has begun to wait.
            clock: Used for waits.
            rng: Used for jitter.
        """
        self.speed = QueueSpeed()
        self._reader = reader
        self._router = router
        self._is_known = is_known
        self._on_orphaned_lease = on_orphaned_lease
        self._news = news
        self._clock = clock
        self._rng = rng
        self._waiters: dict[str, Waiter] = {}
        self._is_needed = asyncio.Event()
        self._inbox = ORIGIN
        self._is_rewound = False

    @contextlib.contextmanager
    def waiting(self, lease_id: str, on_position: OnPosition | None = None) -> Iterator[Waiter]:
        """Keep a session informed while this context is open.

        Open it before the session asks for the first time, so that no wake-up is missed.
        """

        def record(position: int) -> None:
            self._is_needed.set()
            self.speed.record(self._clock.monotonic(), lease_id, position)

        waiter = self._waiters[lease_id] = Waiter(record, on_position)
        try:
            yield waiter
        finally:
            del self._waiters[lease_id]
            if waiter.grant is not None and waiter.entry is not None:
                record(0)
            self.speed.forget(lease_id)
            if not self._waiters:
                self._is_needed.clear()

    async def wait(
        self, asker: Asker, request: SlotRequest, deadline: float, on_position: OnPosition | None
    ) -> Grant | Denied:
        """Ask until the session has a slot or is denied one; ask for the last time at the deadline.

        While Redis is away, a session goes on waiting, with or without a position, unless this router can place it
        without Redis.

        Args:
            asker: Asks Redis.
            request: The session's request.
            deadline: A time on the monotonic clock.
            on_position: Called with the position in the queue: once at the beginning, then whenever it has changed.

        Raises:
            Busy: The request could not be sent in time.
            StoreUnavailable: Redis does not answer the last request, or this router can place the session without it.
        """
        with self.waiting(request.lease_id, on_position) as waiter:
            while waiter.grant is None and self._clock.monotonic() < deadline:
                waiter.is_called = False
                answer = await self._ask_to_wait(asker, request, waiter, deadline)
                if isinstance(answer, Grant):
                    waiter.grant = answer
                elif isinstance(answer, Queued):
                    request.sequence = answer.sequence
                    self._note_waiting(request, answer)
                    waiter.move(answer)
                    with call_at(self._clock, deadline, waiter.call):
                        await _until_called(asker, request, waiter)
                    request.expect_open()
                elif answer is not None and answer.reason not in _ASK_AGAIN:
                    return answer
            return waiter.grant or await _ask_last(asker, request, waiter)

    def _note_waiting(self, request: SlotRequest, entry: Queued) -> None:
        if request.waits_since is None:
            request.waits_since = self._clock.monotonic()
            if self._news.emitter.has_listeners:
                self._news.awaited(request, entry)

    async def _ask_to_wait(
        self, asker: Asker, request: SlotRequest, waiter: Waiter, deadline: float
    ) -> Grant | Queued | Denied | None:
        """Return the answer; `None` if there was none.

        This call pauses before it returns if the session is to ask again: Redis is away, or see `_ASK_AGAIN`.
        """
        answer: Grant | Queued | Denied | None = None
        try:
            answer = await asker.ask_to_wait(request, patience_seconds=deadline - self._clock.monotonic())
        except Busy:
            if waiter.entry is None:
                raise
            return None
        except AWAY as error:
            if asker.can_place_alone(request, error):
                raise
        if answer is None or (isinstance(answer, Denied) and answer.reason in _ASK_AGAIN):
            # Redis is away; or only excluded replicas have room, and then there is no queue in which to wait; or the
            # queue is full while sessions are put back after a loss, and may not be full for long.
            await self._clock.sleep(min(POLL_SECONDS, deadline - self._clock.monotonic()))
            request.expect_open()
        return answer

    def refusal(self, denied: Denied, request: SlotRequest) -> Saturated | NoHealthyReplica:
        """Return the error to raise for a denial of a request."""
        if denied.reason is Denial.NO_HEALTHY:
            but = ", but for those to exclude" if request.excluded else ""
            return NoHealthyReplica(f"no replica is healthy and active{but}; see `shared-registry status`")
        return Saturated(
            "every healthy replica has as many sessions as its capacity allows"
            + (f", and {denied.depth} more wait" if denied.depth else "")
            + "; try again later",
            depth=denied.depth,
            retry_after_seconds=self.speed.seconds_to_pass(self._clock.monotonic(), denied.depth + 1),
        )

    def call_all(self) -> None:
        """Let every waiter ask again."""
        for waiter in self._waiters.values():
            waiter.call()

    async def come_back(self) -> None:
        """Let every waiter ask again; return once Redis has the positions of those that go on waiting.

        Raises:
            StoreError: Redis could not be read.
        """
        self.call_all()
        for _ in range(COME_BACK_READS):
            await self._clock.sleep(COME_BACK_PAUSE_SECONDS if self._waiters else 0)
            asked = [lease_id for lease_id, waiter in self._waiters.items() if waiter.entry is not None]
            if not asked:
                return
            _, positions = await self._reader.positions(self._router, asked)
            if all(positions.get(lease_id) is not None for lease_id in asked if lease_id in self._waiters):
                return

    def notice(self, events: Sequence[Event]) -> None:
        """Rewind if there are no events: Redis may be another server, with another inbox. For `Mirror.subscribed`."""
        if not events:
            self.rewind()

    def rewind(self) -> None:
        """Read the inbox from its beginning again: it may be another inbox, whose ids are lower than those read."""
        self._inbox = ORIGIN
        self._is_rewound = True

    async def run(self) -> None:
        """While a session waits, poll positions about once a second and read the inbox as it fills, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for read in (self._poll, self._read_inbox):
                group.create_task(self._keep_reading(read))

    async def _keep_reading(self, read: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(rng=self._rng)
        was_broken = False
        while True:
            await self._is_needed.wait()
            try:
                await read()
            except StoreError as error:  # not logged here: the mirror logs that Redis is away
                self.rewind()
                if was_cut_off(error) and not was_broken:
                    was_broken = True
                    continue  # one broken connection, perhaps long ago, is no outage; another one shows what it is
                for waiter in list(self._waiters.values()):
                    waiter.cut_off(error)
                await self._clock.sleep(backoff.next_seconds())
            else:
                was_broken = False
                backoff.reset()

    async def _poll(self) -> None:
        await self._clock.sleep(POLL_SECONDS * (0.8 + 0.4 * self._rng.random()))
        asked = {lease_id: waiter for lease_id, waiter in self._waiters.items() if waiter.entry is not None}
        if not asked:
            return
        depth, positions = await self._reader.positions(self._router, list(asked))
        # A session that has left the queue meanwhile must not be informed.
        asked = {lease_id: waiter for lease_id, waiter in asked.items() if self._waiters.get(lease_id) is waiter}
        for lease_id, waiter in asked.items():
            position = positions.get(lease_id)
            if position is None:
                waiter.call()
            elif waiter.entry is not None:
                waiter.move(Queued(waiter.entry.sequence, position, depth))

    async def _read_inbox(self) -> None:
        self._is_rewound = False
        read, grants = await self._reader.wait_inbox(self._router, after=self._inbox, seconds=INBOX_SECONDS)
        if not self._is_rewound:
            self._inbox = read
        for lease_id, grant in grants.items():
            waiter = self._waiters.get(lease_id)
            if waiter is not None and MOVES in lease_id:
                waiter.call()  # its client uses the id again, and the grant may be one of an earlier wait
            elif waiter is not None:
                waiter.serve(grant)
            elif not self._is_known(lease_id):
                self._on_orphaned_lease()
        await self._clock.sleep(0)  # the sessions that were given a slot go on before the next read is sent


async def _until_called(asker: Asker, request: SlotRequest, waiter: Waiter) -> None:
    while not waiter.is_called:
        if waiter.outage is not None and asker.can_place_alone(request, waiter.outage):
            # Not that error itself: the waiter and its traceback would keep each other, and all waiters have the same.
            raise type(waiter.outage)(*waiter.outage.args) from waiter.outage.__cause__
        waiter.report()
        await waiter.wait_changed()


async def _ask_last(asker: Asker, request: SlotRequest, waiter: Waiter) -> Grant | Denied:
    try:
        answer = await asker.ask(request, patience_seconds=LAST_CALL_SECONDS)
    except Busy:
        if waiter.grant is None:
            raise
        return waiter.grant
    if isinstance(answer, Grant):
        waiter.grant = answer
    return answer
