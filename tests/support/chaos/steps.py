"""What is done to routers, paths, replicas and Redis. Every step ends the trouble that it made."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable

from shared_registry import ReplicaEndpoint, SharedReplicaRegistry
from shared_registry.errors import RegistryError
from tests.support.chaos.paths import Path
from tests.support.chaos.spans import Spans
from tests.support.chaos.world import CAPACITY, EXPIRY, LEASE, Place, World
from tests.support.until import until

Step = Callable[[], Coroutine[None, None, None]]
LONG = 7.0
"""Longer than any bound, so that a replica that stays in the wrong state is noticed."""


class Steps:
    """The steps of one world, each with its targets and its length at random."""

    def __init__(self, world: World, operator: SharedReplicaRegistry) -> None:
        self._world = world
        self._operator = operator
        self._rng = world.rng
        self._is_redis_busy = False
        self._kept_urls: set[str] = set()

    def in_each_run(self) -> list[Step]:
        """Return the steps after which verdicts by several routers decide, in any order, but the longest first."""
        longest = [self.bring_a_replica_back_for_one_router, self.kill_a_replica_and_the_router_that_probes_it]
        others = [self.fail_one_path_of_the_prober, self.blind_the_leader, self.kill_a_replica]
        others.append(self.squeeze_all_routers)
        return [*self._rng.sample(longest, 2), *self._rng.sample(others, 4)]

    def in_some_runs(self) -> list[Step]:
        return [
            self.fail_one_path,
            self.blind_a_router,
            self.blind_half_to_a_quarter,
            self.kill_most_replicas,
            self.pause_briefly,
            self.pause_past_expiry,
            self.kill_a_router,
            self.restart_a_router,
            self.squeeze_a_router,
            self.squeeze_the_leader,
            self.break_a_resolver,
            self.cut_off_a_router,
            self.pause_redis,
            self.restart_redis,
            self.drain,
            self.disable,
            self.register_again,
        ]

    # Paths

    async def fail_one_path(self) -> None:
        place, url = self._rng.choice(self._world.places), self._rng.choice(self._world.urls)
        await self._fail("path", self._world.paths.some([place.number], [url]), self._seconds(1, LONG))

    async def fail_one_path_of_the_prober(self) -> None:
        url = self._rng.choice(self._world.urls)
        place = self._world.probing_place(url)
        await self._fail("the prober's path", self._world.paths.some([place.number], [url]), LONG)

    async def blind_the_leader(self) -> None:
        place = self._world.leading_place or self._world.places[0]
        keeps_redis = not self._is_redis_busy and self._rng.random() < 0.7
        self._is_redis_busy |= keeps_redis
        async with self._kept([place]):
            await self._fail("all paths of the leader", self._world.paths_of(place), LONG)
        self._is_redis_busy &= not keeps_redis

    async def blind_a_router(self) -> None:
        place = self._rng.choice(self._world.places)
        await self._fail("all paths", self._world.paths_of(place), self._seconds(2, LONG))

    async def blind_half_to_a_quarter(self) -> None:
        places = self._rng.sample(range(len(self._world.places)), len(self._world.places) // 2)
        urls = self._rng.sample(self._free_urls(), len(self._world.urls) // 4)
        await self._fail("half to a quarter", self._world.paths.some(places, urls), LONG)

    async def _fail(self, what: str, paths: Iterable[Path], seconds: float) -> None:
        fault, paths = self._rng.choice(["refused", "hanging"]), list(paths)
        hosts = " ".join(path.host for path in paths)
        async with self._noted(f"{what} {fault}: {hosts}"):
            await asyncio.gather(*(path.fail(fault) for path in paths))
            await asyncio.sleep(seconds)
            await asyncio.gather(*(path.heal(fault) for path in paths))

    # Replicas

    async def kill_a_replica(self) -> None:
        url = self._rng.choice(self._free_urls())
        await self._fail("replica", self._everybody_to([url]), LONG)

    async def bring_a_replica_back_for_one_router(self) -> None:
        """A replica that was dead for all is reached by a router that does not probe it."""
        url = self._rng.choice(self._world.urls)
        probing = self._world.probing_place(url)
        place = self._rng.choice([one for one in self._world.places if one is not probing])
        others = [one.number for one in self._world.places if one is not place]
        (near,), far = self._world.paths.some([place.number], [url]), self._world.paths.some(others, [url])
        keeps_redis = not self._is_redis_busy
        self._is_redis_busy = True
        self._kept_urls.add(url)
        async with self._kept([place]), self._noted(f"back for r{place.number} only: {url}"):
            await asyncio.gather(*(path.fail("refused") for path in [near, *far]))
            with contextlib.suppress(AssertionError):  # others may be in the way
                await until(lambda: self._world.sampler.last.status(url) == "unhealthy", seconds=4.0)
            await near.heal("refused")
            await asyncio.sleep(LONG)
            await asyncio.gather(*(path.heal("refused") for path in far))
        self._kept_urls.discard(url)
        self._is_redis_busy &= not keeps_redis

    async def kill_most_replicas(self) -> None:
        urls = self._rng.sample(self._free_urls(), len(self._world.urls) * 3 // 4)
        await self._fail("most replicas", self._everybody_to(urls), LONG)

    async def kill_a_replica_and_the_router_that_probes_it(self) -> None:
        """A replica that was handed over dies with the router that probes it; without one, hand one over first."""
        url = self._rng.choice(self._free_urls())
        probing = self._world.probing_place(url)
        blind = self._world.paths.some([probing.number], [url])
        async with self._noted(f"handing over {url} from r{probing.number}"):
            await asyncio.gather(*(path.fail("refused") for path in blind))
            with contextlib.suppress(AssertionError):  # others may be in the way
                await until(lambda: self._world.sampler.last.prober(url), seconds=LONG)
        prober = self._world.place_of(self._world.sampler.last.prober(url))
        try:
            if prober is None:
                return
            replica = asyncio.create_task(self._fail("replica", self._everybody_to([url]), LONG + 3.0))
            await self._end_and_replace(prober, signal.SIGKILL)
            await replica
        finally:
            await asyncio.gather(*(path.heal("refused") for path in blind))

    def _everybody_to(self, urls: list[str]) -> list[Path]:
        return self._world.paths.some(range(len(self._world.places)), urls)

    # Routers

    async def pause_briefly(self) -> None:
        await self._pause(LEASE / 3)

    async def pause_past_expiry(self) -> None:
        await self._pause(EXPIRY * 1.4)

    async def _pause(self, seconds: float) -> None:
        async with self._taken("paused") as place:
            if place is not None:
                await self._during(place.stopped, lambda: place.signal(signal.SIGSTOP), seconds)
                place.signal(signal.SIGCONT)

    async def kill_a_router(self) -> None:
        async with self._taken("killed") as place:
            if place is not None:
                await self._end_and_replace(place, signal.SIGKILL, is_taken=True)

    async def restart_a_router(self) -> None:
        async with self._taken("restarted") as place:
            if place is not None:
                await self._end_and_replace(place, signal.SIGTERM, is_taken=True)

    async def _end_and_replace(self, place: Place, number: int, *, is_taken: bool = False) -> None:
        if place.is_busy and not is_taken:
            return
        place.is_busy = True
        place.gone.open(time.time())
        await asyncio.to_thread(place.process.kill if number == signal.SIGKILL else place.process.stop)
        await place.start()
        place.is_busy = False

    async def squeeze_a_router(self) -> None:
        async with self._taken("without descriptors") as place:
            if place is not None:
                await self._squeeze([place])

    async def squeeze_the_leader(self) -> None:
        place = self._world.leading_place
        if place is not None and not place.is_busy:
            async with self._kept([place]), self._noted(f"the leader r{place.number} without descriptors"):
                await self._squeeze([place])

    async def squeeze_all_routers(self) -> None:
        places = [place for place in self._world.places if not place.is_busy]
        async with self._kept(places), self._noted("all without descriptors"):
            await self._squeeze(places)

    async def _squeeze(self, places: list[Place]) -> None:
        for place in places:
            place.squeeze()
        for _ in range(5):
            for place in places:
                for path in self._world.paths_of(place):
                    path.drop_connections()
            await asyncio.sleep(0.6)
        for place in places:
            place.release()

    async def break_a_resolver(self) -> None:
        mode = self._rng.choice(["slow", "hang", "fail"])
        async with self._taken(f"resolver {mode}") as place:
            if place is not None:
                await self._during(place.nameless, lambda: place.set_resolver(mode), self._seconds(2, 5))
                place.set_resolver("up")

    async def cut_off_a_router(self) -> None:
        async with self._taken("cut off from Redis") as place:
            if place is not None:
                proxy = place.proxy
                name = self._rng.choice(["refuses", "loses_commands", "loses_replies"])
                place.cut_off.open(time.time())
                setattr(proxy, name, True)
                proxy.cut()
                await asyncio.sleep(self._seconds(1, 4))
                proxy.heal()
                proxy.cut()
                place.cut_off.close(time.time())

    # Redis

    async def pause_redis(self) -> None:
        seconds = 1.0 if self._is_redis_busy else self._rng.choice([1.0, EXPIRY * 1.3])

        async def pause() -> None:
            os.kill(self._world.server.pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            os.kill(self._world.server.pid, signal.SIGCONT)

        await self._without_redis(f"Redis paused for {seconds:g} s", pause)

    async def restart_redis(self) -> None:
        async def restart() -> None:
            await asyncio.to_thread(self._world.server.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(self._world.server.start)

        await self._without_redis("Redis killed and started again", restart)

    async def _without_redis(self, what: str, trouble: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(AssertionError):  # something else went on for long
            await until(lambda: not self._is_redis_busy, seconds=LONG + 2.0)
        if self._is_redis_busy:
            return
        self._is_redis_busy = True
        async with self._noted(what):
            self._world.redis_away.open(time.time())
            await trouble()
            self._world.redis_away.close(time.time())
        self._is_redis_busy = False

    # Operators

    async def drain(self) -> None:
        await self._operate("drain", self._operator.drain)

    async def disable(self) -> None:
        await self._operate("disable", self._operator.disable)

    async def register_again(self) -> None:
        await self._operate("deregister", self._operator.deregister)

    async def _operate(self, what: str, change: Callable[[str], Awaitable[object]]) -> None:
        url = self._rng.choice(self._free_urls())
        async with self._noted(f"{what} {url}"):
            await self._try(change(url))
            await asyncio.sleep(self._seconds(0.3, 1.5))
            await self.restore(url)

    async def restore(self, url: str) -> None:
        """Let a replica be registered and active, as soon as Redis lets it."""
        await self._try(self._operator.register(ReplicaEndpoint(url, capacity=CAPACITY)))
        await self._try(self._operator.enable(url))

    async def _try(self, command: Awaitable[object]) -> None:
        """Let a command that Redis does not take now, or that another one made pointless, go."""
        with contextlib.suppress(RegistryError):
            await command

    # Helpers

    def _free_urls(self) -> list[str]:
        return [url for url in self._world.urls if url not in self._kept_urls]

    @contextlib.asynccontextmanager
    async def _kept(self, places: list[Place]) -> AsyncIterator[None]:
        """Let nothing else be done to these routers meanwhile, except to their paths and to Redis."""
        kept = [place for place in places if not place.is_busy]
        for place in kept:
            place.is_busy = True
        yield
        for place in kept:
            place.is_busy = False

    def _seconds(self, least: float, most: float) -> float:
        return self._rng.uniform(least, most)

    async def _during(self, spans: Spans, cause: Callable[[], object], seconds: float) -> None:
        spans.open(time.time())
        cause()
        await asyncio.sleep(seconds)
        spans.close(time.time())

    @contextlib.asynccontextmanager
    async def _noted(self, what: str) -> AsyncIterator[None]:
        self._world.note(what)
        yield
        self._world.note(f"  over: {what.partition(':')[0]}")

    @contextlib.asynccontextmanager
    async def _taken(self, what: str) -> AsyncIterator[Place | None]:
        """Take a router that nothing else is done to; `None` if there is none. Half of the time it is the leader."""
        free = [place for place in self._world.places if not place.is_busy]
        if not free:
            yield None
            return
        leading = self._world.leading_place
        place = leading if leading in free and self._rng.random() < 0.5 else self._rng.choice(free)
        assert place is not None
        place.is_busy = True
        async with self._noted(f"r{place.number} {what}"):
            yield place
        place.is_busy = False


async def make_trouble(steps: Steps, rng: random.Random, seconds: float) -> None:
    """Let everything break, each in its turn, several at a time; all is well again when it returns."""
    deadline = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < deadline:
            certain = steps.in_each_run()
            some = rng.sample(steps.in_some_runs(), len(certain))
            for step in itertools.chain(*zip(certain, some, strict=True)):
                group.create_task(step())
                await asyncio.sleep(rng.uniform(0.4, 0.8))
                if time.monotonic() > deadline:
                    break
