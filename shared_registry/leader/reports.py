"""How a prober's results reach Redis: in numbered batches, none after its time, none after the end of the authority.

Redis may refuse reports and still renew the lead: at `maxmemory`, or if the user lacks a right that only reports need.
A leader to which that happens stands aside after some attempts, because another router may have the right, or a way to
Redis that takes large calls. All routers share one Redis, so the next leader may fare no better. The event stream tells
it why its predecessor resigned; it then keeps the lead, and only says so in its log. So the lead does not go round.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import Fenced, KeyConflict, StoreError
from shared_registry.leader.authority import Authority, Mandate
from shared_registry.leader.unreported import Finding, Unreported
from shared_registry.model import Event, EventKind, ProbeResult, Share, Thresholds
from shared_registry.probing.peer import Handled

REPORT_INTERVAL_SECONDS = 0.1
IDLE_SECONDS = 0.5
"""How often the end of the authority is looked for while there is nothing to report."""
CONFIRMATIONS_AT_MOST = 5
"""After so many renewals of the authority during which no report succeeded, a leader stands aside."""
MEMORY_SECONDS = 600.0
"""For how long a router remembers that another leader stood aside for this reason."""
UNREPORTED = "no probe results could be reported"
"""How the reason of such a resignation begins."""
logger = logging.getLogger(__name__)

SendReport = Callable[[Mandate, int, Sequence[ProbeResult], Thresholds], Awaitable[Handled]]
"""See `Store.report`."""


class Predecessors:
    """Remembers whether another leader stood aside because its reports failed, until one of this router succeeds."""

    def __init__(self, *, router: str, clock: Clock) -> None:
        self._router = router
        self._clock = clock
        self._until = clock.monotonic()

    def notice(self, event: Event) -> None:
        """Receive an event."""
        is_other = event.kind is EventKind.LEADER_RESIGNED and event.router != self._router
        if is_other and event.reason.startswith(UNREPORTED):
            self._until = self._clock.monotonic() + MEMORY_SECONDS

    @property
    def have_failed(self) -> bool:
        """Whether another leader fared no better lately."""
        return self._clock.monotonic() < self._until

    def forget(self) -> None:
        """Record that a report succeeded."""
        self._until = self._clock.monotonic()


class Reports:
    """The results of one authority that Redis does not have yet. Only one `run` at a time.

    A batch has the results of one mandate. A batch whose reply was lost is sent again unchanged, under the same number.
    """

    def __init__(
        self,
        send: SendReport,
        authority: Authority,
        thresholds: Thresholds,
        *,
        predecessors: Predecessors,
        on_progress: Callable[[], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._send = send
        self._on_progress = on_progress
        self._authority = authority
        self._thresholds = thresholds
        self._predecessors = predecessors
        self._clock = clock
        self._backoff = Backoff(first_seconds=REPORT_INTERVAL_SECONDS, rng=rng)
        self._results = Unreported()
        self._has_come = asyncio.Event()
        self._batch: Sequence[Finding] = ()
        self._number = 0
        self._ends_at: float | None = None  # as of the last failure in a row
        self._confirmations = 0
        self._dropped = 0

    def add(self, result: ProbeResult, mandate: Mandate, *, good_seconds: float, is_awaited: bool = False) -> None:
        """Take a result of now.

        Args:
            result: The result.
            mandate: The mandate under which the probe began.
            good_seconds: The result is dropped if Redis does not take it within that time.
            is_awaited: Whether the replica was not healthy when the probe began.
        """
        self._results.add(Finding(result, mandate, self._clock.monotonic() + good_seconds, is_awaited))
        self._has_come.set()

    def is_behind(self, key: str) -> bool:
        """Return whether many results wait, and one of this replica among them.

        Another probe would then find out nothing that could be reported sooner, and would delay the reports further.
        """
        return self._results.is_behind(key)

    @property
    def is_crowded(self) -> bool:
        """Whether many results wait, so that one of any replica may be among them."""
        return self._results.is_crowded

    @property
    def is_full(self) -> bool:
        """Whether many results of replicas that are not healthy wait. Another one might be too old in its turn."""
        return self._results.is_full

    def discard(self) -> None:
        """Forget all results."""
        self._results.clear()
        self._batch = ()

    async def run(self) -> None:
        """Send results as they come, as long as the authority is current. The first one waits for others a moment.

        Raises:
            Fenced: Another router is the leader.
            StandAside: Redis has taken none of several reports in a row, and another leader may do better.
        """
        delay = REPORT_INTERVAL_SECONDS
        while self._authority.is_current:
            await self._clock.sleep(delay if await self._has_work() else delay / 2)
            try:
                await self.send_all()
            except Fenced:
                raise
            except StoreError as error:
                self._note_failure(error)
                delay = self._backoff.next_seconds()
            else:
                delay = REPORT_INTERVAL_SECONDS

    async def _has_work(self) -> bool:
        """Return whether results wait already; otherwise wait for the first one, for some time."""
        if self._results.is_waiting or self._batch:
            return True
        self._has_come.clear()
        until = min(self._clock.monotonic() + IDLE_SECONDS, self._authority.ends_at)
        await wait_until(self._clock, until, self._has_come)
        return False

    async def send_all(self) -> None:
        """Send all results, as long as the authority is current. Results that are too old are dropped.

        So are results under a plan that is over.

        Raises:
            StoreError: Not all results arrived. The next call goes on where this one ended.
            Fenced: Another router is the leader.
        """
        while self._authority.is_current and self._has_batch():
            batch, mandate = self._batch, self._batch[0].mandate
            try:
                report = await self._send(mandate, self._number, [one.result for one in batch], self._thresholds)
            except Fenced:
                if not isinstance(mandate, Share):
                    raise
                self._end_batch(len(batch))
                continue
            self._end_batch(report.done or len(batch))
            self._note_success()
            self._on_progress()

    def _has_batch(self) -> bool:
        """Make the next batch, if there is none, of results that say something about the present.

        Of others a replica may have come back since, or be another one. Of a batch without a reply nothing else may be
        sent under its number, so all of it is dropped with its first old result.
        """
        now = self._clock.monotonic()
        if any(now > one.good_until for one in self._batch):
            self._drop(self._batch)
            self._batch = ()
        while not self._batch and (taken := self._results.take()):
            self._drop([one for one in taken if now > one.good_until])
            self._batch = [one for one in taken if now <= one.good_until]
            if self._batch:
                self._number = self._authority.next_batch(self._batch[0].mandate)
        return bool(self._batch)

    def _end_batch(self, done: int) -> None:
        self._results.end(self._batch, done)
        self._batch = ()

    def _drop(self, old: Sequence[Finding]) -> None:
        self._results.forget(old)
        if old and not self._dropped:
            logger.warning("probing: Redis takes no probe results; they are dropped when they are too old")
        self._dropped += len(old)

    def _note_success(self) -> None:
        if self._dropped:
            logger.warning("probing: Redis takes probe results again; %d were too old and dropped", self._dropped)
        self._dropped = self._confirmations = 0
        self._ends_at = None
        self._backoff.reset()
        self._predecessors.forget()

    def _note_failure(self, error: StoreError) -> None:
        """Stand aside if Redis confirms the authority and takes no reports. While it confirms nothing, it is away."""
        before, self._ends_at = self._ends_at, self._authority.ends_at
        if before is None or self._ends_at <= before:
            return
        self._confirmations += 1
        if self._confirmations < CONFIRMATIONS_AT_MOST:
            return
        complaint = f"{UNREPORTED} for {CONFIRMATIONS_AT_MOST} renewals: {error}"
        if self._confirmations == CONFIRMATIONS_AT_MOST:
            logger.warning("probing: %s", complaint)
        # A key of a wrong type refuses the reports of every router.
        if not isinstance(error, KeyConflict) and not self._predecessors.have_failed:
            self._authority.stand_aside(complaint)
