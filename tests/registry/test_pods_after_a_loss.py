"""Pods that live on while Redis loses its data, when routers put their views back."""

from __future__ import annotations

from typing import Any

import pytest

from shared_registry.mirror.restoration import restore_view
from shared_registry.model import AdminState, ReplicaEndpoint, ReplicaRecord, Term
from shared_registry.selection.view import View
from shared_registry.store.codec import removed_entry, restored_entry
from shared_registry.store.replies import Announced, AnnouncedAs, BeatWord
from tests.support.space import A, B, Space

pytestmark = pytest.mark.usefixtures("stays_sound")

LOST = "earlier"
EARLIER, LATER = "5-0", "6-0"
NAME = "pod-1"


async def announce(space: Space, url: str = A, instance: str = "aaaa", **spec: Any) -> Announced:
    endpoint = ReplicaEndpoint(url, **spec)
    request = f"r-{instance}"
    return await space.store.announce(url, endpoint, owner="me", instance=instance, ttl_seconds=10.0, request=request)


async def record(space: Space, url: str = A) -> ReplicaRecord:
    return (await space.reader.records([url]))[url]


async def put_back(space: Space, *records: ReplicaRecord, revision: str = LATER) -> list[str]:
    entries = [restored_entry("replica", one) for one in records]
    events = await space.store.restore(entries, view_history_id=LOST, view_revision=revision)
    return [event.record.key for event in events or () if event.record is not None]


async def drained(space: Space, url: str = A, **spec: Any) -> ReplicaRecord:
    """Return a replica that an operator drained, and lose all data."""
    await announce(space, url, **spec)
    await space.store.set_admin(url, AdminState.DRAINING, by="operator", reason="slow disk")
    lost = await record(space, url)
    space.raw.delete(*space.dump())
    return lost


def admin(space: Space, url: str = A) -> tuple[str, str, str]:
    fields = space.fields(url)
    return fields["admin"], fields.get("admin_by", ""), fields["admin_reason"]


@pytest.mark.parametrize("spec", [{}, {"name": NAME}])
async def test_a_restarted_pod_stays_drained(space: Space, spec: dict[str, Any]) -> None:
    lost = await drained(space, **spec)
    await announce(space, A, "bbbb", **spec)
    assert await put_back(space, lost) == [A]
    assert admin(space) == ("draining", "operator", "slow disk")
    assert space.fields(A)["instance"] == "bbbb"
    assert await put_back(space, lost) == [], "said once"
    assert (await record(space)).admin_by_at == lost.admin_by_at


async def test_a_moved_pod_stays_drained(space: Space) -> None:
    lost = await drained(space, name=NAME)
    await announce(space, B, "bbbb", name=NAME)
    assert await put_back(space, lost) == [A, B]
    assert admin(space, B) == ("draining", "operator", "slow disk")


async def test_a_discovered_pod_elsewhere_stays_drained(space: Space) -> None:
    async def discover(url: str) -> None:
        term = Term(await space.elect(), "token")
        await space.store.register_discovered(term, "dns:pods", url, ReplicaEndpoint(url, NAME))

    await discover(A)
    await space.store.set_admin(A, AdminState.DISABLED, by="operator", reason="broken")
    lost = await record(space)
    space.raw.delete(*space.dump())
    await discover(B)
    assert await put_back(space, lost) == [A, B]
    assert admin(space, B) == ("disabled", "operator", "broken")
    absent = removed_entry("absent", A)
    assert await space.store.restore([absent], view_history_id=LOST, view_revision="7-0") == [], "its source decides"


async def test_another_pod_at_that_url_is_not_drained(space: Space) -> None:
    lost = await drained(space, name=NAME)
    await announce(space, A, "bbbb", name="pod-2")
    assert await put_back(space, lost) == []
    assert admin(space)[0] == "active"


async def test_a_later_word_after_the_loss_counts(space: Space) -> None:
    lost = await drained(space)
    await announce(space, A, "bbbb")
    await space.store.set_admin(A, AdminState.DISABLED, by="me", reason="")
    await space.store.set_admin(A, AdminState.ACTIVE, by="me", reason="")
    assert await put_back(space, lost) == []
    assert admin(space) == ("active", "me", "")


@pytest.mark.parametrize("first", [0, 1])
async def test_the_later_of_two_views_counts(space: Space, first: int) -> None:
    await announce(space)
    await space.store.set_admin(A, AdminState.DISABLED, by="operator", reason="broken")
    space.raw.hincrby(space.keys.replica(A), "admin_by_at_ms", -2)
    before = await record(space)
    await space.store.set_admin(A, AdminState.ACTIVE, by="operator", reason="")
    views = [(before, EARLIER), (await record(space), LATER)]
    space.raw.delete(*space.dump())
    await announce(space, A, "bbbb")
    for one, revision in (views[first], views[1 - first]):
        await put_back(space, one, revision=revision)
    assert admin(space) == ("active", "operator", "")


async def test_what_no_operator_said_is_not_passed_on(space: Space) -> None:
    await announce(space)
    space.plant_load(A, 1)
    await space.store.withdraw(A, "aaaa", by="aaaa", when_drained=True)
    lost = await record(space)
    space.raw.delete(*space.dump())
    await announce(space, A, "bbbb")
    await put_back(space, lost)
    assert admin(space) == ("active", "", "")


async def test_one_that_leaves_is_not_drained_for_longer(space: Space) -> None:
    """The replica is about to go: what was said of its name waits for the next one as usual."""
    lost = await drained(space)
    await announce(space, A, "bbbb")
    space.plant_load(A, 1)
    await space.store.withdraw(A, "bbbb", by="bbbb", when_drained=True)
    assert await put_back(space, lost) == []
    assert space.fields(A)["removes_when_drained"] == "1"


async def test_a_damaged_successor_breaks_nothing(space: Space) -> None:
    lost = await drained(space, name=NAME)
    space.raw.set(space.keys.replica(B), "no hash")
    space.raw.hset(space.keys.names, NAME, B)
    assert await put_back(space, lost) == [A]
    space.raw.delete(space.keys.replica(B))


async def test_a_later_view_without_a_pod_does_not_remove_it(space: Space) -> None:
    """A copy of the data may lack it, and so a view that followed that copy: nobody has asked for its removal."""
    await announce(space)
    lost = await record(space)
    space.raw.delete(*space.dump())
    assert await put_back(space, lost, revision=EARLIER) == [A]
    assert await space.store.restore([removed_entry("absent", A)], view_history_id=LOST, view_revision=LATER) == []
    assert (await space.store.beat(A, "aaaa")).word is BeatWord.HELD


async def test_a_removal_that_a_later_view_knows_counts(space: Space) -> None:
    await announce(space)
    lost = await record(space)
    space.raw.delete(*space.dump())
    await put_back(space, lost, revision=EARLIER)
    removal = removed_entry("removed", A, "", "aaaa")
    assert await space.store.restore([removal], view_history_id=LOST, view_revision=LATER) != []
    assert (await space.store.beat(A, "aaaa")).word is BeatWord.REMOVED


async def replaced(space: Space) -> ReplicaRecord:
    """Let an operator remove one instance, and another one announce the same url; lose all data."""
    await announce(space)
    await space.store.deregister(A, space.incarnation(A), by="operator")
    await announce(space, A, "bbbb")
    lost = await record(space)
    space.raw.delete(*space.dump())
    return lost


async def test_a_removed_instance_stays_out_though_another_followed(space: Space) -> None:
    await put_back(space, await replaced(space))
    await space.store.withdraw(A, "bbbb")
    assert (await announce(space)).result is AnnouncedAs.REMOVED
    assert (await announce(space, A, "cccc")).result is AnnouncedAs.CREATED


async def test_a_removed_instance_that_came_first_gives_way(space: Space) -> None:
    lost = await replaced(space)
    await announce(space)
    assert await put_back(space, lost) == [A]
    assert (await space.store.beat(A, "aaaa")).word is BeatWord.TAKEN
    assert (await space.store.beat(A, "bbbb")).word is BeatWord.HELD


async def test_a_removal_is_put_back_though_its_follower_has_gone(space: Space) -> None:
    await announce(space)
    await space.store.deregister(A, space.incarnation(A), by="operator")
    await announce(space, A, "bbbb")
    await space.store.withdraw(A, "bbbb")
    (event,) = await space.reader.last_events(1)
    assert event.record is not None
    view = View()
    view.apply([event.record])
    space.raw.delete(*space.dump())
    await restore_view(space.store, space.reader, view, history_id=LOST, revision=LATER)
    assert (await announce(space)).result is AnnouncedAs.REMOVED
    assert (await announce(space, A, "bbbb")).result is AnnouncedAs.CREATED
