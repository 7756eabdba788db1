"""Whatever happens, and whenever replies and events come, the mirror ends up equal to the shared state."""

from __future__ import annotations

import random

import pytest

from shared_registry.errors import StoreUnavailable
from shared_registry.model import Event, ReplicaStatus
from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import MirroringRouter, following
from tests.support.replay import replaying, states
from tests.support.scripted_reader import History, url_of

WRITES = ("register", "register", "change", "change", "change", "turn", "turn", "remove", "order", "refresh", "lead")
FAULTS = ("trim", "lose_events", "lose_history", "outage", "slow_snapshot", "slow_feed")
FAILOVERS = ("save", "fail_over", "slow_feed")


class Chaos:
    """Random steps on one history and one router; replies of its own commands come late and in any order."""

    def __init__(self, router: MirroringRouter, rng: random.Random) -> None:
        self.router = router
        self.rng = rng
        self.replies: list[tuple[Event, int]] = []
        self.fail_over = router.reader.history.saved()

    @property
    def history(self) -> History:
        return self.router.reader.history

    async def step(self, name: str) -> None:
        await getattr(self, f"_{name}")()
        if self.replies and self.rng.random() < 0.5:
            event, generation = self.replies.pop(self.rng.randrange(len(self.replies)))
            self.router.mirror.apply_reply([event], generation)
        await self.router.clock.advance(self.rng.choice([0.0, 0.0, 0.1, 1.5]))

    async def recover(self) -> None:
        """End every fault; let everything arrive."""
        reader = self.router.reader
        reader.error = None
        reader.snapshot_gate.set()
        reader.stream_gate.set()
        await self.router.clock.advance(10)
        for event, generation in self.replies:
            self.router.mirror.apply_reply([event], generation)
        await self.router.clock.advance(10)

    def _own(self, event: Event) -> None:
        self.replies.append((event, self.router.mirror.generation))

    def _any(self) -> int | None:
        numbers = [int(key.split(".")[3].split(":")[0]) for key in self.history.records]
        return self.rng.choice(numbers) if numbers else None

    async def _register(self) -> None:
        self._own(self.history.register(self.rng.randrange(1, 8)))

    async def _change(self) -> None:
        if (number := self._any()) is not None:
            self._own(self.history.change(number, status=self.rng.choice(list(ReplicaStatus))))

    async def _turn(self) -> None:
        numbers = [number for number in range(1, 8) if url_of(number) in self.history.records]
        if len(numbers) > 1:
            some = self.rng.sample(numbers, self.rng.randrange(2, len(numbers) + 1))
            self._own(self.history.turn(some, self.rng.choice([ReplicaStatus.HEALTHY, ReplicaStatus.UNHEALTHY])))

    async def _order(self) -> None:
        if (number := self._any()) is not None:
            self._own(self.history.change(number, order=self.rng.randrange(100)))

    async def _remove(self) -> None:
        if (number := self._any()) is not None:
            self._own(self.history.remove(number))

    async def _lead(self) -> None:
        if self.history.leader is None or self.rng.random() < 0.5:
            self._own(self.history.elect(self.rng.choice("abc")))
        else:
            self._own(self.history.resign())

    async def _refresh(self) -> None:
        if self.router.reader.error is None:
            await self.router.mirror.refresh(at_once=True)

    async def _trim(self) -> None:
        self.history.trim()

    async def _lose_events(self) -> None:
        self.history.events.clear()

    async def _lose_history(self) -> None:
        if self.rng.random() < 0.3:
            self.router.reader.history = History(f"history id {self.rng.random()}", first=self.rng.randrange(1000))
            await self._save()

    async def _save(self) -> None:
        self.fail_over = self.history.saved()

    async def _fail_over(self) -> None:
        self.fail_over()

    async def _outage(self) -> None:
        self.router.reader.error = self.rng.choice([StoreUnavailable("away"), None])

    async def _slow_snapshot(self) -> None:
        gate = self.router.reader.snapshot_gate
        self.rng.choice([gate.clear, gate.set])()

    async def _slow_feed(self) -> None:
        gate = self.router.reader.stream_gate
        self.rng.choice([gate.clear, gate.set])()


@pytest.mark.parametrize("seed", range(25))
async def test_a_mirror_equals_redis_after_any_lost_messages(seed: int) -> None:
    async with following(FakeClock(), History()) as router:
        await live_through(WRITES + FAULTS, router, seed)
        assert_equal(router)


async def test_a_mirror_equals_redis_after_failovers_that_lost_writes() -> None:
    for seed in range(25):
        async with following(FakeClock(), History()) as router:
            await live_through(WRITES + FAULTS + FAILOVERS, router, seed)
            assert_equal(router)


@pytest.mark.parametrize("seed", range(25))
async def test_without_losses_a_mirror_reads_everything_only_once(seed: int) -> None:
    async with following(FakeClock(), History()) as router:
        await live_through((*WRITES, "slow_feed"), router, seed)
        assert_equal(router)
        assert router.mirror.generation == 1


@pytest.mark.parametrize("seed", range(25))
async def test_what_is_reported_leads_to_the_view(seed: int) -> None:
    async with following(FakeClock(), History()) as router:
        with replaying(router.mirror) as replay:
            await live_through(WRITES + FAULTS + FAILOVERS, router, seed)
        assert replay.replicas == states(router.mirror)
        assert replay.leader == router.mirror.leader


def assert_equal(router: MirroringRouter) -> None:
    assert router.is_equal
    assert router.shown() == sorted(router.shown(), key=lambda key: (router.reader.order_of(key), key))


async def live_through(steps: tuple[str, ...], router: MirroringRouter, seed: int) -> None:
    rng = random.Random(seed)
    chaos = Chaos(router, rng)
    for _ in range(120):
        await chaos.step(rng.choice(steps))
    await chaos.recover()
