"""A simulated router: the package's registry in a process of its own, with sessions that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from shared_registry.config import RouterConfig
from shared_registry.errors import NoHealthyReplica, Saturated, StoreError, StoreUnavailable, UsageError
from shared_registry.leases import Lease
from shared_registry.model import ReplicaEndpoint
from shared_registry.registry.facade import SharedReplicaRegistry
from tests.support.simulation.loop import Process, VirtualLoop

PAUSES_SECONDS = (0.4, 1.0, 2.5)
"""The mean time from one session to the next: from more sessions than there are slots, to few."""
TIMEOUTS = (0.0, 0.0, 2.0, 60.0)
STAYS = (0.05, 0.5, 0.5, 2.0, 5.0, 60.0)
PATIENCE = (None, None, None, None, 0.003, 0.5)
"""After how long a client leaves although its session has no slot yet."""
"""How long a session may wait. The longest is longer than a simulation."""
SLACK_SECONDS = 6.0
"""How much longer than it may wait a call may take: the time limits of calls to Redis, and what faults delay."""


class LoopClock:
    """The package's clock, on the virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.monotonic = loop.time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))


@dataclass(eq=False, slots=True)
class SimulatedSession:
    """One session.

    Attributes:
        asked_at: When it asked for a slot.
        timeout: How long it may wait.
        lease: Its lease, while it has one.
        uses: The replica that it uses, until it begins to release its lease.
        is_over: It has ended, or was refused.
        refusal: Why it got no slot.
    """

    asked_at: float
    timeout: float
    lease: Lease | None = None
    uses: str | None = None
    is_over: bool = False
    refusal: str = ""


class SimulatedRouter:
    """One router from its start to its end. A restart makes another one.

    Attributes:
        process: Its process.
        registry: Its registry.
        sessions: Those that wait or have a lease.
        is_started: It has joined.
        is_over: It was stopped or killed.
        on_lease: Called with the replica of each new lease.
        problems: What must not happen.
    """

    def __init__(
        self, loop: VirtualLoop, process: Process, settings: RouterConfig, probe: Any, rng: random.Random
    ) -> None:
        self._loop = loop
        self._rng = rng
        self.process = process
        self.sessions: dict[SimulatedSession, None] = {}
        self.is_started = self.is_over = False
        self.on_lease: Callable[[str], None] = lambda _: None
        self.problems: list[str] = []
        self.paused_seconds = 0.0
        self.registry = SharedReplicaRegistry(
            settings, http_get=probe, clock=LoopClock(loop), seed=rng.randrange(1 << 30)
        )
        self._releases, self._takes_no_more = asyncio.Event(), asyncio.Event()
        self._task = loop.start(process, self._run())

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work in the router's process."""
        return self._loop.start(self.process, work)

    async def _run(self) -> None:
        await self.registry.start()
        self.is_started = True
        pause_seconds = self._rng.choice(PAUSES_SECONDS)
        while not self._takes_no_more.is_set():
            self.run(self._session())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rng.expovariate(1 / pause_seconds)):
                    await self._takes_no_more.wait()

    async def _session(self) -> None:
        session = SimulatedSession(self._loop.time(), self._rng.choice(TIMEOUTS))
        name = self._rng.choice([None, None, "a", "b"])
        stays, patience = self._rng.choice(STAYS), self._rng.choice(PATIENCE)
        self.sessions[session] = None
        paused_before = self.paused_seconds
        try:
            async with asyncio.timeout(patience):
                lease = session.lease = await self.registry.acquire(name, timeout=session.timeout)
        except TimeoutError:
            if session.lease is not None:
                await session.lease.release()
        except (Saturated, NoHealthyReplica, StoreUnavailable) as error:
            session.refusal = repr(error)
        except UsageError as error:
            if not self.is_over:
                self.problems.append(f"acquire() raised {error!r}")
        else:
            session.uses = lease.replica.key
            self.on_lease(session.uses)
            async with lease:
                if not self._releases.is_set():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(stays):
                            await self._releases.wait()
                session.uses = None
        finally:
            session.is_over = True
            self.sessions.pop(session, None)
            self._check_duration(session, self.paused_seconds - paused_before)

    def _check_duration(self, session: SimulatedSession, paused_seconds: float) -> None:
        if session.lease is None:
            took = self._loop.time() - session.asked_at - paused_seconds
            if took > session.timeout + SLACK_SECONDS:
                self.problems.append(f"a session that may wait {session.timeout:g} s was refused after {took:.2f} s")

    def leases(self) -> dict[str, str]:
        """Return the leases that its sessions have, with their replicas."""
        return {one.lease.id: one.lease.replica.key for one in self.sessions if one.lease is not None}

    def waiting(self) -> list[SimulatedSession]:
        return [one for one in self.sessions if one.lease is None]

    def take_no_more(self) -> None:
        """Let no new sessions come."""
        self._takes_no_more.set()

    def release_all(self) -> None:
        """Let all sessions end, and those that still wait as soon as they are served."""
        self._releases.set()

    async def operate(self, act: Callable[[SharedReplicaRegistry], Coroutine[Any, Any, Any]]) -> bool:
        """Make an operator's change; return whether it was acknowledged."""
        try:
            await act(self.registry)
        except StoreError:
            return False
        return True

    async def stop(self) -> None:
        """End like a process that gets SIGTERM."""
        self.take_no_more()
        self.is_over = True
        await self.registry.stop()
        self.release_all()  # sessions may outlive the registry


def settings(router: int, replicas: list[ReplicaEndpoint]) -> RouterConfig:
    """Return the settings of a router."""
    return RouterConfig(
        redis_url="redis://10.0.0.1:6379/0",
        namespace="sim",
        router_id=f"r{router}",
        replicas=replicas,
        health_check_interval_seconds=2.0,
        health_check_timeout_seconds=1.0,
        fast_interval_seconds=0.5,
        refresh_seconds=2.0,
        affinity_seconds=5.0,
        local_cooldown_seconds=1.0,
    )
