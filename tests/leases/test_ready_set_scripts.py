"""The ready sets and `full`, after any sequence of commands, are what an independent reading of the rules says."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState, ProbeResult, Source
from tests.support.effort import effort
from tests.support.space import THRESHOLDS, A, B, Space, on_server

_namespaces = itertools.count()
PLACES = ("ready_primary", "ready_secondary", "full")


@dataclass
class Expected:
    """What the rules say of one replica; written from the rules, not from the Lua."""

    incarnation: str
    source: Source
    primary: bool
    weight: float
    capacity: int
    status: str = "unknown"
    failures: int = 0
    successes: int = 0
    admin: str = "active"
    in_flight: int = 0
    is_removed: bool = False

    def see(self, *, ok: bool) -> None:
        self.failures, self.successes = (0, self.successes + 1) if ok else (self.failures + 1, 0)
        if ok and (self.status == "unknown" or (self.status == "unhealthy" and self.successes == THRESHOLDS.recovery)):
            self.status, self.successes = "healthy", 0
        if not ok and self.status != "unhealthy" and self.failures == THRESHOLDS.failure:
            self.status = "unhealthy"

    @property
    def may_serve(self) -> bool:
        return self.status == "healthy" and self.admin == "active" and not self.is_removed

    @property
    def has_room(self) -> bool:
        return self.capacity == 0 or self.in_flight < self.capacity


urls = st.sampled_from([A, B])
steps = st.one_of(
    st.tuples(
        st.just("register"),
        urls,
        st.sampled_from(list(Source)),
        st.booleans(),
        st.sampled_from([0.1, 1.0, 3.0]),
        st.integers(0, 3),
    ),
    st.tuples(st.just("remove"), urls),
    st.tuples(st.just("admin"), urls, st.sampled_from(["active", "draining", "disabled"])),
    st.tuples(st.just("load"), urls, st.integers(0, 4)),
    st.tuples(st.just("outcome"), urls, st.booleans()),
    st.tuples(st.just("report"), urls, st.booleans()),
    st.tuples(st.just("late report"), urls, st.booleans()),
)


class Model:
    """Takes the same steps as Redis, in Python."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.replicas: dict[str, Expected] = {}
        self.earlier: dict[str, str] = {}
        self.count = itertools.count(1)
        self.batches = itertools.count(1)
        self.epoch = 0

    async def take(self, step: tuple[object, ...]) -> None:
        match step:
            case ("register", str(url), Source() as mode, bool(primary), float(weight), int(capacity)):
                await self.register(url, mode, primary=primary, weight=weight, capacity=capacity)
            case ("remove", str(url)):
                await self.remove(url)
            case ("admin", str(url), str(state)):
                await self.set_admin(url, state)
            case ("load", str(url), int(in_flight)) if url in self.replicas:
                self.replicas[url].in_flight = in_flight
                self.space.plant_load(url, in_flight)
                await self.set_admin(url, self.replicas[url].admin)
            case (("outcome" | "report") as way, str(url), bool(ok)) if url in self.replicas:
                await self.see(way, url, ok=ok)
            case ("late report", str(url), bool(ok)) if url in self.earlier:
                error = None if ok else "late"
                await self.space.report(self.epoch, next(self.batches), ProbeResult(url, self.earlier[url], 1.0, error))

    async def register(self, url: str, mode: Source, *, primary: bool, weight: float, capacity: int) -> None:
        request = f"request {next(self.count)}"
        await self.space.add(url, mode=mode, request=request, primary=primary, weight=weight, capacity=capacity)
        known = self.replicas.get(url)
        if known is None or (known.is_removed and mode is Source.EXPLICIT):
            in_flight = known.in_flight if known else 0
            self.replicas[url] = Expected(request, mode, primary, weight, capacity, in_flight=in_flight)
        elif not known.is_removed and (mode is Source.EXPLICIT or known.source is Source.SEED):
            known.source, known.primary, known.weight, known.capacity = mode, primary, weight, capacity

    async def remove(self, url: str) -> None:
        known = self.replicas.get(url)
        removed = await self.space.store.deregister(url, known.incarnation if known else "none")
        assert (removed is not None) == (known is not None and not known.is_removed)
        if known:
            known.is_removed = True
            self.earlier[url] = known.incarnation

    async def set_admin(self, url: str, state: str) -> None:
        answer = await self.space.store.set_admin(url, AdminState(state), reason=f"{next(self.count)}")
        known = self.replicas.get(url)
        assert (answer is not None) == (known is not None and not known.is_removed)
        if known:
            known.admin = state

    async def see(self, way: str, url: str, *, ok: bool) -> None:
        known = self.replicas[url]
        result = ProbeResult(url, known.incarnation, 1.5, None if ok else "refused")
        if way == "outcome":
            await self.space.store.record_outcome(result, THRESHOLDS)
        else:
            report = await self.space.report(self.epoch, next(self.batches), result)
            assert report.dropped == known.is_removed
        if not known.is_removed:
            known.see(ok=ok)

    def scores(self, *, primary: bool) -> dict[str, float]:
        return {
            url: known.in_flight / known.weight
            for url, known in self.replicas.items()
            if known.may_serve and known.has_room and known.primary is primary
        }

    def full(self) -> set[str]:
        return {url for url, known in self.replicas.items() if known.may_serve and not known.has_room}


@effort(examples=80)
@given(sequence=st.lists(steps, min_size=10, max_size=60))
def test_any_sequence_of_commands_leaves_exactly_the_ready_ones_ready(
    server: EmbeddedServer, namespace: str, sequence: list[tuple[object, ...]]
) -> None:
    async def run() -> None:
        async with on_server(server.url, f"{namespace}.{next(_namespaces)}"[-64:]) as space:
            model = Model(space)
            model.epoch = await space.elect()
            for step in sequence:
                await model.take(step)
                assert dict(space.raw.zrange(space.keys.ready_primary, 0, -1, withscores=True)) == model.scores(
                    primary=True
                )
                assert dict(space.raw.zrange(space.keys.ready_secondary, 0, -1, withscores=True)) == model.scores(
                    primary=False
                )
                assert set(space.raw.smembers(space.keys.full)) == model.full()
            assert await find_violations(space.reader, space.keys) == []
            assert {url: space.fields(url)["status"] for url in model.replicas} == {
                url: known.status for url, known in model.replicas.items()
            }
            space.raw.delete(*space.dump())

    asyncio.run(run())


@pytest.mark.parametrize("place", [*PLACES, "nowhere"])
async def test_wherever_somebody_put_a_replica_by_hand_it_comes_to_be_in_its_one_place(
    server: EmbeddedServer, namespace: str, place: str
) -> None:
    async with on_server(server.url, namespace) as space:
        await space.add(A, primary=place != "ready_secondary", weight=2.0, capacity=3)
        await space.make("healthy", A)
        space.plant_load(A, 3 if place == "full" else 1)
        state = AdminState.DRAINING if place == "nowhere" else AdminState.ACTIVE
        for number, planted in enumerate(itertools.product([False, True], repeat=len(PLACES))):
            for name, is_there in zip(PLACES, planted, strict=True):
                key = getattr(space.keys, name)
                space.raw.delete(key)
                if is_there:
                    space.raw.sadd(key, A) if name == "full" else space.raw.zadd(key, {A: 7})
            await space.store.set_admin(A, state, reason=f"{number}")
            assert [name for name, urls in zip(PLACES, space.ready(), strict=True) if A in urls] == [place] * (
                place != "nowhere"
            )
            if place.startswith("ready"):
                assert space.raw.zscore(getattr(space.keys, place), A) == 0.5
            assert await find_violations(space.reader, space.keys) == []
