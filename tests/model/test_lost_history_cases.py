"""Losses of history that once went wrong, or look as if they could: views of several ages put back in some order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shared_registry.aio.clock import SystemClock
from shared_registry.happenings import Emitter
from shared_registry.mirror import restoration
from shared_registry.mirror.mirror import Mirror
from shared_registry.mirror.rest import Rest
from shared_registry.mirror.restoration import restore_view
from shared_registry.model import AdminState, Event, Source
from shared_registry.selection.view import View
from shared_registry.store.codec import removed_entry
from tests.support.space import A, B, C, Space

pytestmark = pytest.mark.usefixtures("stays_sound")


async def never() -> str:
    raise AssertionError("this mirror reads once and does not follow")


async def seen(space: Space) -> Mirror:
    """Return a mirror that knows what there is now, and learns no more."""
    mirror = Mirror(
        space.reader,
        View(),
        rest=Rest(refresh_seconds=1.0, clock=SystemClock()),
        max_staleness_seconds=None,
        clock=SystemClock(),
        rng=random.Random(1),
        on_lost_history=never,
        emitter=Emitter(),
    )
    await mirror.load()
    return mirror


async def put_back(space: Space, mirror: Mirror, store: Any = None) -> str:
    assert mirror.history_id is not None
    return await restore_view(
        store or space.store, space.reader, mirror.view, history_id=mirror.history_id, revision=mirror.revision
    )


def lose(space: Space) -> None:
    if keys := space.dump():
        space.raw.delete(*keys)


def shown(mirror: Mirror) -> dict[str, tuple[str, str]]:
    return {replica.key: (replica.health.status.value, replica.admin.value) for replica in mirror.view.all()}


class Interrupted:
    """A store that does something else just before one of its calls."""

    def __init__(self, space: Space, call: int, act: Callable[[], object]) -> None:
        self._space = space
        self._call = call
        self._act = act

    async def restore(self, entries: Sequence[Sequence[str]], **more: Any) -> list[Event] | None:
        self._call -= 1
        if self._call == 0:
            result = self._act()
            if asyncio.iscoroutine(result):
                await result
        return await self._space.store.restore(entries, **more)


async def test_health_of_an_earlier_life_does_not_return(space: Space) -> None:
    await space.add(A)
    await space.make("healthy", A)
    older = await seen(space)
    await space.remove(A)
    await space.add(A)
    newer = await seen(space)
    lose(space)
    await put_back(space, older)
    await put_back(space, newer)
    assert space.fields(A)["incarnation"] == newer.view.all()[0].record.incarnation
    assert space.fields(A)["status"] == "unknown"
    assert "last_ok_at_ms" not in space.fields(A)
    assert space.ready() == (set(), set(), set())


@pytest.mark.parametrize("is_seeded", [True, False])
async def test_health_probed_since_the_loss_stays(space: Space, is_seeded: bool) -> None:
    """Whichever router registered the replica."""
    await space.add(A, capacity=1)
    older = await seen(space)
    await space.remove(A)
    await space.add(A, capacity=2)
    newer = await seen(space)
    lose(space)
    if is_seeded:
        await space.add(A, mode=Source.SEED)
    else:
        await put_back(space, older)
    await space.make("unhealthy", A)
    await put_back(space, newer)
    assert (space.fields(A)["capacity"], space.fields(A)["status"]) == ("2", "unhealthy")


async def test_a_registration_after_a_removal_undoes_the_removal(space: Space) -> None:
    """An older view still shows the removal."""
    await space.add(A)
    await space.remove(A)
    older = await seen(space)
    await space.add(A)
    newer = await seen(space)
    lose(space)
    await put_back(space, older)
    assert space.raw.zrange(space.keys.removed, 0, -1) == [A]
    await put_back(space, newer)
    assert shown(await seen(space)) == {A: ("unknown", "active")}
    assert space.raw.zrange(space.keys.removed, 0, -1) == []
    assert space.raw.ttl(space.keys.replica(A)) == -1


@pytest.mark.parametrize("act", ["drain", "remove"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_an_own_write_has_its_own_revision(space: Space, act: str, is_first: bool) -> None:
    """The reply showed it before the event stream could: the rest of the view is older than another router's."""
    await space.add(A)
    acting = await seen(space)
    await space.add(B)
    other = await seen(space)
    if act == "drain":
        events = await space.store.set_admin(A, AdminState.DRAINING)
    else:
        events = await space.remove(A)
    assert events
    acting.apply_reply(events, acting.generation)
    lose(space)
    for mirror in [acting, other] if is_first else [other, acting]:
        await put_back(space, mirror)
    assert shown(await seen(space)).get(A) == (("unknown", "draining") if act == "drain" else None)


async def test_a_removal_known_to_one_router_outlives_that_router(space: Space) -> None:
    await space.add(A)
    await space.remove(A)
    only_one = await seen(space)
    lose(space)
    await space.add(B)
    follower = await seen(space)
    before = follower.revision
    await put_back(space, only_one)
    events = await space.reader.events(after=before)
    assert [event.kind.value for event in events] == ["view_restored"]
    follower.view.apply(event.record for event in events if event.record)
    lose(space)
    await put_back(space, follower)
    assert await space.add(A, mode=Source.SEED) == []
    assert await space.reader.urls() == [B]


@pytest.mark.parametrize("young_comes_first", [True, False])
async def test_a_partly_restored_history_does_not_undo_an_earlier_one(space: Space, young_comes_first: bool) -> None:
    """Redis is lost twice; in between, a router that has just started read what there was by then."""
    await space.add(A)
    await space.add(B)
    await space.make("healthy", B)
    old = await seen(space)
    lose(space)
    await space.add(C, mode=Source.SEED)
    young = await seen(space)
    lose(space)
    for mirror in (young, old) if young_comes_first else (old, young):
        await put_back(space, mirror)
    assert shown(await seen(space)) == {
        A: ("unknown", "active"),
        B: ("healthy", "active"),
        C: ("unknown", "active"),
    }


async def test_a_replica_missing_in_a_later_view_is_gone(space: Space) -> None:
    """Its removal is longer ago than tombstones last."""
    await space.add(A)
    await space.add(B)
    older = await seen(space)
    await space.remove(A)
    space.raw.delete(space.keys.removed, space.keys.replica(A))
    newer = await seen(space)
    lose(space)
    await put_back(space, older)
    await put_back(space, newer)
    assert shown(await seen(space)) == {B: ("unknown", "active")}
    lose(space)
    await put_back(space, newer)
    before = space.dump()
    await put_back(space, older)
    assert space.dump() == before, "a later view of that history was complete"
    assert shown(await seen(space)) == {B: ("unknown", "active")}


async def test_a_known_removal_is_not_repeated_for_missing_replicas(space: Space) -> None:
    await space.add(A)
    await space.remove(A)
    mirror = await seen(space)
    lose(space)
    await put_back(space, mirror)
    before = space.dump()
    later = f"{int(mirror.revision.partition('-')[0]) + 1}-0"
    events = await space.store.restore(
        [removed_entry("absent", A)], view_history_id=mirror.history_id or "", view_revision=later
    )
    assert events == []
    assert space.dump() == before


@pytest.mark.parametrize("is_repeated_by_the_same", [True, False])
async def test_a_view_put_back_again_changes_nothing(space: Space, is_repeated_by_the_same: bool) -> None:
    await space.add(A)
    await space.make("unhealthy", A)
    await space.add(B)
    await space.remove(B)
    mirror = await seen(space)
    lose(space)
    await put_back(space, mirror)
    before = space.dump()
    await put_back(space, mirror, None if is_repeated_by_the_same else space.store_of("router~2"))
    assert space.dump() == before


@pytest.mark.parametrize("call", range(1, 6))
async def test_a_loss_during_a_restore_removes_nothing_from_it(
    space: Space, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr(restoration, "ENTRIES_AT_ONCE", 1)
    for url in (A, B, C):
        await space.add(url)
    mirror = await seen(space)
    lose(space)

    async def lose_again() -> None:
        lose(space)
        await space.add("http://10.0.0.9", mode=Source.SEED)

    await put_back(space, mirror, Interrupted(space, call, lose_again))
    assert set(shown(await seen(space))) >= {A, B, C}
