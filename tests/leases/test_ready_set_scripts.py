"""The ready sets and `full`: whatever was put there by hand, the next command brings a replica to its one place."""

from __future__ import annotations

import itertools

import pytest

from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState
from tests.support.space import A, on_server

PLACES = ("ready_primary", "ready_secondary", "full")


@pytest.mark.parametrize("place", [*PLACES, "nowhere"])
async def test_a_misplaced_replica_returns_to_its_one_correct_set(
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
