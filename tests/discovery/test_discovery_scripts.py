"""What the leader writes about discovered replicas, and what it must leave alone."""

from __future__ import annotations

import pytest

from shared_registry.errors import Fenced, ReplicaClaimed
from shared_registry.model import AdminState, ReplicaEndpoint, Source, Term
from shared_registry.store.codec import parse_record
from shared_registry.store.replies import Grant
from tests.support.space import A, B, Space, info

pytestmark = pytest.mark.usefixtures("stays_sound")
PODS, FLEET = "dns:pods", "file:fleet"


async def term_of(space: Space) -> Term:
    return Term(await space.elect(), "token")


async def discover(space: Space, term: Term, url: str = A, source: str = PODS, **spec: object) -> bool:
    endpoint = ReplicaEndpoint(url, **spec)  # type: ignore[arg-type]
    return await space.store.register_discovered(term, source, url, endpoint)


async def test_a_discovered_replica_names_its_source(space: Space) -> None:
    term = await term_of(space)
    assert await discover(space, term, capacity=3)
    record = parse_record(A, space.fields(A))
    assert (record.source, record.endpoint.capacity, record.admin) == (PODS, 3, AdminState.ACTIVE)
    (event,) = await space.reader.last_events(1)
    assert event.record is not None
    assert (event.by, event.record.source) == (PODS, PODS)
    assert await discover(space, term, capacity=3)
    assert (await space.reader.last_events(1))[0].id == event.id


async def test_an_ex_leader_changes_nothing(space: Space) -> None:
    term = await term_of(space)
    assert await discover(space, term)
    before = space.dump()
    for former in (Term(term.epoch, "other"), Term(term.epoch - 1, "token")):
        with pytest.raises(Fenced):
            await discover(space, former, capacity=9)
        with pytest.raises(Fenced):
            await discover(space, former, B)
        for state in ("active", "draining", "gone"):
            with pytest.raises(Fenced):
                await space.store.govern(former, PODS, A, state)
    assert space.dump() == before
    space.raw.delete(space.keys.leader)
    with pytest.raises(Fenced):
        await discover(space, term, B)


@pytest.mark.parametrize("other", [FLEET, "dns:other", Source.SEED, Source.EXPLICIT])
async def test_what_came_by_one_way_is_not_changed_by_another(space: Space, other: str) -> None:
    term = await term_of(space)
    if isinstance(other, Source):
        await space.add(mode=other, capacity=1)
    else:
        assert await discover(space, term, source=other, capacity=1)
    before = space.dump()
    with pytest.raises(ReplicaClaimed, match=other):
        await discover(space, term, capacity=2)
    for state in ("active", "draining", "gone"):
        assert await space.store.govern(term, PODS, A, state) is None
    assert space.dump() == before


async def test_seeds_and_operators_do_not_change_a_discovered_replica(space: Space) -> None:
    term = await term_of(space)
    assert await discover(space, term, capacity=1)
    before = space.dump()
    with pytest.raises(ReplicaClaimed, match=PODS):
        await space.add(capacity=2)
    assert await space.add(mode=Source.SEED, capacity=2) == []
    assert space.dump() == before


async def test_an_idle_replica_that_vanishes_leaves_nothing_behind(space: Space) -> None:
    term = await term_of(space)
    assert await discover(space, term)
    events = await space.store.govern(term, PODS, A, "gone", reason="vanished")
    assert events is not None
    assert [event.kind.value for event in events] == ["replica_deregistered"]
    assert space.fields(A) == {}
    assert (await space.reader.urls(), await space.reader.removed()) == ([], [])
    assert await space.store.govern(term, PODS, A, "gone") is None
    assert await discover(space, term)


async def test_a_vanished_replica_is_removed_with_its_last_session(space: Space) -> None:
    await space.add(B)
    term = await term_of(space)
    assert await discover(space, term, primary=True)
    await space.make("healthy")
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
    assert isinstance(await space.store.acquire("0000000a:session"), Grant)
    await space.store.govern(term, PODS, A, "gone", reason="vanished")
    assert space.fields(A)["admin"] == "draining"
    assert space.ready()[0] == set()
    assert await space.store.govern(term, PODS, A, "gone", reason="vanished") == []
    await space.store.release("0000000a:session")
    assert space.fields(A) == {}
    assert await space.reader.urls() == [B]
    assert await space.reader.removed() == []


async def test_a_replica_that_comes_back_is_in_service(space: Space) -> None:
    term = await term_of(space)
    assert await discover(space, term)
    space.raw.hset(space.keys.replica(A), "in_flight", "1")
    await space.store.govern(term, PODS, A, "gone")
    await space.store.govern(term, PODS, A, "active")
    fields = space.fields(A)
    assert fields["admin"] == "active"
    assert not fields.keys() & {"removes_when_drained", "withdrawn_at_ms", "removed_by"}
    space.raw.hset(space.keys.replica(A), "in_flight", "0")


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DISABLED])
async def test_an_operators_drain_wins(space: Space, state: AdminState) -> None:
    term = await term_of(space)
    assert await discover(space, term)
    await space.store.set_admin(A, state, by="me", reason="deploy")
    assert await space.store.govern(term, PODS, A, "draining", reason="terminating") == []
    assert await space.store.govern(term, PODS, A, "active") == []
    assert (space.fields(A)["admin"], space.fields(A)["admin_reason"]) == (state.value, "deploy")


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DISABLED])
async def test_an_operators_drain_outlives_a_vanished_replica(space: Space, state: AdminState) -> None:
    term = await term_of(space)
    assert await discover(space, term)
    await space.store.set_admin(A, state, by="me", reason="two\nlines")
    await space.store.govern(term, PODS, A, "gone")
    assert await space.reader.urls() == []
    assert await discover(space, term)
    fields = space.fields(A)
    assert (fields["admin"], fields["admin_by"], fields["admin_reason"]) == (state.value, "me", "two\nlines")
    assert await space.store.govern(term, PODS, A, "active") == []


async def test_only_what_the_source_drained_comes_back_with_it(space: Space) -> None:
    term = await term_of(space)
    assert await discover(space, term)
    await space.store.govern(term, PODS, A, "draining", reason="terminating")
    assert (space.fields(A)["admin"], space.fields(A)["admin_by"]) == ("draining", PODS)
    await space.store.govern(term, PODS, A, "active")
    assert space.fields(A)["admin"] == "active"


async def test_a_pod_with_another_address_keeps_the_operators_drain(space: Space) -> None:
    """The new address is there before the old one has vanished. What the source itself drained does not count."""
    term = await term_of(space)
    assert await discover(space, term, name="pod-1")
    assert await space.store.govern(term, PODS, A, "draining", reason="terminating")
    assert await discover(space, term, B, name="pod-1")
    assert space.fields(B)["admin"] == "active"
    assert await space.store.set_admin(B, AdminState.DRAINING, by="me", reason="broken fan")
    await space.store.govern(term, PODS, A, "gone")
    assert await discover(space, term, A, name="pod-1")
    fields = space.fields(A)
    assert (fields["admin"], fields["admin_by"]) == ("draining", "me")


async def test_what_an_operator_removed_stays_removed_until_added(space: Space) -> None:
    term = await term_of(space)
    assert await discover(space, term)
    await space.remove()
    assert not await discover(space, term)
    assert await space.reader.urls() == []
    await space.add(capacity=1)
    assert parse_record(A, space.fields(A)).source == Source.EXPLICIT
    with pytest.raises(ReplicaClaimed):
        await discover(space, term)


@pytest.mark.parametrize("when_drained", [False, True])
async def test_an_operator_removes_what_the_source_has_withdrawn(space: Space, when_drained: bool) -> None:
    term = await term_of(space)
    assert await discover(space, term)
    space.raw.hset(space.keys.replica(A), "in_flight", "1")
    await space.store.govern(term, PODS, A, "gone")
    await space.store.deregister(A, space.incarnation(A), by="me", when_drained=when_drained)
    await space.store.govern(term, PODS, A, "active")
    assert space.fields(A)["admin"] == ("draining" if when_drained else "removed")
    assert "withdrawn_at_ms" not in space.fields(A)
    space.raw.hset(space.keys.replica(A), "in_flight", "0")
    await space.store.deregister(A, space.incarnation(A), by="me")
    assert not await discover(space, term)
