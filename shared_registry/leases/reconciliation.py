"""Makes Redis and this router agree on the router's leases, after anything that may have separated the two.

A lease that the router holds and Redis lacks is put back. An orphaned lease, which Redis has and the router does not
know, is released. An unknown waiter leaves the queue. Reconciliation runs in a task of its own, so that the router goes
on sending heartbeats however long it takes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import KeyConflict, StoreError, StoreRefused, StoreUnavailable
from shared_registry.leases.lease_news import LeaseNews
from shared_registry.leases.ledger import MOVES, Ledger
from shared_registry.store.commands import Store
from shared_registry.store.reader import Reader

EVERY_SECONDS = 60.0
AFTER_MOVE_SECONDS = 3.0
RESTORED_AT_ONCE = 40
RELEASED_AT_ONCE = 8
TRIES = 3
logger = logging.getLogger(__name__)


class Member(NamedTuple):
    """This router among the live ones.

    Attributes:
        router: This router's key.
        join: Sends a heartbeat, by which this router joins the live routers. Only a live router may hold leases.
    """

    router: str
    join: Callable[[], Awaitable[object]]


class Reconciler:
    """Compares Redis with the ledger when asked, after a move to another server, and once a minute.

    Only one `run` at a time; `reconcile` may be called concurrently.

    Attributes:
        inherit: Called with the id and the canonical url of each orphaned lease that may move. It has come from a
            router that is gone, and is not released.
        move_away: Called with the id of each lease that has moved to another router.
    """

    inherit: Callable[[str, str], Awaitable[None]]
    move_away: Callable[[str], None]

    def __init__(
        self,
        store: Store,
        reader: Reader,
        ledger: Ledger,
        news: LeaseNews,
        member: Member,
        *,
        affinity_seconds: float,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; nothing is sent yet.

        Args:
            store: Puts back and releases leases.
            reader: Reads leases.
            ledger: Records this router's leases.
            news: Reports what was put back, and what was released.
            member: This router among the live ones.
            affinity_seconds: How long after its release a session may still return to its replica.
            clock: Used for waits.
            rng: Used for jitter.
        """
        self._store = store
        self._reader = reader
        self._ledger = ledger
        self._router, self._join = member
        self._affinity_seconds = affinity_seconds
        self._news = news
        self._clock = clock
        self._backoff = Backoff(rng=rng)
        self._is_asked = asyncio.Event()
        self._is_in_doubt = False
        self._due_at = math.inf
        self._lock = asyncio.Lock()
        self._putting_back = asyncio.Lock()
        self._unanswered: set[str] = set()
        self._orphaned: dict[str, str] = {}
        self._was_reaped = False
        self._recording: asyncio.Task[None] | None = None
        self._is_in_trouble = False

    def missing(self) -> dict[str, str]:
        """Return the held leases that Redis does not have, as far as this router knows: canonical url by id."""
        return self._ledger.missing()

    def ask(self) -> None:
        """Ask for a comparison soon."""
        self._is_in_doubt = True
        self._is_asked.set()

    def note_reaped(self) -> None:
        """Compare soon: other routers ended this router's leases, because it sent no heartbeat. Redis lost nothing."""
        self._was_reaped = True
        self.ask()

    def note_departure(self, reaper: str) -> None:
        """Compare soon if this router may have inherited leases of one that is gone.

        The number of leases in a heartbeat does not show it while sessions wait here: it counts for one that was just
        given a slot.

        Args:
            reaper: The router that has reaped it, and inherits; empty if it has left, and any other one may inherit.
        """
        if reaper in ("", self._router):
            self.ask()

    def note_move(self) -> None:
        """Compare soon, and once more when calls to the former server have ended. See `Failover.on_moved`.

        No count would show the difference: a lease whose release was lost, and a waiter, count alike.
        """
        self._due_at = min(self._due_at, self._clock.monotonic() + AFTER_MOVE_SECONDS)
        self.ask()

    def ask_to_end(self) -> None:
        """Ask that the releases of ended leases are sent soon, without a comparison."""
        self._is_asked.set()

    async def run(self) -> None:
        """Compare when asked, and once a minute, until cancelled."""
        self._due_at = self._clock.monotonic() + EVERY_SECONDS
        while True:
            await wait_until(self._clock, self._due_at, self._is_asked)
            is_due = self._clock.monotonic() >= self._due_at
            try:
                if is_due:
                    self._due_at = self._clock.monotonic() + EVERY_SECONDS
                await self._catch_up(is_due=is_due)
            except StoreError as error:
                if not self._is_in_trouble:
                    self._is_in_trouble = True
                    logger.warning("placement: leases cannot be compared: %s", error)
                await self._clock.sleep(self._backoff.next_seconds())
            else:
                self._is_in_trouble = False
                self._backoff.reset()

    async def reconcile(self) -> None:
        """Compare once.

        Raises:
            StoreError: Not every change could be written to Redis; the call is to be repeated.
        """
        await self._catch_up(is_due=True)

    async def put_back(self) -> None:
        """Put back the held leases that Redis lacks, without waiting for the rest of the comparison.

        Raises:
            StoreError: Not every lease could be written to Redis; the call is to be repeated.
        """
        self.ask()
        await self._put_back_missing()

    async def put_back_unrecorded(self) -> None:
        """Put back the sessions that were placed without Redis, before Redis grants the same slots.

        Concurrent callers share one attempt.

        Raises:
            StoreError: The leases could not be written to Redis.
        """
        for _ in range(TRIES):
            if not self._ledger.unrecorded:
                return
            if self._recording is None:
                self._recording = asyncio.ensure_future(self._put_back_all())
                self._recording.add_done_callback(self._end_recording)
            await asyncio.shield(self._recording)
        raise StoreUnavailable("this router places sessions without Redis faster than it can put them back")

    def close(self) -> None:
        """End the attempt that callers share."""
        if self._recording is not None:
            self._recording.cancel()

    async def _put_back_all(self) -> None:
        for chunk in _chunks(list(self._ledger.unrecorded), RESTORED_AT_ONCE):
            try:
                await self._put_back(chunk)
            except (StoreUnavailable, StoreRefused):
                raise
            except StoreError:
                await self._put_back_each(chunk)

    async def _put_back_each(self, lease_ids: Iterable[str]) -> None:
        """Put back leases one by one after they could not be put back together.

        One key of a wrong type must not keep the other leases from being put back.
        """
        for lease_id in lease_ids:
            try:
                await self._put_back([lease_id])
            except (StoreUnavailable, StoreRefused):
                raise
            except StoreError:
                self._ledger.put_off(lease_id)
                self.ask()

    def _end_recording(self, task: asyncio.Task[None]) -> None:
        self._recording = None
        if not task.cancelled():
            task.exception()

    async def _catch_up(self, *, is_due: bool) -> None:
        """Compare if that is due or was asked for; otherwise only send the releases of ended leases."""
        async with self._lock:
            compares = is_due or self._is_in_doubt
            self._is_asked.clear()
            self._is_in_doubt = False
            try:
                if compares:
                    await self._compare()
                else:
                    await self._release_all(self._ledger.ending)
            except BaseException:
                self._is_in_doubt = self._is_in_doubt or compares
                self._is_asked.set()
                raise

    async def _compare(self) -> None:
        orphaned = await self._put_back_missing()
        async for waiting in self._reader.waiters():
            own_waiters = [one.lease_id for one in waiting if one.router == self._router]
            orphaned += [lease_id for lease_id in own_waiters if not self._ledger.knows(lease_id)]
        await self._release_all([*orphaned, *self._ledger.ending])

    async def _put_back_missing(self) -> list[str]:
        """Put back the leases that Redis lacks; return the ids of orphaned leases."""
        async with self._putting_back:
            held = {lease_id: lease.replica.key for lease_id, lease in self._ledger.held.items()}
            there: dict[str, str] = {}
            orphaned: dict[str, str] = {}
            async for page in self._reader.leases(self._router):
                there |= page
                orphaned |= {one: key for one, key in page.items() if not self._ledger.knows(one)}
            # A lease that was put back without an answer may have taken its replica over capacity. Put it back again,
            # because the answer reports that.
            missing = [one for one, key in held.items() if there.get(one) != key or one in self._unanswered]
            self._unanswered.intersection_update(missing)
            # Leases that were placed without Redis, or ended because this router was silent, are no loss.
            is_lost = not self._was_reaped and not self._ledger.unconfirmed.issuperset(missing)
            self._ledger.confirm((one for one, key in held.items() if there.get(one) == key), not_there=())
            for chunk in _chunks(missing, RESTORED_AT_ONCE):
                await self._put_back(chunk, is_lost=is_lost)
            self._was_reaped = False
            for lease_id in [one for one in orphaned if MOVES in one]:
                await self.inherit(lease_id, orphaned.pop(lease_id))
            self._orphaned = orphaned
            return list(orphaned)

    async def _put_back(self, lease_ids: Iterable[str], *, is_lost: bool = False) -> None:
        leases = {one: self._ledger.held[one].replica.key for one in lease_ids if one in self._ledger.held}
        if not leases:
            return
        self._unanswered.update(leases)
        restored = await self._store.restore_leases(leases, is_lost=is_lost)
        if restored is None:
            await self._join()
            restored = await self._store.restore_leases(leases)
        if restored is None:
            raise StoreUnavailable("this router is not among the live ones, although it has just sent a heartbeat")
        self._unanswered.difference_update(leases)
        self._ledger.confirm(leases, not_there=restored.not_there)
        self._ledger.contest(leases, over_capacity=restored.over_capacity)
        for lease_id in restored.moved:
            self.move_away(lease_id)
            leases.pop(lease_id, None)
        if restored.count:
            logger.warning("placement: put back %d leases that Redis did not have", restored.count)
            if self._news.emitter.has_listeners:
                self._news.put_back(restored)
        for url in restored.over_capacity:
            text = "placement: %s has more sessions than its capacity after leases were put back"
            logger.warning(text, url, extra={"replica": url})
        for lease_id in leases:
            if lease_id not in self._ledger.held:  # a release that began meanwhile may have reached Redis before this
                await self._release(lease_id)

    async def _release_all(self, lease_ids: Iterable[str]) -> None:
        """Release several leases at a time.

        One by one, the thousands of leases that an outage can leave would keep their slots for minutes. A damaged
        key of one session does not keep the others' slots.

        Raises:
            StoreError: Not every lease could be released.
        """
        left, conflicts = iter(lease_ids), list[KeyConflict]()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(RELEASED_AT_ONCE):
                    group.create_task(self._release_each(left, conflicts))
        except* StoreError as errors:
            raise errors.exceptions[0] from None
        if conflicts:
            raise conflicts[0]

    async def _release_each(self, lease_ids: Iterable[str], conflicts: list[KeyConflict]) -> None:
        for lease_id in lease_ids:
            # The slot that is released here may be in use again by a session that Redis has not recorded yet.
            await self.put_back_unrecorded()
            try:
                await self._release(lease_id)
            except KeyConflict as error:
                conflicts.append(error)

    async def _release(self, lease_id: str) -> None:
        await self._store.release(lease_id, affinity_seconds=self._affinity_seconds, is_recovery=True)
        self._ledger.end(lease_id)
        key = self._orphaned.pop(lease_id, None)
        if key is not None and self._news.emitter.has_listeners:
            self._news.reconciled(lease_id, key)


def _chunks(items: list[str], size: int) -> Iterable[list[str]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
