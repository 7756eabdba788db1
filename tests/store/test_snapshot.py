"""A snapshot is of one revision: what changes while it is read is in it, or it is not taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from shared_registry.admin.inspector import Inspector
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ReplicaRecord
from shared_registry.store.reader import Gap
from tests.support.space import TIMEOUT_SECONDS, A, B, C, Space, on_server

Meanwhile = Callable[[], Awaitable[None]]


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        await space.add(A)
        yield space


class Interrupted(Inspector):
    """A reader during whose snapshot something happens, after the records were read and before the events are."""

    def __init__(self, space: Space, meanwhile: Meanwhile) -> None:
        super().__init__(space.clients, space.keys, timeout_seconds=TIMEOUT_SECONDS)
        self._meanwhile = meanwhile

    async def records(
        self, urls: Sequence[str], *, known: Callable[[str], ReplicaRecord | None] = lambda _: None
    ) -> dict[str, ReplicaRecord]:
        records = await super().records(urls, known=known)
        await self._meanwhile()
        return records


async def test_changes_during_the_reading_are_in_the_snapshot(space: Space) -> None:
    async def add_two() -> None:
        await space.add(B)
        await space.add(C)

    snapshot = await Interrupted(space, add_two).snapshot()
    assert snapshot.records.keys() == {A, B, C}
    assert snapshot.head.revision == (await space.reader.head()).revision


async def test_a_snapshot_keeps_a_known_record_that_is_equal(space: Space) -> None:
    await space.add(B)
    await space.add(C)
    before = (await space.reader.snapshot()).records
    space.raw.hset(space.keys.replica(B), "last_latency_ms", "7.5")
    space.raw.hset(space.keys.replica(C), "capacity", "no number")
    after = (await space.reader.snapshot(known=before.get)).records
    assert list(after) == [A, B]
    assert after[A] is before[A]
    assert after[B] is not before[B]
    assert after[B].health.last_latency_ms == 7.5


async def test_trimmed_events_during_the_reading_refuse_the_snapshot(space: Space) -> None:
    async def add_two_and_trim() -> None:
        await space.add(B)
        await space.add(C)
        space.raw.xtrim(space.keys.events, maxlen=1, approximate=False)

    with pytest.raises(Gap):
        await Interrupted(space, add_two_and_trim).snapshot()


@pytest.mark.parametrize("has_events", [True, False])
async def test_another_history_during_the_reading_refuses_the_snapshot(space: Space, *, has_events: bool) -> None:
    async def begin_anew() -> None:
        space.raw.delete(*space.dump())
        await space.add(B)
        if not has_events:
            space.raw.delete(space.keys.events)

    with pytest.raises(Gap):
        await Interrupted(space, begin_anew).snapshot()
