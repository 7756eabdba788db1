"""Coming back among the live routers: one attempt for all who ask for it meanwhile, and its failure is told to all."""

from __future__ import annotations

import asyncio
import random

import pytest

from shared_registry.errors import StoreUnavailable
from shared_registry.happenings import Emitter
from shared_registry.leases.lease_news import LeaseNews
from shared_registry.leases.ledger import Ledger
from shared_registry.leases.reconciliation import Member, Reconciler
from shared_registry.leases.recovery import Recovery
from tests.support.fake_clock import FakeClock
from tests.support.leasing_router import A, ScriptedReader, ScriptedStore, hold

CALLERS = 200


class SlowStore(ScriptedStore):
    """Joining takes until the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def join(self) -> None:
        await self.gate.wait()
        await super().join()


@pytest.fixture
async def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
def recovery(store: SlowStore) -> Recovery:
    ledger = Ledger()
    hold(ledger, "held")
    reconciler = Reconciler(
        store.as_store(),
        ScriptedReader(store).as_reader(),
        ledger,
        LeaseNews(Emitter(), FakeClock()),
        Member("r~1", store.join),
        affinity_seconds=60.0,
        clock=FakeClock(),
        rng=random.Random(1),
    )
    return Recovery(store.join, reconciler)


async def begun(recovery: Recovery) -> list[asyncio.Task[None]]:
    async def call() -> None:
        await recovery.rejoin()

    tasks = [asyncio.create_task(call()) for _ in range(CALLERS)]
    await asyncio.sleep(0)
    return tasks


async def test_many_callers_share_one_recovery(recovery: Recovery, store: SlowStore) -> None:
    tasks = await begun(recovery)
    store.gate.set()
    await asyncio.gather(*tasks)
    assert (store.joins, store.calls.count("leases"), store.leases) == (1, 1, {"held": A})
    await recovery.rejoin()
    assert store.joins == 2


async def test_a_failure_reaches_all_callers_and_the_next_retries(recovery: Recovery, store: SlowStore) -> None:
    tasks = await begun(recovery)
    store.errors["join"] = [StoreUnavailable("away")]
    store.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {(type(result), str(result)) for result in results} == {(StoreUnavailable, "away")}
    assert store.calls == ["join"]
    await recovery.rejoin()
    assert store.leases == {"held": A}


async def test_a_cancelled_recovery_is_left_to_the_next_caller(recovery: Recovery, store: SlowStore) -> None:
    tasks = await begun(recovery)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    store.gate.set()
    await asyncio.gather(*tasks[1:])
    assert (store.joins, store.leases) == (1, {"held": A})
