"""Leases and replicas made up for tests, and a store that keeps one router's leases as Redis would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import cast

from shared_registry.errors import StoreError
from shared_registry.leases.lease import HeldLease
from shared_registry.leases.ledger import Ledger
from shared_registry.model import Event, Replica, ReplicaEndpoint
from shared_registry.store.commands import Store
from shared_registry.store.lease_reader import Waiting
from shared_registry.store.reader import Reader
from shared_registry.store.replies import Restored

A, B, C = (f"http://10.0.0.{number}:8000" for number in (1, 2, 3))


def a_lease(lease_id: str, url: str = A, *, is_degraded: bool = False) -> HeldLease:
    replica = Replica(ReplicaEndpoint(url))
    return HeldLease(lease_id, replica, "1-0", is_degraded=is_degraded)


def hold(ledger: Ledger, lease_id: str, url: str = A, *, is_degraded: bool = False) -> HeldLease:
    """Go through what acquiring does to a ledger."""
    ledger.ask(lease_id)
    lease = a_lease(lease_id, url, is_degraded=is_degraded)
    ledger.hold(lease)
    return lease


class ScriptedStore:
    """One router's leases, and the calls that were made; fails as the test says.

    Attributes:
        leases: What Redis has.
        waiting: Router and lease id of who waits.
        unknown: Urls of replicas that are not there.
        full: Urls of replicas that anything put back takes over their capacity.
        errors: What the next calls of a name raise, first come first.
        answers_are_lost: Leases are put back, and nobody hears of it.
    """

    def __init__(self) -> None:
        self.leases: dict[str, str] = {}
        self.waiting: list[tuple[str, str]] = []
        self.unknown: set[str] = set()
        self.full: set[str] = set()
        self.is_registered = True
        self.joins = 0
        self.calls: list[str] = []
        self.restored: list[dict[str, str]] = []
        self.were_lost: list[bool] = []
        self.released: list[str] = []
        self.errors: dict[str, list[StoreError]] = {}
        self.answers_are_lost = False
        self.page_size = 2

    def as_store(self) -> Store:
        return cast("Store", self)

    async def join(self) -> None:
        self._begin("join")
        self.joins += 1
        self.is_registered = True

    async def during(self, call: str) -> None:
        """Do what happens while a call is under way; for a test to replace."""

    async def leases_of(self, router: str) -> AsyncIterator[dict[str, str]]:
        assert router == "r~1"
        self._begin("leases")
        left = list(self.leases.items())
        while left:
            page, left = dict(left[: self.page_size]), left[self.page_size :]
            yield page
            await self.during("leases")

    async def restore_leases(self, leases: Mapping[str, str], *, is_lost: bool = False) -> Restored | None:
        self._begin("restore_leases")
        self.were_lost.append(is_lost)
        self.restored.append(dict(leases))
        if not self.is_registered:
            return None
        there = {one: url for one, url in leases.items() if url not in self.unknown}
        count = sum(self.leases.get(one) != url for one, url in there.items())
        await self.during("restore_leases")
        self.leases |= there
        if self.answers_are_lost:
            raise StoreError("lost")
        over = sorted({url for url in there.values() if url in self.full})
        return Restored(count, over, sorted(set(leases.values()) & self.unknown))

    async def release(self, lease_id: str, *, affinity_seconds: float, is_recovery: bool) -> list[Event]:
        assert affinity_seconds == 60.0
        assert is_recovery
        self._begin("release")
        await self.during("release")
        self.released.append(lease_id)
        self.leases.pop(lease_id, None)
        self.waiting = [waiter for waiter in self.waiting if waiter != ("r~1", lease_id)]
        return []

    def _begin(self, call: str) -> None:
        self.calls.append(call)
        if self.errors.get(call):
            raise self.errors[call].pop(0)


class ScriptedReader:
    """Reads a `ScriptedStore`."""

    def __init__(self, store: ScriptedStore) -> None:
        self._store = store

    def leases(self, router: str) -> AsyncIterator[dict[str, str]]:
        return self._store.leases_of(router)

    async def waiters(self) -> AsyncIterator[list[Waiting]]:
        yield [Waiting(router, lease_id, 1.0) for router, lease_id in self._store.waiting]

    def as_reader(self) -> Reader:
        return cast("Reader", self)
