"""After Redis lost data, brings back what this router has, and says when nothing is left.

Until every live router has said so, Redis gives no slot to a new session; see `lua/lib/settling.lua`. So a router that
noticed the loss later than others finds its sessions' slots free.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import StoreError
from shared_registry.leases.holding import Holder
from shared_registry.leases.queue import RouterQueue
from shared_registry.leases.reconciliation import Reconciler
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import Event, EventKind
from shared_registry.store.replies import Heartbeat

READ_SECONDS = 1.0
"""How long to wait for the mirror before another heartbeat tells whether that is still needed."""
PAUSE_SECONDS = 0.05
logger = logging.getLogger(__name__)


class Settler:
    """This router's part in bringing back what Redis lost. `run` must be kept running.

    Attributes:
        known_history: The history of the last heartbeat; empty before the first one. The next heartbeat names it, which
            shows a loss.
        word: What the next heartbeat says to those who wait for this router; empty if it may have something left.
        holder: This router's leases.
        peers: The keys of the routers that lived when the last loss was seen, as far as this router knows.
    """

    def __init__(
        self,
        holder: Holder,
        mirror: Mirror,
        reconciler: Reconciler,
        queue: RouterQueue,
        *,
        lately_alive: Callable[[], Collection[str]],
        join: Callable[[], Awaitable[object]],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; nothing is sent yet.

        Args:
            holder: Checks what heartbeats say of this router's leases.
            mirror: Puts the view back, without which no lease can be.
            reconciler: Puts leases back.
            queue: Lets waiters ask for their positions again.
            lately_alive: Returns the keys of the routers that lived a moment ago, as far as this router has read them.
            join: Sends a heartbeat.
            clock: Used for waits.
            rng: Used for jitter.
        """
        self.known_history = ""
        self.word = ""
        self.peers: Collection[str] = ()
        self._lately_alive = lately_alive
        self._mirror = mirror
        self.holder = holder
        self._reconciler = reconciler
        self._queue = queue
        self._join = join
        self._clock = clock
        self._backoff = Backoff(rng=rng, longest_seconds=READ_SECONDS)
        self._wanted = ""
        self._is_due = asyncio.Event()
        self._has_read = asyncio.Event()

    def begin_heartbeat(self) -> Callable[[Heartbeat | StoreError], None]:
        """Begin a heartbeat; return the function to call with its reply, or with the error."""
        check = self.holder.begin_heartbeat()

        def end(heartbeat: Heartbeat | StoreError) -> None:
            check(heartbeat)
            if not isinstance(heartbeat, StoreError):
                self._note(heartbeat)

        return end

    def _note(self, heartbeat: Heartbeat) -> None:
        if heartbeat.history_id != self.known_history:
            self.peers = self._lately_alive() if self.known_history else ()
            self.known_history = heartbeat.history_id
        if heartbeat.settling != self._wanted:
            self._wanted, self.word = heartbeat.settling, ""
        if self._wanted and not self.word:
            self._is_due.set()

    def notice(self, events: Sequence[Event]) -> None:
        """Send a heartbeat soon after a full read, or if others bring something back. For `Mirror.subscribed`."""
        if not events:
            self._has_read.set()
        if not events or any(event.kind is EventKind.SETTLING_BEGAN for event in events):
            self._is_due.set()

    async def run(self) -> None:
        """Bring back what is asked for, until cancelled."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            try:
                await self._bring_back()
            except StoreError as error:  # the mirror logs that Redis is away
                logger.debug("placement: not everything is back in Redis yet: %s", error)
                self._is_due.set()
                await self._clock.sleep(self._backoff.next_seconds())
            else:
                self._backoff.reset()

    async def _bring_back(self) -> None:
        """Bring everything back and say so, or find out whether that is needed.

        Raises:
            StoreError: Not everything could be written to Redis.
        """
        wanted = self._wanted
        if not wanted:
            await self._join()  # its reply says whether others wait for this router
            return
        if self._mirror.history_id != self.known_history:
            self._has_read.clear()
            await wait_until(self._clock, self._clock.monotonic() + READ_SECONDS, self._has_read)
        if self._mirror.history_id == self.known_history:
            await self._queue.come_back()
            await self._reconciler.put_back()
            if not self._has_missing():
                self.word = wanted
        else:
            self._wanted = ""
        if not self.word:
            self._is_due.set()
            await self._clock.sleep(PAUSE_SECONDS)
            return
        await self._join()

    def _has_missing(self) -> bool:
        """Whether Redis lacks a lease that can be put back: not one on a replica that nobody knows any more."""
        return any(self._mirror.view.get(key) is not None for key in self._reconciler.missing().values())
