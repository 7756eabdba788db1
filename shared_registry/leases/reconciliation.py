"""Makes Redis and this router agree on which leases the router holds, after anything that may have parted them.

What is held here and missing there is put back; what is there and nobody's here is released, also from the waiting
line. A task of its own, so that however long it takes, the router goes on sending heartbeats.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import StoreError, StoreRefused, StoreUnavailable
from shared_registry.leases.ledger import Ledger
from shared_registry.store.commands import Store
from shared_registry.store.reader import Reader

EVERY_SECONDS = 60.0
RESTORED_AT_ONCE = 500
RELEASED_AT_ONCE = 8
TRIES = 3
logger = logging.getLogger(__name__)


class Reconciler:
    """Compares when asked, and once a minute. One `run` at a time; `reconcile` may be awaited by anybody."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        ledger: Ledger,
        *,
        router: str,
        join: Callable[[], Awaitable[object]],
        affinity_seconds: float,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up.

        Args:
            store: Where leases are put back and released.
            reader: Where they are read.
            ledger: What this router holds.
            router: Its key.
            join: Makes it one of the live routers, without which it may hold nothing.
            affinity_seconds: How long a released session may find its replica again.
            clock: For waiting.
            rng: For jitter.
        """
        self._store = store
        self._reader = reader
        self._ledger = ledger
        self._router = router
        self._join = join
        self._affinity_seconds = affinity_seconds
        self._clock = clock
        self._backoff = Backoff(rng=rng)
        self._is_asked = asyncio.Event()
        self._is_in_doubt = False
        self._lock = asyncio.Lock()
        self._putting_back = asyncio.Lock()
        self._unheard: set[str] = set()
        self._recording: asyncio.Task[None] | None = None
        self._is_in_trouble = False

    def ask(self) -> None:
        """Let it compare soon."""
        self._is_in_doubt = True
        self._is_asked.set()

    def ask_to_end(self) -> None:
        """Let it tell Redis soon of what has ended here; nothing is in doubt."""
        self._is_asked.set()

    async def run(self) -> None:
        """Compare whenever asked, and once a minute, until cancelled."""
        due_at = self._clock.monotonic() + EVERY_SECONDS
        while True:
            await wait_until(self._clock, due_at, self._is_asked)
            is_due = self._clock.monotonic() >= due_at
            try:
                if is_due:
                    due_at = self._clock.monotonic() + EVERY_SECONDS
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
            StoreError: Redis could not be told all of it; to be repeated.
        """
        await self._catch_up(is_due=True)

    async def put_back(self) -> None:
        """Put back what is held here and missing in Redis, without waiting until the rest is in order.

        Raises:
            StoreError: Redis could not be told all of it; to be repeated.
        """
        self.ask()
        await self._put_back_missing()

    async def put_back_unrecorded(self) -> None:
        """Let Redis have what was placed without it, before it gives away the same slots. Callers share one attempt.

        Raises:
            StoreError: Redis could not be told.
        """
        for _ in range(TRIES):
            if not self._ledger.unrecorded:
                return
            if self._recording is None:
                self._recording = asyncio.ensure_future(self._put_back_all())
                self._recording.add_done_callback(self._end_recording)
            await asyncio.shield(self._recording)
        raise StoreUnavailable("more is placed without Redis than could be put back into it")

    def close(self) -> None:
        """End what callers share."""
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
        """Put back one by one what cannot be put back at once: one key of another type must not hold up the others."""
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
        """Compare where that is due, or anything is in doubt by now; else tell only of what has ended."""
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
        strangers = await self._put_back_missing()
        async for waiting in self._reader.waiters():
            own = [one.lease_id for one in waiting if one.router == self._router]
            strangers += [lease_id for lease_id in own if not self._ledger.knows(lease_id)]
        await self._release_all([*strangers, *self._ledger.ending])

    async def _put_back_missing(self) -> list[str]:
        """Put back what is missing; return the ids of leases that are nobody's."""
        async with self._putting_back:
            held = {lease_id: lease.replica.key for lease_id, lease in self._ledger.held.items()}
            there: dict[str, str] = {}
            strangers: list[str] = []
            async for page in self._reader.leases(self._router):
                there |= page
                strangers += [lease_id for lease_id in page if not self._ledger.knows(lease_id)]
            # What was put back without an answer may have taken a replica over its capacity, which is to be told.
            missing = [one for one, key in held.items() if there.get(one) != key or one in self._unheard]
            self._unheard.intersection_update(missing)
            self._ledger.confirm((one for one, key in held.items() if there.get(one) == key), not_there=())
            for chunk in _chunks(missing, RESTORED_AT_ONCE):
                await self._put_back(chunk)
            return strangers

    async def _put_back(self, lease_ids: Iterable[str]) -> None:
        leases = {one: self._ledger.held[one].replica.key for one in lease_ids if one in self._ledger.held}
        if not leases:
            return
        self._unheard.update(leases)
        restored = await self._store.restore_leases(leases)
        if restored is None:
            await self._join()
            restored = await self._store.restore_leases(leases)
        if restored is None:
            raise StoreUnavailable("this router is not among the live ones, although it has just sent a heartbeat")
        self._unheard.difference_update(leases)
        self._ledger.confirm(leases, not_there=restored.not_there)
        if restored.count:
            logger.warning("placement: put back %d leases that Redis did not have", restored.count)
        for url in restored.over_capacity:
            logger.warning("placement: %s has more sessions than its capacity after leases were put back", url)
        for lease_id in leases:
            if lease_id not in self._ledger.held:  # its release, begun meanwhile, may have come first
                await self._release(lease_id)

    async def _release_all(self, lease_ids: Iterable[str]) -> None:
        """Release some at a time: one by one, thousands that an outage has left would keep their slots for minutes.

        Raises:
            StoreError: Redis could not be told of all.
        """
        left = iter(lease_ids)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(RELEASED_AT_ONCE):
                    group.create_task(self._release_each(left))
        except* StoreError as errors:
            raise errors.exceptions[0] from None

    async def _release_each(self, lease_ids: Iterable[str]) -> None:
        for lease_id in lease_ids:
            # A slot that is given back here may be in use again, by a session that Redis does not know of yet.
            await self.put_back_unrecorded()
            await self._release(lease_id)

    async def _release(self, lease_id: str) -> None:
        await self._store.release(lease_id, affinity_seconds=self._affinity_seconds, is_recovery=True)
        self._ledger.end(lease_id)


def _chunks(items: list[str], size: int) -> Iterable[list[str]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
