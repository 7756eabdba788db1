"""An election over a lock that works as the one in Redis, through a connection that fails as the test says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shared_registry.errors import StoreUnavailable
from shared_registry.happenings import Emitter
from shared_registry.leader.election import MARGIN_SHARE, Election, LeaderLease, RunningTerm
from shared_registry.model import Event, EventKind, Leader
from shared_registry.store.replies import Elected, Held, Resignation
from tests.support.fake_clock import START, FakeClock

T = TypeVar("T")
LEASE = 4.0
RENEW = 1.0
BELIEF = LEASE * (1 - MARGIN_SHARE)
"""How long a leader believes in itself without a renewal."""
SIT_OUT = 3 * LEASE


def resigned(router: str = "b") -> Event:
    return Event("1-1", EventKind.LEADER_RESIGNED, 0.0, "0-0", router, 1)


def deposed(router: str = "a", sit_out_seconds: float | None = SIT_OUT) -> Event:
    """The event of a leader that an operator asked to step down."""
    return Event("1-1", EventKind.LEADER_RESIGNED, 0.0, "0-0", router, 1, by="ann", sit_out_seconds=sit_out_seconds)


@dataclass
class Lock:
    """The lock as Redis keeps it, on the test's clock. `is_last`: no router without a handicap could take over."""

    clock: FakeClock
    router: str = ""
    token: str = ""
    epoch: int = 0
    expires_at: float = 0.0
    elections: list[tuple[str, int]] = field(default_factory=list)
    is_last: bool = False

    @property
    def holder(self) -> str:
        """The token that leads, if any."""
        return self.token if self.clock.monotonic() < self.expires_at else ""

    def campaign(self, router: str, token: str, lease_seconds: float, seen_epoch: int) -> Elected | Held:
        if self.holder not in ("", token):
            return Held(Leader(self.router, self.epoch, 0.0), self.expires_at - self.clock.monotonic())
        if self.holder == "":
            self.router, self.token, self.epoch = router, token, max(self.epoch, seen_epoch) + 1
            self.elections.append((router, self.epoch))
        self.expires_at = self.clock.monotonic() + lease_seconds
        return Elected(self.epoch)

    def renew(self, token: str, lease_seconds: float) -> bool:
        if self.holder != token:
            return False
        self.expires_at = self.clock.monotonic() + lease_seconds
        return True

    def resign(self, token: str, handicap_seconds: float = 0.0) -> Resignation:
        if self.holder != token:
            return Resignation.LOST
        if handicap_seconds and self.is_last:
            return Resignation.NEEDED
        self.expires_at = 0.0
        return Resignation.RESIGNED

    def seize(self) -> None:
        """Let somebody else lead, as after a failover that lost the lock."""
        self.router, self.token, self.epoch = "other", "other's", self.epoch + 1
        self.expires_at = self.clock.monotonic() + LEASE


class Connection:
    """One router's way to the lock, which fails as the test says. `calls`: when, what, with which token."""

    def __init__(self, lock: Lock, router: str) -> None:
        self.lock = lock
        self.router = router
        self.calls: list[tuple[float, str, str]] = []
        self.reasons: list[str] = []
        self.error: Exception | None = None
        self.is_hanging = False
        self.hang_seconds = 1e6
        self.loses_replies = False
        self.delay_before = 0.0
        self.delay_after = 0.0

    async def campaign(self, token: str, *, lease_seconds: float, seen_epoch: int) -> Elected | Held:
        return await self._call(
            "campaign", token, lambda: self.lock.campaign(self.router, token, lease_seconds, seen_epoch)
        )

    async def renew(self, token: str, *, lease_seconds: float) -> bool:
        return await self._call("renew", token, lambda: self.lock.renew(token, lease_seconds))

    async def resign(self, token: str, *, reason: str = "", handicap_seconds: float = 0.0) -> Resignation:
        self.reasons.append(reason)
        return await self._call("resign", token, lambda: self.lock.resign(token, handicap_seconds))

    def times(self, verb: str) -> list[float]:
        return [at - START for at, called, _ in self.calls if called == verb]

    def tokens(self, verb: str) -> list[str]:
        return [token for _, called, token in self.calls if called == verb]

    async def _call(self, verb: str, token: str, execute: Callable[[], T]) -> T:
        clock = self.lock.clock
        self.calls.append((clock.monotonic(), verb, token))
        await clock.sleep(self.delay_before)
        if self.is_hanging:
            await clock.sleep(self.hang_seconds)
            raise StoreUnavailable("no answer")
        if self.error is not None:
            raise self.error
        outcome = execute()
        await clock.sleep(self.delay_after)
        if self.loses_replies:
            raise StoreUnavailable("no answer")
        return outcome


class Router:
    """An election under test, and what its `lead` did."""

    def __init__(self, lock: Lock, name: str = "a", *, seen_epoch: int = 0, seed: int = 1) -> None:
        self.clock = lock.clock
        self.store = Connection(lock, name)
        self.terms: list[RunningTerm] = []
        self._is_leader = False
        self.ended_at: float | None = None
        self.work: Callable[[RunningTerm], Coroutine[Any, Any, None]] = self._until_cancelled
        self.emitter = Emitter()
        self.election = Election(
            self.store,
            router=name,
            lead=self._run_term,
            lease=LeaderLease(LEASE, RENEW),
            seen_epoch=lambda: seen_epoch,
            emitter=self.emitter,
            clock=self.clock,
            rng=random.Random(seed),
        )
        self.task: asyncio.Task[None] | None = None

    def is_leader(self) -> bool:
        return self._is_leader

    async def start(self) -> None:
        self.task = asyncio.ensure_future(self.election.run())
        await self.clock.settle()

    def cancel(self) -> None:
        assert self.task is not None
        self.task.cancel()

    async def stop(self) -> None:
        self.store.is_hanging = False
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await self.clock.run_until(self.task.done)

    async def _run_term(self, term: RunningTerm) -> None:
        self.terms.append(term)
        self._is_leader = True
        try:
            await self.work(term)
        finally:
            self._is_leader = False
            self.ended_at = self.clock.monotonic() - START

    async def _until_cancelled(self, term: RunningTerm) -> None:
        await self.clock.sleep(1e6)
