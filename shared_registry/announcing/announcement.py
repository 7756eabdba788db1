"""`Announcement`: keeps one replica registered for as long as the program beside it lives."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import socket
import time
from types import TracebackType
from typing import Self

from shared_registry.admin.connection import Outsider
from shared_registry.aio.clock import SystemClock
from shared_registry.aio.supervise import keep_running
from shared_registry.config import RouterConfig, validate_endpoint
from shared_registry.config.rules import check_name
from shared_registry.errors import ConfigError, KeyConflict, StoreError, UsageError
from shared_registry.model import ReplicaEndpoint
from shared_registry.store.address_watch import watch_address
from shared_registry.store.answers import new_token
from shared_registry.store.commands import Store
from shared_registry.store.replies import Announced, AnnouncedAs, Beat, BeatWord, Withdrawn
from shared_registry.store.schema import expect_cluster
from shared_registry.urls import canonical_url

logger = logging.getLogger(__name__)

SHORTEST_TTL_SECONDS, LONGEST_TTL_SECONDS = 5.0, 3600.0
"""Below the shortest one, a short outage of Redis that routers do not notice could be taken for a death."""
BEATS_PER_TTL = 3
RETRIES_PER_TTL = 12
JITTER = 0.1
POLL_SECONDS = 0.5
LONGEST_DRAIN_SECONDS = 86_400.0


class Announcement:
    """`async with Announcement(config, ReplicaEndpoint("http://127.0.0.1:8000", capacity=1), owner="pod-1"): ...`.

    Inside the block a task registers the replica and sends heartbeats, a third of the time to live apart. If Redis is
    away, or another instance holds the url, or the registration is refused otherwise, the task logs why, once, and
    tries on; so entering the block does not fail for such a reason. At the end of the block the replica drains for at
    most `drain_seconds` and is deregistered. If the block ends by an exception or a cancellation, it is deregistered at
    once.

    Routers probe the replica: it takes sessions once they find it healthy. If this process is killed, routers take it
    out of service after the time to live.

    Not thread-safe. An object serves one block; make a new one for the next.

    Attributes:
        instance: The id of this instance of the replica, new for each object.
        owner: Its name for people.
    """

    def __init__(
        self,
        config: RouterConfig,
        endpoint: ReplicaEndpoint,
        *,
        owner: str = "",
        ttl_seconds: float = 10.0,
        drain_seconds: float = 30.0,
    ) -> None:
        """Set up; nothing connects before `async with`.

        Args:
            config: Names the registry; only the settings of Redis are used.
            endpoint: The replica. Its url is the one by which routers reach it.
            owner: The name of this instance for people; by default the replica's name, or that of this machine.
            ttl_seconds: How long the replica stays in service without a heartbeat, from 5 s to an hour.
            drain_seconds: How long its sessions may go on at the end of the block.

        Raises:
            ConfigError: The endpoint, the owner or one of the times is not valid.
        """
        if not SHORTEST_TTL_SECONDS <= ttl_seconds <= LONGEST_TTL_SECONDS:
            raise ConfigError(f"ttl: {ttl_seconds:g} must be from {SHORTEST_TTL_SECONDS:g} to {LONGEST_TTL_SECONDS:g}")
        if not 0 <= drain_seconds <= LONGEST_DRAIN_SECONDS:
            raise ConfigError(f"drain_seconds: {drain_seconds:g} must be from 0 to {LONGEST_DRAIN_SECONDS:g}")
        self._endpoint = validate_endpoint(endpoint, "replica")
        self._key = canonical_url(self._endpoint.url)
        self.owner = (owner and check_name(owner, "owner")) or self._endpoint.name or socket.gethostname()
        self.instance = new_token()
        self._ttl_seconds = ttl_seconds
        self._drain_seconds = drain_seconds
        self._outsider = _Connection(config)
        self._store = self._outsider.store
        self._is_held = asyncio.Event()
        self._trouble = ""
        self._was_announced = False
        self._is_leaving = False
        self._has_withdrawn = False
        self._in_flight = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to announce."""
        if self._task is not None:
            raise UsageError("an Announcement serves one block; make a new one")
        name = f"announcement of {self._key}"
        work = keep_running(name, self._run, clock=SystemClock(), rng=random.Random())
        self._task = asyncio.create_task(work, name=name)
        self._outsider.follow_primary()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and deregister."""
        try:
            if kind is None:
                await self.drain(self._drain_seconds)
        finally:
            try:
                await self.withdraw()
            finally:
                await self._outsider.close()

    @property
    def is_held(self) -> bool:
        """Whether the last word of the registry was that this instance holds the replica."""
        return self._is_held.is_set()

    @property
    def trouble(self) -> str:
        """Why the replica is not announced now; empty if it is."""
        return self._trouble

    async def wait_held(self, *, timeout_seconds: float) -> None:
        """Wait until the replica is registered.

        Raises:
            TimeoutError: It is not registered in time; see `trouble`.
        """
        async with asyncio.timeout(timeout_seconds):
            await self._is_held.wait()

    async def drain(self, timeout_seconds: float) -> bool:
        """Take no new sessions, and wait for the end of those on the replica. Return whether all have ended.

        Heartbeats go on. While Redis is away it waits on, because the sessions may still run. If Redis has lost that
        the replica drains, such as in a failover, it says so again. If Redis does not know the replica any more,
        routers have one time to live to put it back.
        """
        deadline = time.monotonic() + timeout_seconds
        is_asked = False
        lost_at: float | None = None
        while self._is_held.is_set() or is_asked:
            self._is_leaving = True
            with contextlib.suppress(StoreError):
                if not is_asked:
                    reply = await self._store.withdraw(self._key, self.instance, by=self.owner, when_drained=True)
                    if reply.result in (Withdrawn.REMOVED, Withdrawn.TAKEN):
                        self._is_held.clear()
                        return True
                    is_asked = True
                beat = await self._store.beat(self._key, self.instance)
                is_lost = beat.word is BeatWord.UNKNOWN
                lost_at = (lost_at or time.monotonic()) if is_lost else None
                is_given_up = lost_at is not None and time.monotonic() - lost_at >= self._ttl_seconds
                if is_given_up or beat.word not in (BeatWord.DRAINING, BeatWord.HELD, BeatWord.UNKNOWN):
                    self._is_held.clear()
                    return True
                is_asked = beat.word is not BeatWord.HELD
                self._in_flight = beat.in_flight
            if time.monotonic() >= deadline:
                logger.warning("announcement: %s still has %d sessions", self._key, self._in_flight)
                return False
            await asyncio.sleep(min(POLL_SECONDS, max(deadline - time.monotonic(), 0)))
        return True

    async def close(self) -> None:
        """Disconnect, where the block was never entered."""
        await self._outsider.close()

    async def withdraw(self) -> None:
        """Deregister the replica at once, and send no heartbeats any more. A failure is logged: routers expire it.

        It is tried once.
        """
        if self._has_withdrawn:
            return
        self._is_leaving = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        try:
            reply = await self._store.withdraw(self._key, self.instance, by=self.owner)
        except StoreError as error:
            logger.warning("announcement: %s cannot be deregistered, and will expire: %s", self._key, error)
        else:
            if reply.result is Withdrawn.REMOVED:
                logger.info("announcement: %s is deregistered", self._key)
        self._has_withdrawn = True
        self._is_held.clear()

    async def _run(self) -> None:
        """Announce the replica and send heartbeats until cancelled.

        Many may start, or have Redis back, at one moment. So the next heartbeat comes at any time of its interval.
        """
        was_held = False
        while True:
            began = time.monotonic()
            try:
                is_held = await self._beat() if self._is_held.is_set() else await self._announce()
            except StoreError as error:
                self._note_trouble(f"Redis does not accept it: {error}")
                is_held = False
            if is_held and not was_held:
                began, jitter = time.monotonic(), 1.0
            else:
                jitter = JITTER
            was_held = is_held
            pause = self._ttl_seconds / (BEATS_PER_TTL if is_held else RETRIES_PER_TTL)
            pause *= 1 - jitter * random.random()
            await asyncio.sleep(max(began + pause - time.monotonic(), 0.01))

    async def _announce(self) -> bool:
        """Register the replica. Return whether this instance holds it now."""
        if self._is_leaving:
            return True
        await self._outsider.expect_own_cluster()
        reply = await self._store.announce(
            self._key, self._endpoint, owner=self.owner, instance=self.instance, ttl_seconds=self._ttl_seconds
        )
        if reply.is_accepted:
            self._is_held.set()
            self._note_trouble("")
            return True
        self._note_trouble(_refusal_text(reply))
        return False

    async def _beat(self) -> bool:
        """Send a heartbeat. Return whether this instance still holds the replica."""
        beat = await self._store.beat(self._key, self.instance)
        if beat.word in (BeatWord.HELD, BeatWord.DRAINING):
            self._in_flight = beat.in_flight
            self._note_trouble("")
            return True
        self._is_held.clear()
        if beat.word is BeatWord.UNKNOWN:
            logger.warning("announcement: %s had expired or was lost; it is announced again", self._key)
            return await self._announce()
        self._note_trouble(_loss_text(beat))
        return False

    def _note_trouble(self, text: str) -> None:
        """Log a change."""
        if text and text != self._trouble:
            logger.warning("announcement: %s is not announced: %s", self._key, text)
        elif not text and (self._trouble or not self._was_announced):
            self._was_announced = True
            logger.info("announcement: %s is announced by %s", self._key, self.owner)
        self._trouble = text


class _Connection(Outsider):
    """The connection of an announcement, which does not have to be there at the beginning."""

    def __init__(self, config: RouterConfig) -> None:
        super().__init__(config)
        self.store = Store(self._clients, self._keys, router="", timeout_seconds=self._timeout_seconds)
        self._following: asyncio.Task[None] | None = None

    async def expect_own_cluster(self) -> None:
        """Refuse a namespace of another cluster; see `cluster` of the settings.

        Raises:
            StoreError: It is one, or Redis is away.
        """
        if self._cluster:
            with contextlib.suppress(KeyConflict):  # what is wrong with the key, the next call says
                expect_cluster((await self._reader.head()).cluster, self._cluster)

    def follow_primary(self) -> None:
        """From now on ask the sentinels, if there are any, whether the primary has moved; see `watch_address`."""
        if self._clients.ask_address is not None:
            clock = SystemClock()
            watch = functools.partial(
                watch_address,
                self._clients.ask_address,
                self._clients.failover,
                timeout_seconds=self._timeout_seconds,
                clock=clock,
            )
            work = keep_running("sentinels", watch, clock=clock, rng=random.Random())
            self._following = asyncio.create_task(work, name="sentinels")

    async def close(self) -> None:
        """Disconnect."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait((self._following,))
        await self._clients.close()


def _refusal_text(reply: Announced) -> str:
    if reply.result is AnnouncedAs.TAKEN:
        return f"it is held by {reply.holder}, which is alive"
    if reply.result is AnnouncedAs.CLAIMED:
        return _claimed_text(reply.source)
    return _REMOVED if reply.result is AnnouncedAs.REMOVED else _WITHDRAWN


def _loss_text(beat: Beat) -> str:
    if beat.word is BeatWord.TAKEN:
        return f"it is held by {beat.holder} now"
    if beat.word is BeatWord.CLAIMED:
        return _claimed_text(beat.source)
    return _REMOVED if beat.word is BeatWord.REMOVED else _WITHDRAWN


def _claimed_text(source: str) -> str:
    return f"it is registered otherwise (source {source}), and only that way changes it"


_REMOVED = "an operator removed it; restart this program, or `shared-registry add` and `remove` it"
_WITHDRAWN = "this instance has withdrawn it"
