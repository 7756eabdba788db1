"""Gives each session a lease on a slot of a replica, for as long as the session lasts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection
from typing import TypeVar

from shared_registry.config.rules import OnLost
from shared_registry.errors import RegistryError, Saturated, StoreError, StoreRefused
from shared_registry.leases import Lease, OnPosition
from shared_registry.model import Replica
from shared_registry.proxy.opening import Opening
from shared_registry.proxy.traffic import Traffic
from shared_registry.registry.facade import SharedReplicaRegistry

T = TypeVar("T")


class NoReplica(Exception):
    """No replica can take the session.

    Attributes:
        is_saturated: Whether there are healthy replicas, but all of them are full.
        is_redis_away: Whether Redis cannot be asked for a slot, and this router has none that it may use without it.
        is_locked_out: The same, because Redis refuses this router's password or rights.
        is_stopping: Whether the session waited, or would have to wait, but this router stops.
        retry_after_seconds: An estimate of the time until a replica has a free slot; `None` if it is unknown.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_saturated: bool = False,
        is_redis_away: bool = False,
        is_locked_out: bool = False,
        is_stopping: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.is_saturated = is_saturated
        self.is_redis_away = is_redis_away
        self.is_locked_out = is_locked_out
        self.is_stopping = is_stopping
        self.retry_after_seconds = retry_after_seconds


class ReplicaLost(Exception):
    """The session's replica became unhealthy or was removed, and `on_lost` is `close`."""


class Unleased:
    """A replica for a request that needs no slot, in the form of a lease.

    Attributes:
        replica: The replica.
        is_spare: Always false.
    """

    __slots__ = ("is_spare", "replica")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.is_spare = False

    async def release(self) -> None:
        """Do nothing."""


Slot = Lease | Unleased


class SessionPlacement:
    """Acquires leases for sessions, and ends sessions whose replica is lost if `on_lost` says so.

    Attributes:
        opening: Holds sessions until the router has opened.
    """

    def __init__(self, registry: SharedReplicaRegistry, opening: Opening, traffic: Traffic) -> None:
        """Create the placement. Until `configure()`, sessions do not wait, and are kept when their replica is lost.

        Args:
            registry: Gives the leases.
            opening: Holds sessions until the router has opened.
            traffic: Counts how sessions are placed.
        """
        self._registry = registry
        self._traffic = traffic
        self.opening = opening
        self._on_lost: OnLost = "keep"
        self._queue_timeout_seconds = 0.0
        self._asking: set[asyncio.Timeout] = set()
        self._waiting: set[asyncio.Timeout] = set()
        self._is_stopping = False

    def configure(self, on_lost: OnLost, *, queue_timeout_seconds: float) -> None:
        """Set what applies to sessions that begin from now on.

        Args:
            on_lost: Whether to keep or to close a session whose replica is lost.
            queue_timeout_seconds: How long a session may wait for a slot.
        """
        self._on_lost = on_lost
        self._queue_timeout_seconds = queue_timeout_seconds

    @property
    def waiting(self) -> int:
        """The number of sessions of this router that wait in the queue."""
        return len(self._waiting)

    @property
    def may_wait(self) -> bool:
        """Whether a new session may have to wait, for a slot or until the router opens."""
        return self._queue_timeout_seconds > 0 or not self.opening.is_open

    def stop_waiting(self) -> None:
        """End all waits, now and later, with `NoReplica.is_stopping`. Sessions that have a slot continue."""
        self._is_stopping = True
        self.opening.end()
        for scope in tuple(self._asking):
            scope.reschedule(0.0)

    def deadline(self) -> float:
        """Return the time, on the event loop's clock, until which a new session may wait over all its attempts.

        It is 0 if the session may not wait. Finding the event loop costs a system call up to Python 3.11.
        """
        seconds = self._queue_timeout_seconds
        return asyncio.get_running_loop().time() + seconds if seconds else 0.0

    def has_another(self, *replicas: Replica) -> bool:
        """Return whether there is another replica than these that can be selected."""
        return self._registry.select(exclude=replicas) not in (None, *replicas)

    def may_go_elsewhere(self, replica: Replica) -> bool:
        """Return whether a session for which a replica is too busy can be placed again, there or elsewhere."""
        return self._queue_timeout_seconds > 0 or self.has_another(replica)

    def choose(self, key: str | None, *, exclude: Collection[Slot]) -> Unleased:
        """Return a healthy replica for a request that needs no slot, by the router's policy and without Redis.

        Args:
            key: The session's name, which the policy `hash` uses.
            exclude: The replicas that were tried without success.

        Raises:
            NoReplica: No replica is healthy.
        """
        try:
            replica = self._registry.select(key=key, exclude=[one.replica for one in exclude] if exclude else ())
        except RegistryError as error:
            raise NoReplica(str(error)) from error
        if replica is None:
            raise NoReplica("no replica is healthy")
        return Unleased(replica)

    async def opened(self, deadline: float, *, takes_slot: bool) -> None:
        """Hold a session until the router has opened, or until it may wait no longer.

        Raises:
            NoReplica: The session needs a slot, and the router stops.
        """
        await self.opening.wait(deadline)
        if self._is_stopping and takes_slot:
            raise NoReplica("this router stops", is_stopping=True)

    async def place(
        self,
        key: str | None,
        *,
        exclude: Collection[Lease],
        again_after: Collection[Lease],
        deadline: float,
        on_position: OnPosition | None,
    ) -> Lease:
        """Return a lease on a slot for a session. The caller must release it.

        Args:
            key: The session's name, by which it returns to its replica; `None` for a session without a name.
            exclude: Leases on the replicas that were tried without success.
            again_after: Leases on the replicas that were busy, and may be tried again.
            deadline: The time until which to wait for a slot; see `deadline()`.
            on_position: Called with the session's position in the queue. Must not block.

        Raises:
            NoReplica: No replica can take the session.
        """
        try:
            if deadline and not self._is_stopping and (seconds := deadline - asyncio.get_running_loop().time()) > 0:
                return await self._acquire(key, exclude, again_after, seconds, on_position)
            begun_at = time.monotonic()
            try:
                lease = await self._registry.acquire(key, exclude=exclude, again_after=again_after)
            except RegistryError as error:
                self._traffic.note_refused(error, begun_at, has_waited=False)
                raise
            self._traffic.note_placed(lease, begun_at, has_waited=False)
            return lease
        except Saturated as error:
            raise NoReplica(
                str(error),
                is_saturated=True,
                is_stopping=self._is_stopping,
                retry_after_seconds=error.retry_after_seconds,
            ) from error
        except RegistryError as error:
            raise NoReplica(
                str(error),
                is_redis_away=isinstance(error, StoreError),
                is_locked_out=isinstance(error, StoreRefused),
            ) from error

    async def _acquire(
        self,
        key: str | None,
        exclude: Collection[Lease],
        again_after: Collection[Lease],
        seconds: float,
        on_position: OnPosition | None,
    ) -> Lease:
        # A timeout without a time, which `stop_waiting` sets to 0. It ends the wait inside this task, so that no lease
        # is lost between two tasks.
        scope = asyncio.timeout(None)

        def record_position(position: int, depth: int) -> None:
            self._waiting.add(scope)
            if on_position is not None:
                on_position(position, depth)

        try:
            async with scope:
                self._asking.add(scope)
                begun_at = time.monotonic()
                try:
                    lease = await self._registry.acquire(
                        key,
                        timeout=seconds,
                        exclude=exclude,
                        again_after=again_after,
                        on_position=record_position,
                    )
                except RegistryError as error:
                    self._traffic.note_refused(error, begun_at, has_waited=scope in self._waiting)
                    raise
                else:
                    self._traffic.note_placed(lease, begun_at, has_waited=scope in self._waiting)
                    return lease
                finally:
                    self._asking.discard(scope)
                    self._waiting.discard(scope)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise NoReplica("this router stops", is_stopping=True) from error

    def unless_lost(self, lease: Slot, work: Awaitable[T]) -> Awaitable[T]:
        """Return what awaits a session's work and returns its result.

        Raises:
            ReplicaLost: While it is awaited, if `on_lost` is `close`: the session's replica was lost before the work
                was done. The work was cancelled.
        """
        if self._on_lost == "keep" or isinstance(lease, Unleased):
            return work
        return self._work_until_lost(lease, work)

    async def _work_until_lost(self, lease: Lease, work: Awaitable[T]) -> T:
        working = asyncio.ensure_future(work)
        losing = asyncio.ensure_future(lease.lost.wait())
        try:
            await asyncio.wait((working, losing), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
        finally:
            working.cancel()
            losing.cancel()
            await asyncio.gather(working, losing, return_exceptions=True)
        raise ReplicaLost(f"{lease.replica.url} turned unhealthy or was removed")
