"""This router's sessions in the queue: who they are, where they stand, and when to ask for them again.

The line itself is in Redis, and so is every decision. A slot that is given to who waits comes through the router's
inbox; where that is lost, the next look at the positions, within about a second, shows that asking again is worthwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock
from shared_registry.errors import StoreError
from shared_registry.leases.speed import LineSpeed
from shared_registry.model import ORIGIN
from shared_registry.store.reader import Reader
from shared_registry.store.replies import Grant, Queued

POLL_SECONDS = 1.0
INBOX_SECONDS = 1.0


class Waiter:
    """One session in the line.

    Attributes:
        place: Where it stands, as last heard; `None` before it has a place.
        grant: The slot that it was given, as far as it was heard of.
        is_called: Asking for it again is worthwhile: the line does not have it, or time is up.
        outage: Why Redis could not be asked where it stands, the last time.
    """

    __slots__ = ("_news", "_on_look", "grant", "is_called", "outage", "place")

    def __init__(self, on_look: Callable[[int], None]) -> None:
        """Set up; `on_look` is called with the position whenever that was looked at."""
        self.place: Queued | None = None
        self.grant: Grant | None = None
        self.is_called = False
        self.outage: StoreError | None = None
        self._on_look = on_look
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
    def standing(self, lease_id: str) -> Iterator[Waiter]:
        """Keep a session informed for as long as this is open. Open it before it asks, so that no wake-up is missed."""

        def look(position: int) -> None:
            self._is_needed.set()
            self.speed.see(self._clock.monotonic(), lease_id, position)

        waiter = self._waiters[lease_id] = Waiter(look)
        try:
            yield waiter
        finally:
            del self._waiters[lease_id]
            if waiter.grant is not None and waiter.place is not None:
                look(0)
            self.speed.forget(lease_id)
            if not self._waiters:
                self._is_needed.clear()

    def call_all(self) -> None:
        """Let everybody ask again."""
        for waiter in self._waiters.values():
            waiter.call()

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
