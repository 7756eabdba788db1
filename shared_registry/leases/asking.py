"""Asking Redis for a slot, and waiting in line for it until there is one or time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from shared_registry.aio.clock import Clock, call_at
from shared_registry.aio.completion import completed
from shared_registry.errors import StoreUnavailable
from shared_registry.leases.queue import POLL_SECONDS, Line, Waiter
from shared_registry.leases.recovery import Recovery
from shared_registry.store.commands import Store
from shared_registry.store.lane import Busy
from shared_registry.store.replies import Denial, Denied, Grant, Place

T = TypeVar("T")
TRIES_TO_JOIN = 3
LAST_CALL_SECONDS = 1.0
"""How long a session whose time is up may wait for its turn to ask for the last time."""
OnPosition = Callable[[int, int], None]
"""Told position and depth, both from 1. Must not block; what it raises ends the waiting."""
OnSent = Callable[[], None]


@dataclass(slots=True)
class SlotRequest:
    """One session that asks for a slot.

    Attributes:
        lease_id: By which it asks again.
        avoided: Canonical urls taken only where there is nothing else.
        excluded: Canonical urls never taken, unless after waiting in line.
        closings: How often the registry had been stopped when it asked first.
        sequence: Of its place in the waiting line, once it has one.
        is_in_doubt: It was asked for, and the answer has not come.
    """

    lease_id: str
    avoided: Collection[str]
    excluded: Collection[str]
    closings: int
    sequence: str = ""
    is_in_doubt: bool = False


Ask = Callable[[SlotRequest, Collection[str], float | None, OnSent], Awaitable[T]]
"""Takes for whom, the replicas that are left to others, the patience, and what is called as the question goes out."""


class Asker:
    """Asks for one router. Safe for concurrent use within an event loop."""

    def __init__(
        self,
        store: Store,
        line: Line,
        recovery: Recovery,
        *,
        max_queue: int,
        on_sent: Callable[[SlotRequest], None],
        expect_open: Callable[[SlotRequest], None],
        can_place_alone: Callable[[SlotRequest], bool],
        clock: Clock,
    ) -> None:
        """Set up.

        Args:
            store: Whom to ask.
            line: What keeps those informed who wait.
            recovery: What brings Redis in line with this router before a question.
            max_queue: Join the line unless it is that long.
            on_sent: Called before Redis can have heard of a request.
            expect_open: Raises where the registry was stopped since the request.
            can_place_alone: Whether this router may place the session without Redis.
            clock: For deadlines.
        """
        self._store = store
        self._line = line
        self._recovery = recovery
        self._max_queue = max_queue
        self._on_sent = on_sent
        self._expect_open = expect_open
        self._can_place_alone = can_place_alone
        self._clock = clock

    async def ask(self, request: SlotRequest, *, patience_seconds: float | None = None) -> Grant | Denied:
        """Ask once. If the session waited, it does no longer.

        Args:
            request: For whom.
            patience_seconds: How long to wait for its turn; `None` for as long as Redis answers.

        Raises:
            Busy: Its turn did not come in time.
            StoreUnavailable: Redis did not answer in time, or does not let this router join.
        """
        return await self._as_member(self._take, request, patience_seconds)

    async def wait(self, request: SlotRequest, *, deadline: float, on_position: OnPosition | None) -> Grant | Denied:
        """Ask until there is a slot, or nothing to wait for, and at the deadline for the last time.

        Who stands in line stays there while Redis is away, unless this router can place it by itself.

        Args:
            request: For whom.
            deadline: On the monotonic clock.
            on_position: Told where the session stands: first at once, then when that has changed.

        Raises:
            Busy: Its turn to ask did not come in time.
            StoreUnavailable: Redis does not answer, at first or at the end.
        """
        tell = _on_change(on_position)
        with self._line.standing(request.lease_id) as waiter:
            while waiter.grant is None and self._clock.monotonic() < deadline:
                waiter.is_called = False
                try:
                    answer = await self._as_member(self._queue, request, deadline - self._clock.monotonic())
                except Busy:
                    if waiter.place is None:
                        raise
                    continue
                except StoreUnavailable:
                    if waiter.place is None or self._can_place_alone(request):
                        raise
                    await self._pause(request, deadline)
                    continue
                if isinstance(answer, Grant):
                    waiter.grant = answer
                elif isinstance(answer, Place):
                    request.sequence = answer.sequence
                    waiter.move(answer)
                    with call_at(self._clock, deadline, waiter.call):
                        await self._until_called(request, waiter, tell)
                    self._expect_open(request)
                elif answer.why is Denial.EXCLUDED:
                    # Others than it wants have room, so that there is no line for it to stand in.
                    await self._pause(request, deadline)
                else:
                    return answer
            return waiter.grant or await self._ask_last(request, waiter)

    async def _ask_last(self, request: SlotRequest, waiter: Waiter) -> Grant | Denied:
        try:
            answer = await self.ask(request, patience_seconds=LAST_CALL_SECONDS)
        except Busy:
            if waiter.grant is None:
                raise
            return waiter.grant
        if isinstance(answer, Grant):
            waiter.grant = answer
        return answer

    async def _take(
        self, request: SlotRequest, spared: Collection[str], patience_seconds: float | None, on_sent: OnSent
    ) -> Grant | Denied:
        return await self._store.acquire(
            request.lease_id,
            avoided=request.avoided,
            excluded={*request.excluded, *spared} if spared else request.excluded,
            patience_seconds=patience_seconds,
            on_sent=on_sent,
        )

    async def _queue(
        self, request: SlotRequest, spared: Collection[str], patience_seconds: float | None, on_sent: OnSent
    ) -> Grant | Place | Denied:
        return await self._store.wait(
            request.lease_id,
            max_queue=self._max_queue,
            sequence=request.sequence,
            avoided=request.avoided,
            excluded={*request.excluded, *spared} if spared else request.excluded,
            patience_seconds=patience_seconds,
            on_sent=on_sent,
        )

    async def _as_member(self, ask: Ask[T], request: SlotRequest, patience_seconds: float | None) -> T:
        """Return the answer to who is among the live routers, joining them as needed."""
        for _ in range(TRIES_TO_JOIN):
            spared = await _within(patience_seconds, self._recovery.catch_up())
            answer = await self._hear(ask, request, spared, patience_seconds)
            if not _is_not_registered(answer):
                return answer
            self._expect_open(request)
            # Others took us for dead, or history was lost: what is still held here counts before anything new.
            await _within(patience_seconds, self._recovery.rejoin())
        raise StoreUnavailable("this router is not among the live ones, although it has just beaten")

    async def _hear(
        self, ask: Ask[T], request: SlotRequest, spared: Collection[str], patience_seconds: float | None
    ) -> T:
        """Ask, and hear the answer even where the caller is cancelled; where it is before its turn, do not ask."""
        is_sent = False

        def on_sent() -> None:
            nonlocal is_sent
            self._expect_open(request)
            is_sent = request.is_in_doubt = True
            self._on_sent(request)

        async def answer_to() -> T:
            answer = await ask(request, spared, patience_seconds, on_sent)
            if not _is_not_registered(answer):
                request.is_in_doubt = False
            return answer

        return await completed(answer_to(), is_begun=lambda: is_sent)

    async def _until_called(self, request: SlotRequest, waiter: Waiter, tell: OnPosition) -> None:
        while not waiter.is_called:
            if waiter.outage is not None and self._can_place_alone(request):
                raise waiter.outage
            if waiter.place is not None:
                tell(waiter.place.position, waiter.place.depth)
            await waiter.wait_news()

    async def _pause(self, request: SlotRequest, deadline: float) -> None:
        await self._clock.sleep(min(POLL_SECONDS, deadline - self._clock.monotonic()))
        self._expect_open(request)


async def _within(patience_seconds: float | None, work: Awaitable[T]) -> T:
    """Await what has to come before a question.

    Raises:
        Busy: It took longer.
    """
    try:
        async with asyncio.timeout(patience_seconds):
            return await work
    except TimeoutError:
        raise Busy("this router has not come back among the live ones in time") from None


def _is_not_registered(answer: object) -> bool:
    return isinstance(answer, Denied) and answer.why is Denial.NOT_REGISTERED


def _on_change(on_position: OnPosition | None) -> OnPosition:
    """Return what passes on where a session stands, unless that is what it said last."""
    said: tuple[int, int] | None = None

    def tell(position: int, depth: int) -> None:
        nonlocal said
        if on_position is not None and said != (position, depth):
            said = position, depth
            on_position(position, depth)

    return tell
