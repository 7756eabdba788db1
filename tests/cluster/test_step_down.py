"""An operator asks the leader to step down: real routers on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import Fenced
from shared_registry.model import Event, EventKind, Leader, ReplicaEndpoint
from shared_registry.registry.facade import SharedReplicaRegistry
from tests.support.router_process import RouterProcess
from tests.support.space import A, Space
from tests.support.until import until

LEASE = 10.0
"""Long enough that no term ends by itself on a busy machine."""
QUIET_SECONDS = 2.0
PATIENCE = 25.0


@pytest.fixture
def settings(server: EmbeddedServer, namespace: str) -> dict[str, Any]:
    return {
        "redis_url": server.url,
        "namespace": namespace,
        "lease_seconds": LEASE,
        "renew_interval_seconds": 0.25,
        "health_check_interval_seconds": 0.2,
        "fast_interval_seconds": 0.2,
        "router_expiry_seconds": 60.0,
    }


async def soon(condition: Any) -> None:
    await until(condition, seconds=PATIENCE)


async def elections(space: Space) -> list[Event]:
    return [event async for event in space.reader.all_events() if event.kind is EventKind.LEADER_ELECTED]


async def next_vacancy(space: Space, router: SharedReplicaRegistry) -> float:
    """Let the leader step down; return for how long nobody led."""
    before = len(await elections(space))
    await space.store.step_down((await leader_now(space)).epoch, sit_out_seconds=1.0)
    await soon(functools.partial(_are_more, space, before))
    resigned = [event for event in await router.events() if event.kind is EventKind.LEADER_RESIGNED]
    return (await elections(space))[-1].at - resigned[-1].at


async def _are_more(space: Space, elected: int) -> bool:
    return len(await elections(space)) > elected


async def leader_now(space: Space) -> Leader:
    leader = await space.reader.leader()
    assert leader is not None
    return leader


@contextlib.asynccontextmanager
async def a_router(settings: dict[str, Any], name: str) -> AsyncIterator[SharedReplicaRegistry]:
    """A router in this process whose probes all succeed."""

    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.0, None

    config = RouterConfig(router_id=name, replicas=[ReplicaEndpoint(A)], **settings)
    async with SharedReplicaRegistry(config, http_get=probe) as router:
        yield router


async def test_another_router_leads_within_a_fifth_of_a_second(space: Space, settings: dict[str, Any]) -> None:
    async with a_router(settings, "one") as one:
        await soon(lambda: one.is_leader)
        async with a_router(settings, "two") as two, a_router(settings, "three") as three:
            first = await leader_now(space)
            deposed = await space.store.step_down(first.epoch, sit_out_seconds=3 * LEASE, by="ann@desk")
            assert deposed == one.router_key
            await soon(lambda: two.is_leader or three.is_leader)
            assert not one.is_leader
            resigned = next(event for event in await one.events() if event.kind is EventKind.LEADER_RESIGNED)
            _, elected = await elections(space)
            assert (resigned.by, resigned.sit_out_seconds) == ("ann@desk", 3 * LEASE)
            await asyncio.sleep(QUIET_SECONDS)  # no condition to wait for: what must not happen is another election
            assert [event.router for event in (await elections(space))[1:]] == [elected.router]
            assert (await leader_now(space)).router == elected.router != one.router_key
            vacancies = [elected.at - resigned.at]
            while min(vacancies) > 0.2 and len(vacancies) < 5:  # the machine stood still meanwhile
                vacancies.append(await next_vacancy(space, one))
            assert min(vacancies) <= 0.2


async def test_a_lone_router_leads_again_after_the_time_asked(space: Space, settings: dict[str, Any]) -> None:
    async with a_router(settings, "one") as one:
        await soon(lambda: one.is_leader)
        first = await leader_now(space)
        await space.store.step_down(first.epoch, sit_out_seconds=0.8)
        await soon(lambda: not one.is_leader)
        await soon(lambda: one.is_leader)
        resigned = next(event for event in await one.events() if event.kind is EventKind.LEADER_RESIGNED)
        _, elected = await elections(space)
        assert 0.8 <= round(elected.at - resigned.at, 3) < PATIENCE
        assert elected.epoch > first.epoch
        replica = one.get(A)
        assert replica is not None
        await soon(lambda: replica.is_healthy)


async def test_a_deposed_leader_campaigns_again_once_its_successor_is_gone(
    space: Space, settings: dict[str, Any]
) -> None:
    async with a_router(settings, "one") as one:
        await soon(lambda: one.is_leader)
        async with a_router(settings, "two") as two:
            await space.store.step_down((await leader_now(space)).epoch, sit_out_seconds=1.0)
            await soon(lambda: two.is_leader)
        await soon(lambda: one.is_leader)
        assert [event.router for event in await elections(space)] == [one.router_key, two.router_key, one.router_key]


async def test_a_leader_deposed_while_paused_writes_nothing_and_sits_out(
    space: Space, settings: dict[str, Any], tmp_path: Path
) -> None:
    paused = RouterProcess(tmp_path / "paused.jsonl", routers=1, replicas=[], config=settings)
    try:
        await soon(lambda: bool(paused.lines_of("leading")))
        token = space.raw.hget(space.keys.leader, "token")
        async with a_router(settings, "other") as other:
            await soon(lambda: other.get(A) is not None)
            os.kill(paused.pid, signal.SIGSTOP)
            first = await leader_now(space)
            assert await space.store.step_down(first.epoch, sit_out_seconds=60.0) in paused.routers()
            await soon(lambda: other.is_leader)
            second = await leader_now(space)
            assert second.epoch > first.epoch
            with pytest.raises(Fenced):  # what it would send, were it to go on where it was stopped
                await space.report(first.epoch, 99, space.failure(A), token=token)
            os.kill(paused.pid, signal.SIGCONT)
            await soon(lambda: bool(paused.lines_of("following")))
            assert (await leader_now(space)).router == other.router_key
            since = [event async for event in space.reader.all_events() if event.epoch >= second.epoch]
            assert not [event for event in since if event.router in paused.routers()]
        # The other one has resigned, but the deposed sits out.
        await asyncio.sleep(QUIET_SECONDS)
        assert not space.raw.exists(space.keys.leader)
    finally:
        paused.kill()
