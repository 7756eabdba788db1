"""This router's sessions in the queue: who they are, where they stand, and when to ask for them again.

The line itself is in Redis, and so is every decision. A slot that is given to who waits comes through the router's
inbox; where that is lost, the next look at the positions, within about a second, shows that asking again is worthwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, call_at
from shared_registry.errors import NoHealthyReplica, Saturated, StoreError, StoreUnavailable
from shared_registry.leases.speed import LineSpeed
from shared_registry.model import ORIGIN, Event
from shared_registry.store.lane import Busy
from shared_registry.store.reader import Reader
from shared_registry.store.replies import Denial, Denied, Grant, Queued

if TYPE_CHECKING:
    from shared_registry.leases.asking import Asker
    from shared_registry.leases.ledger import SlotRequest

OnPosition = Callable[[int, int], None]
"""Told position and depth, both from 1. Must not block; what it raises ends the waiting."""
POLL_SECONDS = 1.0
INBOX_SECONDS = 1.0
LAST_CALL_SECONDS = 1.0
"""How long a session whose time is up may wait for its turn to ask for the last time."""


class Waiter:
    """One session in the line.

    Attributes:
        place: Where it stands, as last heard; `None` before it has a place.
        grant: The slot that it was given, as far as it was heard of.
        is_called: Asking for it again is worthwhile: the line does not have it, or time is up.
        outage: Why Redis could not be asked where it stands, the last time.
    """

    __slots__ = ("_news", "_on_look", "_on_position", "_told", "grant", "is_called", "outage", "place")

    def __init__(self, on_look: Callable[[int], None], on_position: OnPosition | None = None) -> None:
        """Set up.

        Args:
            on_look: Called with the position whenever that was read.
            on_position: What `tell` calls.
        """
        self.place: Queued | None = None
        self.grant: Grant | None = None
        self.is_called = False
        self.outage: StoreError | None = None
        self._on_look = on_look
        self._on_position = on_position
        self._told: tuple[int, int] | None = None
        self._news = asyncio.Event()

    def move(self, place: Queued) -> None:
        """It stands there now."""
        self.outage = None
        self._on_look(place.position)
        if place != self.place:
            self.place = place
            self._news.set()

    def cut_off(self, error: StoreError) -> None:
        """Nobody can tell where it stands."""
        self.outage = error
        self._news.set()

    def serve(self, grant: Grant) -> None:
        """It was given a slot."""
        self.grant = grant
        self.call()

    def call(self) -> None:
        """Let it ask."""
        self.is_called = True
        self._news.set()

    def tell(self) -> None:
        """Report the position to the session, unless that is what was reported last."""
        if self._on_position is not None and self.place is not None:
            now = self.place.position, self.place.depth
            if now != self._told:
                self._told = now
                self._on_position(*now)

    async def wait_news(self) -> None:
        """Return once it was moved, cut off or called."""
        await self._news.wait()
        self._news.clear()


class RouterQueue:
    """Keeps this router's waiters informed while there are any. `run` must be kept running.

    Attributes:
        speed: How fast the line moves.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        router: str,
        is_known: Callable[[str], bool],
        on_orphaned_lease: Callable[[], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; nothing is read while nobody waits.

        Args:
            reader: Where positions and wake-ups are read.
            router: This router's key.
            is_known: Whether a lease id is this router's.
            on_orphaned_lease: Called when a slot was given to one that is not.
            clock: For waiting.
            rng: For jitter.
        """
        self.speed = LineSpeed()
        self._reader = reader
        self._router = router
        self._is_known = is_known
        self._on_orphaned_lease = on_orphaned_lease
        self._clock = clock
        self._rng = rng
        self._waiters: dict[str, Waiter] = {}
        self._is_needed = asyncio.Event()
        self._inbox = ORIGIN
        self._is_rewound = False

    @contextlib.contextmanager
    def standing(self, lease_id: str, on_position: OnPosition | None = None) -> Iterator[Waiter]:
        """Keep a session informed for as long as this is open. Open it before it asks, so that no wake-up is missed."""

        def look(position: int) -> None:
            self._is_needed.set()
            self.speed.see(self._clock.monotonic(), lease_id, position)

        waiter = self._waiters[lease_id] = Waiter(look, on_position)
        try:
            yield waiter
        finally:
            del self._waiters[lease_id]
            if waiter.grant is not None and waiter.place is not None:
                look(0)
            self.speed.forget(lease_id)
            if not self._waiters:
                self._is_needed.clear()

    async def wait(
        self, asker: Asker, request: SlotRequest, deadline: float, on_position: OnPosition | None
    ) -> Grant | Denied:
        """Ask until there is a slot, or nothing to wait for, and at the deadline for the last time.

        A session in the queue stays there while Redis is away, unless this router can place it by itself.

        Args:
            asker: Asks Redis.
            request: For whom.
            deadline: On the monotonic clock.
            on_position: Told the position in the queue: first at once, then when that has changed.

        Raises:
            Busy: Its turn to ask did not come in time.
            StoreUnavailable: Redis does not answer, at first or at the end.
        """
        with self.standing(request.lease_id, on_position) as waiter:
            while waiter.grant is None and self._clock.monotonic() < deadline:
                waiter.is_called = False
                answer = await self._ask_to_wait(asker, request, waiter, deadline)
                if isinstance(answer, Grant):
                    waiter.grant = answer
                elif isinstance(answer, Queued):
                    request.sequence = answer.sequence
                    waiter.move(answer)
                    with call_at(self._clock, deadline, waiter.call):
                        await _until_called(asker, request, waiter)
                    asker.expect_open(request)
                elif answer is not None and answer.why is not Denial.EXCLUDED:
                    return answer
            return waiter.grant or await _ask_last(asker, request, waiter)

    async def _ask_to_wait(
        self, asker: Asker, request: SlotRequest, waiter: Waiter, deadline: float
    ) -> Grant | Queued | Denied | None:
        """Return the answer, `None` where a session in the queue got none; after a pause before it may ask again."""
        answer: Grant | Queued | Denied | None = None
        try:
            answer = await asker.ask_to_wait(request, patience_seconds=deadline - self._clock.monotonic())
        except Busy:
            if waiter.place is None:
                raise
            return None
        except StoreUnavailable:
            if waiter.place is None or asker.can_place_alone(request):
                raise
        if answer is None or (isinstance(answer, Denied) and answer.why is Denial.EXCLUDED):
            # Redis is away; or others than it wants have room, so that there is no queue for it to wait in.
            await self._clock.sleep(min(POLL_SECONDS, deadline - self._clock.monotonic()))
            asker.expect_open(request)
        return answer

    def refusal(self, denied: Denied) -> Saturated | NoHealthyReplica:
        """Return what a denial means to the session."""
        if denied.why is Denial.NO_HEALTHY:
            return NoHealthyReplica("no replica is healthy and active; see `shared-registry status`")
        return Saturated(
            "every healthy replica has as many sessions as its capacity allows"
            + (f", and {denied.depth} more wait" if denied.depth else "")
            + "; try again later",
            depth=denied.depth,
            retry_after_seconds=self.speed.seconds_to_pass(self._clock.monotonic(), denied.depth + 1),
        )

    def call_all(self) -> None:
        """Let everybody ask again."""
        for waiter in self._waiters.values():
            waiter.call()

    def notice(self, events: Sequence[Event]) -> None:
        """For `Mirror.subscribed`: no events mean that Redis may be another one, which has another inbox."""
        if not events:
            self.rewind()

    def rewind(self) -> None:
        """Read wake-ups from the beginning again: it may be another inbox, behind the old one."""
        self._inbox = ORIGIN
        self._is_rewound = True

    async def run(self) -> None:
        """Read positions about once a second and wake-ups as they come, while anybody waits, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for read in (self._poll, self._read_inbox):
                group.create_task(self._keep_reading(read))

    async def _keep_reading(self, read: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(rng=self._rng)
        while True:
            await self._is_needed.wait()
            try:
                await read()
            except StoreError as error:  # the mirror says that Redis is away
                self.rewind()
                for waiter in list(self._waiters.values()):
                    waiter.cut_off(error)
                await self._clock.sleep(backoff.next_seconds())
            else:
                backoff.reset()

    async def _poll(self) -> None:
        await self._clock.sleep(POLL_SECONDS * (0.8 + 0.4 * self._rng.random()))
        asked = {lease_id: waiter for lease_id, waiter in self._waiters.items() if waiter.place is not None}
        if not asked:
            return
        depth, positions = await self._reader.positions(self._router, list(asked))
        # Who has left meanwhile is not to be kept informed.
        asked = {lease_id: waiter for lease_id, waiter in asked.items() if self._waiters.get(lease_id) is waiter}
        for lease_id, waiter in asked.items():
            position = positions.get(lease_id)
            if position is None:
                waiter.call()
            elif waiter.place is not None:
                waiter.move(Queued(waiter.place.sequence, position, depth))

    async def _read_inbox(self) -> None:
        self._is_rewound = False
        read, grants = await self._reader.wait_inbox(self._router, after=self._inbox, seconds=INBOX_SECONDS)
        if not self._is_rewound:
            self._inbox = read
        for lease_id, grant in grants.items():
            waiter = self._waiters.get(lease_id)
            if waiter is not None:
                waiter.serve(grant)
            elif not self._is_known(lease_id):
                self._on_orphaned_lease()
        await self._clock.sleep(0)  # whoever was served goes on before the next read is sent


async def _until_called(asker: Asker, request: SlotRequest, waiter: Waiter) -> None:
    while not waiter.is_called:
        if waiter.outage is not None and asker.can_place_alone(request):
            raise waiter.outage
        waiter.tell()
        await waiter.wait_news()


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
