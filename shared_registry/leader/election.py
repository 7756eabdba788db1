"""Leader election by a lease in Redis: campaign, renew, resign.

Promised: each epoch has one leader, and epochs rise. A leader stops acting as the leader before its lease can have
ended on the server, as long as the local clock and the server's clock run at nearly the same rate. A tenth of the lease
is kept as margin.

Not promised: that only one router takes itself for the leader at every moment. During a pause of a process two may.
That is why every write of a leader carries its token and epoch. Redis compares them within the same command.

A router that is not the leader campaigns when the leader's lease can have ended. The replies to its heartbeats tell it
of renewals (`hear_of_lease`), so that it need not campaign to learn of them. Without them it campaigns once a lease.

A leader that an operator asks to step down loses its lease in Redis at once. It learns of that from the event stream.
It then stops leading, and does not campaign again for the time that the event names, so that another router can take
over. This is a courtesy and not a lock: a router that misses the event campaigns as after any lost lease.

A leader that is unfit to probe resigns by itself (`StandAside`). It then has a handicap for some time: it campaigns one
lease after each vacancy, so that any other router comes first. The handicap is not a ban. If no other router campaigns,
the router becomes the leader again, as a last resort. It does not resign for such a reason before its handicap is over.
If no router without a handicap could take over, Redis refuses the resignation, and the term goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, finish_by, wait_until
from shared_registry.aio.completion import completed
from shared_registry.errors import Fenced, StoreError
from shared_registry.happenings import Emitter, TermBegan, TermEnd, TermEnded
from shared_registry.model import Event, EventKind, Term
from shared_registry.store.answers import new_token
from shared_registry.store.replies import Elected, Held, Resignation

MARGIN_SHARE = 0.1
JITTER_SECONDS = 0.05
HANDICAP_LEASES = 10
"""How long a router that stood aside lets other routers campaign first, in leases."""
logger = logging.getLogger(__name__)


class LeaseStore(Protocol):
    """The part of the store that an election uses."""

    async def campaign(self, token: str, *, lease_seconds: float, seen_epoch: int) -> Elected | Held:
        """Campaign for leader."""

    async def renew(self, token: str, *, lease_seconds: float) -> bool:
        """Extend the lease."""

    async def resign(self, token: str, *, reason: str = "", handicap_seconds: float = 0.0) -> Resignation:
        """End the lease; the reason, if given, goes into the event. With a handicap only if another can lead."""


class LeaderLease(NamedTuple):
    """The lease that a candidate asks for.

    Attributes:
        seconds: How long a leader that no longer renews its lease still counts as the leader.
        renew_interval_seconds: How often the lease is renewed; under half of the lease.
    """

    seconds: float
    renew_interval_seconds: float


class StandAside(Exception):
    """Raised by a leader's work if another router should be the leader. Its text is the reason.

    Attributes:
        is_contradicted: Whether the reason is that other routers reach replicas that this one does not.
    """

    def __init__(self, reason: str, *, is_contradicted: bool = False) -> None:
        super().__init__(reason)
        self.is_contradicted = is_contradicted


@dataclass
class RunningTerm(Term):
    """A term of this router.

    Attributes:
        deadline: The time on the monotonic clock after which the leader must not act.
        clock: The monotonic clock.
        handicap_until: The time on the monotonic clock until which this router leads only because no other router
            campaigned.
        batch: The number of the last batch of probe results in this term.
    """

    deadline: float
    clock: Clock
    handicap_until: float = -math.inf
    batch: int = 0

    @property
    def is_current(self) -> bool:
        """Whether the leader may still act."""
        return self.clock.monotonic() < self.deadline

    @property
    def is_last_resort(self) -> bool:
        """Whether the leader has stood aside lately, and no other router took over."""
        return self.clock.monotonic() < self.handicap_until


class Election:
    """Campaigns for leader repeatedly, and runs `lead` during each term. Only one `run` at a time."""

    def __init__(
        self,
        store: LeaseStore,
        *,
        router: str,
        lead: Callable[[RunningTerm], Awaitable[None]],
        lease: LeaderLease,
        seen_epoch: Callable[[], int],
        emitter: Emitter,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; nothing is sent before `run`.

        Args:
            store: Holds the lease.
            router: This router's key.
            lead: Runs as a task during a term. It is cancelled when the term ends, and may then use a bounded time to
                finish. When it returns or raises, the leader resigns. If it raises `StandAside`, other routers campaign
                first for some time.
            lease: The lease to ask for.
            seen_epoch: Returns the highest epoch that this router knows.
            emitter: Delivers how terms begin and end.
            clock: Used for deadlines and waits.
            rng: Used for jitter.
        """
        self._store = store
        self._router = router
        self._lead = lead
        self._lease_seconds, self._renew_interval_seconds = lease
        self._emitter = emitter
        self._seen_epoch = seen_epoch
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(rng=rng)
        self._vacancy = asyncio.Event()
        self._deposition = asyncio.Event()
        self._sits_out_until = -math.inf
        self._handicap_until = -math.inf
        self._leased_until = -math.inf
        self._term: RunningTerm | None = None
        self._highest_epoch = 0
        self._is_in_trouble = False

    @property
    def term(self) -> RunningTerm | None:
        """The current term; `None` while this router is not the leader."""
        return self._term if self._term is not None and self._term.is_current else None

    def notice(self, events: Sequence[Event]) -> None:
        """Campaign at once when the leader has resigned; stop leading if this router was asked to step down.

        For `Mirror.subscribed`.
        """
        for event in events:
            if event.kind is EventKind.LEADER_RESIGNED:
                self._vacancy.set()
                if event.router == self._router and event.sit_out_seconds is not None:
                    self._step_down(event, event.sit_out_seconds)

    def hear_of_lease(self, remaining_seconds: float) -> None:
        """Take note of how much time the lease of the leader has left, whoever that is.

        A lease that is longer than this router's own does not count: the server's clock may have been set back, which
        only a campaign mends.
        """
        if remaining_seconds <= self._lease_seconds:
            self._leased_until = self._clock.monotonic() + remaining_seconds

    @property
    def _is_sitting_out(self) -> bool:
        return self._clock.monotonic() < self._sits_out_until

    def _step_down(self, event: Event, seconds: float) -> None:
        now = self._clock.monotonic()
        self._sits_out_until = now + seconds
        if self._term is not None:
            self._term.deadline = min(self._term.deadline, now)
        self._deposition.set()
        extra = {"epoch": event.epoch}
        logger.info("leader: stepping down for %s, sitting out %g s", event.by or "somebody", seconds, extra=extra)

    async def run(self) -> None:
        """Take part in elections until cancelled; then finish an outstanding campaign, and resign."""
        while True:
            await self._serve(await self._win())

    async def _win(self) -> RunningTerm:
        """Campaign with one token until elected."""
        token = new_token()
        attempt: asyncio.Future[Elected | Held] | None = None
        try:
            while True:
                await self._let_others_stand_first()
                while self._is_sitting_out:
                    await self._clock.sleep(self._sits_out_until - self._clock.monotonic())
                self._vacancy.clear()
                asked_at = self._clock.monotonic()
                attempt = asyncio.ensure_future(self._campaign(token))
                try:
                    outcome = await asyncio.shield(attempt)
                except StoreError as error:
                    self._report_trouble(error)
                    await self._clock.sleep(self._backoff.next_seconds())
                    continue
                self._end_trouble()
                if isinstance(outcome, Elected):
                    return RunningTerm(
                        outcome.epoch, token, self._deadline(asked_at), self._clock, self._handicap_until
                    )
                await self._wait_for_vacancy(outcome)
        except asyncio.CancelledError:
            if attempt is not None:
                await self._withdraw(token, attempt)
            raise

    async def _let_others_stand_first(self) -> None:
        """During a handicap, wait until one lease has passed without a new vacancy."""
        while self._clock.monotonic() < self._handicap_until:
            self._vacancy.clear()
            await wait_until(self._clock, self._clock.monotonic() + self._lease_seconds, self._vacancy)
            if not self._vacancy.is_set():
                return

    async def _campaign(self, token: str) -> Elected | Held:
        seen = max(self._seen_epoch(), self._highest_epoch)
        outcome = await self._store.campaign(token, lease_seconds=self._lease_seconds, seen_epoch=seen)
        epoch = outcome.epoch if isinstance(outcome, Elected) else outcome.leader.epoch
        self._highest_epoch = max(self._highest_epoch, epoch)
        return outcome

    async def _withdraw(self, token: str, attempt: asyncio.Future[Elected | Held]) -> None:
        """Wait for the result of the last campaign, and resign unless it certainly won no lease."""
        with contextlib.suppress(StoreError):
            if isinstance(await attempt, Held):
                return
        with contextlib.suppress(StoreError):
            await self._store.resign(token)

    async def _wait_for_vacancy(self, held: Held) -> None:
        """Wait until the leader's lease can have ended, or the leader has resigned."""
        self._leased_until = self._clock.monotonic() + held.remaining_seconds
        while True:
            deadline = self._leased_until + self._rng.random() * JITTER_SECONDS
            await wait_until(self._clock, deadline, self._vacancy)
            if self._vacancy.is_set() or self._clock.monotonic() >= self._leased_until:
                return

    async def _serve(self, term: RunningTerm) -> None:
        if self._is_sitting_out:  # the event of the deposition arrived before the reply to the campaign
            with contextlib.suppress(StoreError):
                await self._store.resign(term.token)
            return
        self._deposition.clear()
        logger.info("leader: leading in epoch %d", term.epoch, extra={"epoch": term.epoch})
        self._term = term
        if self._emitter.has_listeners:
            self._emitter.emit(TermBegan(at=time.time(), epoch=term.epoch))
        lead = asyncio.ensure_future(self._lead(term))
        renewals = asyncio.ensure_future(self._renew_until_lost(term))
        deposition = asyncio.ensure_future(_until(self._deposition))
        has_resigned = False
        try:
            try:
                while True:
                    await asyncio.wait((lead, renewals, deposition), return_when=asyncio.FIRST_COMPLETED)
                    aside = _stands_aside(lead)
                    if aside is None or not term.is_current:
                        break
                    has_resigned = not await completed(self._is_needed(term, str(aside)))
                    if has_resigned:
                        break
                    lead = asyncio.ensure_future(self._lead(term))
            finally:
                deposition.cancel()
                await self._end(term, lead, renewals, has_resigned=has_resigned)
            _raise_failure(lead)
            _raise_failure(renewals)
            if not renewals.cancelled():  # the event stream may first show that an operator asked for the step-down
                await self._clock.sleep(JITTER_SECONDS * (1 + self._rng.random()))
        finally:
            if self._emitter.has_listeners:
                self._report_end(term, lead, renewals, has_resigned=has_resigned)

    def _report_end(
        self, term: RunningTerm, lead: asyncio.Future[None], renewals: asyncio.Future[None], *, has_resigned: bool
    ) -> None:
        error = lead.exception() if lead.done() and not lead.cancelled() else None
        reason = str(error or "")
        if has_resigned and isinstance(error, StandAside):
            end = TermEnd.CONTRADICTED if error.is_contradicted else TermEnd.BLIND
        elif self._deposition.is_set():
            end = TermEnd.DEPOSED
        elif isinstance(error, Fenced) or (renewals.done() and not renewals.cancelled()) or not term.is_current:
            end = TermEnd.LOST
        else:
            end = TermEnd.RESIGNED
        self._emitter.emit(TermEnded(at=time.time(), epoch=term.epoch, end=end, reason=reason))

    async def _is_needed(self, term: RunningTerm, reason: str) -> bool:
        """Resign with a handicap, unless no other router can lead. Return whether this router has to go on."""
        handicap_seconds = HANDICAP_LEASES * self._lease_seconds
        handicap_until = self._clock.monotonic() + handicap_seconds
        try:
            resignation = await self._store.resign(term.token, reason=reason, handicap_seconds=handicap_seconds)
        except StoreError:
            resignation = Resignation.LOST  # the lease expires, because nothing renews it
        if resignation is Resignation.NEEDED:
            logger.warning(
                "leader: no other router can lead, going on although %s", reason, extra={"epoch": term.epoch}
            )
            term.handicap_until = handicap_until
            return True
        self._handicap_until = handicap_until
        logger.warning("leader: resigning, so that another router leads: %s", reason, extra={"epoch": term.epoch})
        return False

    async def _end(
        self, term: RunningTerm, lead: asyncio.Future[None], renewals: asyncio.Future[None], *, has_resigned: bool
    ) -> None:
        """Let `lead` finish, then resign.

        The lease is renewed until `lead` has finished, so that Redis still accepts its last results.
        """
        lead.cancel()
        try:
            await asyncio.gather(lead, return_exceptions=True)
        finally:
            renewals.cancel()  # also if the caller is cancelled here; otherwise the renewals would go on forever
            self._term = None
        await asyncio.gather(renewals, return_exceptions=True)
        if not self._deposition.is_set() and not has_resigned and (not renewals.cancelled() or not term.is_current):
            logger.warning("leader: lost epoch %d", term.epoch, extra={"epoch": term.epoch})
        if has_resigned:
            return
        with contextlib.suppress(StoreError):  # if Redis is away, the lease expires, because nothing renews it
            await self._store.resign(term.token)

    async def _renew_until_lost(self, term: RunningTerm) -> None:
        """Renew the lease; return when another router is the leader, or when the deadline has passed."""
        delay = self._renew_interval_seconds
        while True:
            await self._clock.sleep(min(delay, term.deadline - self._clock.monotonic()))
            if not term.is_current:
                return
            asked_at = self._clock.monotonic()
            try:
                renewal = self._store.renew(term.token, lease_seconds=self._lease_seconds)
                if not await completed(finish_by(self._clock, term.deadline, renewal)):
                    return
            except TimeoutError:
                return
            except StoreError as error:
                self._report_trouble(error)
                delay = self._backoff.next_seconds()
            else:
                self._end_trouble()
                if self._deposition.is_set() or not term.is_current:
                    return  # the reply came late: a duty may have seen the end of the term, and has stopped
                term.deadline = self._deadline(asked_at)
                delay = self._renew_interval_seconds

    def _deadline(self, asked_at: float) -> float:
        return asked_at + self._lease_seconds * (1 - MARGIN_SHARE)

    def _report_trouble(self, error: StoreError) -> None:
        if not self._is_in_trouble:
            self._is_in_trouble = True
            logger.warning("leader: %s", error)

    def _end_trouble(self) -> None:
        self._is_in_trouble = False
        self._backoff.reset()


def _stands_aside(lead: asyncio.Future[None]) -> StandAside | None:
    """Return the `StandAside` that `lead` raised; `None` if it did not."""
    error = lead.exception() if lead.done() and not lead.cancelled() else None
    return error if isinstance(error, StandAside) else None


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _raise_failure(task: asyncio.Future[None]) -> None:
    """Raise the task's failure, unless it only means that the term is over."""
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, Fenced | StandAside):
        raise error
