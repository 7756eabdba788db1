"""What a failover costs three routers with sessions and waiters, and that all is right again afterwards.

Each scenario breaks the Redis of one deployment in one way, and records when a new primary was named or the fault was
over. After that every router must write to the present primary, one of them must be the leader, and all of them must
see a change. The time that this takes is printed at the end of the run. Meanwhile no session is refused or broken off,
and the replicas count their sessions themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.support.failover.deployments import Deployment, StartServer
from tests.support.failover.world import World, world
from tests.support.until import until

Act = Callable[[Any, World], Awaitable[None]]
Deploy = Callable[[StartServer, Path, Path], AbstractAsyncContextManager[Deployment]]
OVERLAP_SECONDS = 0.05
"""So long a replica may count a session whose client is gone beside the next session."""


@dataclass(frozen=True)
class Scenario:
    """One way to break Redis.

    Attributes:
        name: For the report.
        deploy: Starts the servers.
        act: Breaks Redis, and calls `World.named`.
        limit_seconds: The time within which all should be right again. It is printed beside the measured time.
        loses_writes: Whether acknowledged writes may be lost, so that leases are put back beyond a capacity.
        reason: Words of Redis's refusal that the routers' pages must show; empty if Redis refuses nothing.
        oldest_seconds: The highest age that any view may have.
        is_short: Whether `make test-all` runs it.
    """

    name: str
    deploy: Deploy
    act: Act
    limit_seconds: float
    loses_writes: bool
    reason: str
    oldest_seconds: float
    is_short: bool


@dataclass(frozen=True)
class Cost:
    """What a scenario cost."""

    name: str
    seconds: tuple[float, ...]
    limit_seconds: float
    oldest_seconds: float

    def __str__(self) -> str:
        longest = max(self.seconds)
        mark = " " if longest <= self.limit_seconds else "!"
        written, led, seen = self.seconds
        return (
            f"{longest:6.2f} s {mark} of {self.limit_seconds:g} s   written {written:.2f}, led {led:.2f}, "
            f"seen {seen:.2f}   oldest view {self.oldest_seconds:3.1f} s   {self.name}"
        )


class Scenarios:
    """The scenarios of one deployment."""

    def __init__(self, deploy: Deploy) -> None:
        self._deploy = deploy
        self._all: list[Scenario] = []

    def add(
        self,
        *,
        limit_seconds: float,
        loses_writes: bool = False,
        reason: str = "",
        oldest_seconds: float = math.inf,
        is_short: bool = False,
    ) -> Callable[[Act], Act]:
        """Add the decorated function."""

        def enter(act: Act) -> Act:
            name = f"{self._deploy.__name__.replace('_', ' ')}, {act.__name__.replace('_', ' ')}"
            self._all.append(
                Scenario(name, self._deploy, act, limit_seconds, loses_writes, reason, oldest_seconds, is_short)
            )
            return act

        return enter

    def params(self) -> list[Any]:
        return [
            pytest.param(each, id=each.name, marks=[] if each.is_short else [pytest.mark.failover])
            for each in self._all
        ]


async def run(scenario: Scenario, start: StartServer, directory: Path, binary: Path) -> Cost:
    """Run a scenario, and verify what must hold during and after it."""
    async with scenario.deploy(start, directory, binary) as redis:
        async with world(redis, directory, random.Random(scenario.name)) as running:
            async with asyncio.TaskGroup() as group:
                act = group.create_task(_perform(scenario, redis, running))
                await until(lambda: running.named_at or act.done(), "the fault is over", 100)
                seconds = await running.until_right_again()
            await until(lambda: running.served_by_each(running.named_at), "sessions are served by each router")
            cost = Cost(scenario.name, seconds, scenario.limit_seconds, running.age())
        verify(scenario, running)
        await until(lambda: not any(replica.sessions for replica in running.replicas), "all sessions have ended")
        assert await running.violations() == []
    return cost


async def _perform(scenario: Scenario, redis: Deployment, running: World) -> None:
    await scenario.act(redis, running)


def verify(scenario: Scenario, running: World) -> None:
    """Verify what the sessions, the replicas and the routers' pages have shown."""
    outcomes = running.clients.outcomes
    assert outcomes.refused == []
    assert outcomes.broken == []
    assert [router.statuses for router in running.routers] == [{200}] * len(running.routers)
    assert running.age() <= scenario.oldest_seconds
    overloads = [each for each in running.overloads() if each.end - each.begin > OVERLAP_SECONDS]
    assert not overloads or (scenario.loses_writes and running.is_reported()), overloads
    for router in running.routers:
        assert not scenario.reason or any(scenario.reason in text for text in router.failures)


@contextlib.contextmanager
def stopped(server: EmbeddedServer) -> Iterator[None]:
    """Let a server hang while this context is open."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def scripts_done(raw: Any) -> int:
    """Return how many scripts a server has run with success."""
    found = raw.info("commandstats")
    stats = [found.get(f"cmdstat_{name}", {}) for name in ("eval", "evalsha")]
    return sum(each.get("calls", 0) - each.get("failed_calls", 0) for each in stats)
