"""Replicas that announce themselves: who holds a url, how long, what operators say, and how the time runs out."""

from __future__ import annotations

from typing import Any

import pytest

from shared_registry.errors import ReplicaClaimed
from shared_registry.model import AdminState, EventKind, ReplicaEndpoint, Source
from shared_registry.store.codec import removed_entry, restored_entry
from shared_registry.store.replies import Announced, AnnouncedAs, BeatWord, Heartbeat, Withdrawn
from tests.support.space import THRESHOLDS, A, B, Space, info

pytestmark = pytest.mark.usefixtures("stays_sound")

TTL = 10.0
FIRST, SECOND = "aaaa", "bbbb"


async def announce(
    space: Space,
    url: str = A,
    instance: str = FIRST,
    *,
    owner: str = "",
    request: str = "",
    ttl: float = TTL,
    **spec: Any,
) -> Announced:
    return await space.store.announce(
        url,
        ReplicaEndpoint(url, **spec),
        owner=owner or f"owner-{instance}",
        instance=instance,
        ttl_seconds=ttl,
        request=request,
    )


async def heartbeat(space: Space, *, resumed_ago_ms: int = 10**6) -> Heartbeat:
    """Send a router's heartbeat; the last outage was long ago."""
    now_ms = space.now_ms()
    space.raw.hset(
        space.keys.meta,
        mapping={
            "heartbeat_at_ms": now_ms - 500,
            "reap_after_ms": 0,
            "announcements_resumed_at_ms": now_ms - resumed_ago_ms,
        },
    )
    return await space.store.heartbeat(info("router~1"), expiry_seconds=60)


def be_silent(space: Space, url: str = A, *, seconds: float = TTL + 1) -> None:
    """Make it as if the last heartbeat of a replica were so long ago."""
    then = space.now_ms() - int(seconds * 1000)
    ttl_ms = int(space.fields(url)["ttl_ms"])
    space.raw.hset(space.keys.replica(url), "last_heartbeat_at_ms", then)
    space.raw.zadd(space.keys.announced, {url: then + ttl_ms})


async def lease(space: Space, session: str = "00000001") -> None:
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
    await space.store.acquire(session)


async def test_an_announced_replica_says_who_holds_it(space: Space) -> None:
    announced = await announce(space, name="a", capacity=2)
    (event,) = announced.events
    assert announced.result is AnnouncedAs.CREATED
    assert event.kind is EventKind.REPLICA_REGISTERED
    record = (await space.reader.records([A]))[A]
    assert (record.source, record.owner, record.instance, record.ttl_seconds) == (
        Source.ANNOUNCED,
        "owner-aaaa",
        FIRST,
        TTL,
    )
    assert record.incarnation.startswith(f"{FIRST}-")
    assert (await announce(space, name="a", capacity=2)).result is AnnouncedAs.UNCHANGED
    assert (await announce(space, name="a", capacity=3)).result is AnnouncedAs.UPDATED


async def test_a_repeated_announcement_changes_nothing(space: Space) -> None:
    await announce(space, request="once")
    before, events = space.fields(A), len(space.event_kinds())
    assert (await announce(space, request="once")).result is AnnouncedAs.UNCHANGED
    assert space.fields(A) == {**before, "last_heartbeat_at_ms": space.fields(A)["last_heartbeat_at_ms"]}
    assert len(space.event_kinds()) == events


async def test_while_the_holder_beats_another_instance_is_refused(space: Space) -> None:
    await announce(space)
    refused = await announce(space, instance=SECOND)
    assert (refused.result, refused.holder, refused.is_accepted) == (AnnouncedAs.TAKEN, "owner-aaaa", False)
    beat = await space.store.beat(A, SECOND)
    assert (beat.word, beat.holder) == (BeatWord.TAKEN, "owner-aaaa")
    withdrawal = await space.store.withdraw(A, SECOND)
    assert (withdrawal.result, withdrawal.holder) == (Withdrawn.TAKEN, "owner-aaaa")


async def test_an_address_of_another_machine_is_another_replica(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    late = space.success(A)
    be_silent(space)
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.CREATED
    fields = space.fields(A)
    assert (fields["status"], fields["owner"]) == ("unknown", "owner-bbbb")
    assert fields["incarnation"] != late.incarnation
    epoch = await space.elect()
    assert (await space.report(epoch, 1, late)).dropped == 1
    assert (await space.store.beat(A, FIRST)).word is BeatWord.TAKEN


async def test_after_an_outage_the_holder_has_one_time_to_live(space: Space) -> None:
    await announce(space)
    be_silent(space, seconds=600)
    await heartbeat(space, resumed_ago_ms=9000)
    assert space.fields(A)["admin"] == "active"
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.TAKEN
    assert (await space.store.beat(A, FIRST)).word is BeatWord.HELD
    be_silent(space)
    await heartbeat(space, resumed_ago_ms=10_001)
    assert space.fields(A)["admin"] == "removed"


async def test_a_gap_of_all_heartbeats_counts_as_an_outage(space: Space) -> None:
    await announce(space)
    be_silent(space)
    space.raw.hset(space.keys.meta, mapping={"heartbeat_at_ms": space.now_ms() - 2600, "reap_after_ms": 0})
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
    assert space.fields(A)["admin"] == "active"
    assert 9000 < space.raw.zscore(space.keys.announced, A) - space.now_ms() <= 10_000


async def test_a_silent_replica_leaves_the_ready_sets_then_the_list(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    await lease(space)
    assert space.ready() == (set(), {A}, set())
    be_silent(space)
    await heartbeat(space)
    assert space.ready() == (set(), set(), set())
    fields = space.fields(A)
    assert (fields["admin"], fields["removes_when_drained"]) == ("draining", "1")
    assert fields["admin_reason"] == "no heartbeat of owner-aaaa for 10 s"
    assert space.event_kinds()[-1] == "replica_expired"
    assert (await space.store.beat(A, FIRST)).word is BeatWord.UNKNOWN
    await space.store.release("00000001")
    assert await space.reader.urls() == []
    await heartbeat(space)  # not yet looked at again
    space.raw.zadd(space.keys.departing, {A: 1})
    await heartbeat(space)
    assert await space.reader.removed() == [], "no operator has removed it"


async def test_ten_times_to_live_end_a_silent_replica_with_sessions(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    await lease(space)
    be_silent(space)
    await heartbeat(space)
    space.raw.zadd(space.keys.departing, {A: 1})
    await heartbeat(space)
    assert space.fields(A)["admin"] == "draining"
    space.raw.hincrby(space.keys.replica(A), "expired_at_ms", -100_001)
    space.raw.zadd(space.keys.departing, {A: 1})
    await heartbeat(space)
    assert space.fields(A)["admin"] == "removed"
    await space.store.release("00000001")
    assert space.fields(A)["in_flight"] == "0"


async def test_tombstones_of_departed_replicas_are_deleted(space: Space) -> None:
    await announce(space)
    await space.store.withdraw(A, FIRST)
    await heartbeat(space)
    assert space.fields(A)["admin"] == "removed"
    space.raw.hset(space.keys.replica(A), "admin_since_ms", space.now_ms() - 3_600_001)
    space.raw.zadd(space.keys.departing, {A: 1})
    await heartbeat(space)
    assert not space.raw.exists(space.keys.replica(A))
    assert not space.raw.exists(space.keys.departing)


async def test_an_expired_replica_comes_back_with_its_next_word(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    await lease(space)
    incarnation = space.incarnation(A)
    be_silent(space)
    await heartbeat(space)
    back = await announce(space)
    assert back.result is AnnouncedAs.UPDATED
    assert space.incarnation(A) == incarnation
    assert space.fields(A)["admin"] == "active"
    assert space.ready() == (set(), {A}, set())
    assert not space.raw.exists(space.keys.departing)


async def test_where_many_fall_silent_those_that_answer_probes_stay(space: Space) -> None:
    urls = [f"http://127.0.0.{number}:8000" for number in range(1, 7)]
    for url in urls:
        await announce(space, url, f"of-{url}")
        await space.make("healthy", url)
    await space.store.record_outcome(space.failure(urls[0]), THRESHOLDS)
    # The first is due; the others have not been heard of for more than half a time to live either.
    for number, url in enumerate(urls):
        be_silent(space, url, seconds=TTL + 0.1 if number < 2 else TTL / 2 + 1)
    await heartbeat(space)
    assert [space.fields(url)["admin"] for url in urls[:2]] == ["removed", "active"]
    # Some are heard of again. The rest have one time to live for it, too; then they have died.
    for url in urls[2:5]:
        await space.store.beat(url, f"of-{url}")
    be_silent(space, urls[1])
    await heartbeat(space)
    assert space.fields(urls[1])["admin"] == "active"
    space.raw.hincrby(space.keys.meta, "announcements_cut_at_ms", int(-1000 * TTL))
    be_silent(space, urls[1])
    await heartbeat(space)
    assert space.fields(urls[1])["admin"] == "removed"


async def test_three_that_die_at_once_expire(space: Space) -> None:
    urls = [f"http://127.0.0.{number}:8000" for number in range(1, 4)]
    for url in urls:
        await announce(space, url, f"of-{url}")
        await space.make("healthy", url)
        be_silent(space, url)
    await heartbeat(space)
    assert {space.fields(url)["admin"] for url in urls} == {"removed"}


async def test_many_that_die_are_looked_at_in_bounded_calls(space: Space) -> None:
    urls = [f"http://127.0.0.{number}:8000" for number in range(1, 13)]
    for url in urls:
        await announce(space, url, f"of-{url}")
        be_silent(space, url)
    calls = 0
    while (await heartbeat(space)).is_partial:
        calls += 1
        assert calls < 10
    assert calls >= 2
    assert await space.reader.urls() == []


async def test_a_clock_set_back_delays_expiry_by_one_ttl(space: Space) -> None:
    await announce(space)
    space.raw.zadd(space.keys.announced, {A: space.now_ms() + 3_600_000})
    reply = await heartbeat(space)
    assert reply.next_expiry_seconds is not None
    assert reply.next_expiry_seconds <= TTL


async def test_a_drained_pod_stays_drained_after_its_restart(space: Space) -> None:
    await announce(space, name="pod-1")
    await space.store.set_admin(A, AdminState.DRAINING, by="me", reason="slow disk")
    await space.store.withdraw(A, FIRST)
    await announce(space, B, SECOND, name="pod-1")
    fields = space.fields(B)
    assert (fields["admin"], fields["admin_by"], fields["admin_reason"]) == ("draining", "me", "slow disk")
    assert "removes_when_drained" not in fields
    await space.store.set_admin(B, AdminState.DISABLED, by="me", reason="broken")
    be_silent(space, B)
    await heartbeat(space)
    assert space.fields(B)["admin"] == "removed"
    await announce(space, A, "cccc", name="pod-1")
    assert space.fields(A)["admin"] == "disabled"
    await space.store.set_admin(A, AdminState.ACTIVE, by="me")
    await space.store.withdraw(A, "cccc")
    await announce(space, A, "dddd", name="pod-1")
    assert space.fields(A)["admin"] == "active"


async def test_an_operators_word_on_an_expired_replica_is_kept(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    await lease(space)
    be_silent(space)
    await heartbeat(space)
    await space.store.set_admin(A, AdminState.DISABLED, by="me", reason="broken")
    assert space.fields(A)["admin"] == "draining"
    await announce(space)
    assert space.fields(A)["admin"] == "disabled"
    await space.store.set_admin(A, AdminState.ACTIVE, by="me")
    be_silent(space)
    await heartbeat(space)
    await space.store.set_admin(A, AdminState.ACTIVE, by="me")
    assert space.ready() == (set(), set(), set()), "enabling does not end the silence"


async def test_kept_admin_states_are_bounded(space: Space) -> None:
    for number in range(1000):
        space.raw.hset(space.keys.admin_by_name, f"pod-{number}", f"draining\n{number + 1}\nme\nwhy")
    await announce(space, name="newest")
    await space.store.set_admin(A, AdminState.DRAINING, by="me")
    await space.store.withdraw(A, FIRST)
    assert space.raw.hlen(space.keys.admin_by_name) == 1000
    assert not space.raw.hexists(space.keys.admin_by_name, "pod-0")
    assert space.raw.hexists(space.keys.admin_by_name, "newest")


async def test_a_removal_by_an_operator_outlives_the_heartbeats(space: Space) -> None:
    await announce(space)
    await space.remove()
    assert (await space.store.beat(A, FIRST)).word is BeatWord.REMOVED
    assert (await announce(space)).result is AnnouncedAs.REMOVED
    space.raw.zadd(space.keys.announced, {A: 1})
    await heartbeat(space)
    assert await space.reader.removed() == [A]
    assert (await announce(space)).result is AnnouncedAs.REMOVED
    # The removal names the instance.
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.CREATED
    assert await space.reader.removed() == []


async def test_a_removal_with_the_last_session_stays_one_after_expiry(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    await lease(space)
    await space.store.deregister(A, space.incarnation(A), when_drained=True)
    be_silent(space)
    await heartbeat(space)
    await space.store.release("00000001")
    assert await space.reader.removed() == [A]
    assert (await announce(space)).result is AnnouncedAs.REMOVED


async def test_removing_an_expired_replica_is_an_operators_removal(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    await lease(space)
    be_silent(space)
    await heartbeat(space)
    await space.remove()
    space.raw.zadd(space.keys.departing, {A: 1})
    await heartbeat(space)
    assert await space.reader.removed() == [A]
    assert (await announce(space)).result is AnnouncedAs.REMOVED


@pytest.mark.parametrize("mode", [Source.SEED, Source.EXPLICIT])
async def test_what_came_one_way_is_not_changed_by_another(space: Space, mode: Source) -> None:
    await announce(space)
    with pytest.raises(ReplicaClaimed, match=r"is announced by owner-aaaa"):
        await space.add(A, mode=mode, capacity=5)
    await space.add(B, mode=mode)
    refused = await announce(space, B)
    assert (refused.result, refused.source) == (AnnouncedAs.CLAIMED, mode.value)
    beat = await space.store.beat(B, FIRST)
    assert (beat.word, beat.source) == (BeatWord.CLAIMED, mode.value)
    assert (await space.store.withdraw(B, FIRST)).result is Withdrawn.NOT_FOUND


async def test_add_lifts_the_removal_of_an_announced_replica(space: Space) -> None:
    await announce(space)
    await space.remove()
    await space.add(A)
    fields = space.fields(A)
    assert (fields["source"], "instance" in fields, "ttl_ms" in fields) == ("explicit", False, False)
    assert (await announce(space)).result is AnnouncedAs.CLAIMED
    await space.remove()
    assert (await announce(space)).result is AnnouncedAs.CREATED


async def test_a_seed_may_follow_a_withdrawal_but_not_a_removal(space: Space) -> None:
    await announce(space)
    await space.remove()
    assert await space.add(A, mode=Source.SEED) == []
    await announce(space, instance=SECOND)
    await space.store.withdraw(A, SECOND)
    assert await space.add(A, mode=Source.SEED)
    assert space.fields(A)["source"] == "seed"


async def test_a_withdrawn_replica_drains_and_leaves(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    await lease(space)
    (event,) = (await space.store.withdraw(A, FIRST, when_drained=True)).events
    assert event.kind is EventKind.REPLICA_ADMIN
    assert (await space.store.withdraw(A, FIRST, when_drained=True)).events == []
    beat = await space.store.beat(A, FIRST)
    assert (beat.word, beat.in_flight) == (BeatWord.DRAINING, 1)
    assert (await announce(space)).result is AnnouncedAs.WITHDRAWN
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.TAKEN
    await space.store.release("00000001")
    assert (await space.store.beat(A, FIRST)).word is BeatWord.WITHDRAWN
    assert (await announce(space)).result is AnnouncedAs.WITHDRAWN
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.CREATED


async def test_a_withdrawal_does_not_wait_for_ever(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    await lease(space)
    await space.store.withdraw(A, FIRST, when_drained=True)
    assert (await space.store.withdraw(A, FIRST)).result is Withdrawn.REMOVED
    assert (await space.store.withdraw(A, FIRST)).result is Withdrawn.NOT_FOUND
    assert await space.reader.urls() == []
    assert await space.reader.removed() == []


async def test_one_that_dies_while_it_drains_is_removed_in_time(space: Space) -> None:
    await announce(space)
    await space.make("healthy")
    await lease(space)
    await space.store.withdraw(A, FIRST, when_drained=True)
    be_silent(space)
    await heartbeat(space)
    assert space.fields(A)["expired_at_ms"]
    space.raw.hincrby(space.keys.replica(A), "expired_at_ms", -100_001)
    space.raw.zadd(space.keys.departing, {A: 1})
    await heartbeat(space)
    assert space.fields(A)["admin"] == "removed"


async def test_many_heartbeats_fit_in_one_call(space: Space) -> None:
    await announce(space)
    await space.add(B)
    beats = await space.store.beats([(A, FIRST), (B, FIRST), ("http://127.0.0.9:1", FIRST)])
    assert [beat.word for beat in beats] == [BeatWord.HELD, BeatWord.CLAIMED, BeatWord.UNKNOWN]


async def test_heartbeats_tell_when_the_next_replica_may_expire(space: Space) -> None:
    assert (await heartbeat(space)).next_expiry_seconds is None
    await announce(space)
    await announce(space, B, SECOND, ttl=3600)
    reply = await heartbeat(space)
    assert reply.next_expiry_seconds is not None
    assert 0 < reply.next_expiry_seconds <= TTL


async def test_a_name_takes_its_admin_state_to_another_address(space: Space) -> None:
    """The former life of a killed pod still counts when the pod comes back."""
    await announce(space, name="pod-1")
    await space.store.set_admin(A, AdminState.DISABLED, by="me", reason="broken")
    await announce(space, B, SECOND, name="pod-1")
    fields = space.fields(B)
    assert (fields["admin"], fields["admin_by"], fields["admin_reason"]) == ("disabled", "me", "broken")
    await space.store.set_admin(B, AdminState.ACTIVE, by="me", reason="")
    be_silent(space)
    await heartbeat(space)
    assert space.fields(A)["admin"] == "removed"
    await space.store.withdraw(B, SECOND)
    await announce(space, B, "cccc", name="pod-1")
    assert space.fields(B)["admin"] == "active", "what the former life still had was not kept"


async def test_a_name_takes_nothing_from_another_source(space: Space) -> None:
    await space.store.register(A, ReplicaEndpoint(A, "pod-1"), mode=Source.EXPLICIT, request="r1")
    await space.store.set_admin(A, AdminState.DISABLED, by="me", reason="broken")
    await announce(space, B, SECOND, name="pod-1")
    assert space.fields(B)["admin"] == "active"


async def test_a_removed_instance_stays_out_after_another_has_gone(space: Space) -> None:
    await announce(space)
    await space.store.deregister(A, space.incarnation(A), by="operator")
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.CREATED
    assert (await announce(space)).result is AnnouncedAs.TAKEN
    be_silent(space)
    await heartbeat(space)
    assert (await announce(space)).result is AnnouncedAs.REMOVED
    assert (await announce(space, instance="cccc")).result is AnnouncedAs.CREATED


async def test_a_removed_instance_stays_out_after_another_was_silent(space: Space) -> None:
    await announce(space)
    await space.store.deregister(A, space.incarnation(A), by="operator")
    await announce(space, instance=SECOND)
    be_silent(space)
    assert (await announce(space)).result is AnnouncedAs.REMOVED


async def test_an_outage_gives_the_url_to_no_other_instance(space: Space) -> None:
    """The other instance is the first to reach Redis, before a router's heartbeat."""
    await announce(space)
    be_silent(space)
    space.raw.hset(space.keys.meta, "heartbeat_at_ms", space.now_ms() - 60_000)
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.TAKEN
    space.raw.hset(space.keys.meta, "heartbeat_at_ms", space.now_ms() + 60_000)  # the clock was set back
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.TAKEN


async def test_removed_replicas_are_not_among_the_silent_ones(space: Space) -> None:
    await announce(space)
    for url in many(4):
        await announce(space, url)
        await space.store.deregister(url, space.incarnation(url), by="operator")
    assert list(space.raw.zrange(space.keys.announced, 0, -1)) == [A]


def many(count: int) -> list[str]:
    return [f"http://127.0.0.7:{number}" for number in range(1, count + 1)]


async def restored(space: Space, instance: str) -> None:
    """Put back the view of a router that knows of a removal at A, after a loss."""
    entry = removed_entry("removed", A, "", instance)
    await space.store.restore([entry], view_history_id="earlier", view_revision="5-0")


async def test_a_removed_instance_stays_out_after_a_loss(space: Space) -> None:
    await restored(space, FIRST)
    assert (await announce(space)).result is AnnouncedAs.REMOVED
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.CREATED


async def test_a_removal_outlives_other_instances_and_a_loss(space: Space) -> None:
    """The view has the instance after the removed one; since the loss there is a third."""
    await announce(space)
    await space.store.deregister(A, space.incarnation(A), by="operator")
    await announce(space, instance=SECOND)
    lost = (await space.reader.records([A]))[A]
    space.raw.delete(*space.dump())
    await announce(space, instance="cccc")
    entry = restored_entry("replica", lost)
    events = await space.store.restore([entry], view_history_id="earlier", view_revision="5-0")
    assert [event.record and event.record.removed_instance for event in events or ()] == [FIRST]
    assert (await space.store.beat(A, "cccc")).word is BeatWord.HELD
    be_silent(space)
    assert (await announce(space)).result is AnnouncedAs.REMOVED
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.CREATED


async def test_the_next_instance_keeps_a_removal_before_a_loss(space: Space) -> None:
    await announce(space, instance=SECOND)
    await restored(space, FIRST)
    be_silent(space)
    assert (await announce(space)).result is AnnouncedAs.REMOVED


async def test_a_removal_before_a_loss_meets_its_instance_only(space: Space) -> None:
    await announce(space, instance=SECOND)
    await restored(space, FIRST)
    assert (await space.store.beat(A, SECOND)).word is BeatWord.HELD
    await restored(space, "")
    assert (await space.store.beat(A, SECOND)).word is BeatWord.HELD
    await restored(space, SECOND)
    assert (await space.store.beat(A, SECOND)).word is BeatWord.REMOVED
    assert (await announce(space, instance=SECOND)).result is AnnouncedAs.REMOVED
