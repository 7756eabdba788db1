"""Verdicts by several routers, as the scripts decide them: questions, answers, hand-overs, appeals, outcomes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.model import (
    AdminState,
    EventKind,
    Opinion,
    OpinionKind,
    ProbeResult,
    ReplicaEndpoint,
    Source,
    Term,
)
from shared_registry.store.replies import Elected
from tests.support.space import A, B, info, on_server
from tests.support.verdicts import FIVE, FOUR, INTERVAL, LEADER, LIMITS, THREE, TIMEOUT, TWO, Verdicts


@pytest.fixture
async def verdicts(server: EmbeddedServer, namespace: str) -> AsyncIterator[Verdicts]:
    """A leader and three others, and one healthy replica."""
    async with on_server(server.url, namespace) as space:
        verdicts = Verdicts(space)
        await space.add(A)
        await verdicts.join(LEADER, TWO, THREE, FOUR)
        await verdicts.lead()
        await verdicts.probe(space.success())
        assert verdicts.status() == "healthy"
        yield verdicts


async def test_a_failure_before_the_last_asks_three_peers(verdicts: Verdicts) -> None:
    await verdicts.fail(1)
    assert "suspicion" not in verdicts.state()
    await verdicts.fail(1)
    state = verdicts.state()
    assert state["suspected_by"] == LEADER
    assert set(state["asked"].split()) == {TWO, THREE, FOUR}
    silence = int(state["suspected_until_ms"]) - int(state["suspected_at_ms"])
    assert silence == (TIMEOUT + 0.75) * 1000


@pytest.mark.parametrize("address", ["127.0.0.9", ""])
async def test_a_question_names_the_address_that_was_probed(verdicts: Verdicts, address: str) -> None:
    for _ in range(2):
        await verdicts.probe(replace(verdicts.space.failure(), address=address))
    [event] = [one for one in await verdicts.space.reader.last_events(10) if one.questions]
    record = (await verdicts.space.reader.snapshot()).records[A]
    assert verdicts.state().get("suspected_address") == (address or None)
    assert event.questions[0].address == record.doubt.suspected_address == address
    assert next(event.records(lambda _: record)).doubt.suspected_address == address
    await verdicts.answer(TWO, ok=True)
    assert "suspected_address" not in verdicts.state()


async def test_a_later_question_forgets_the_former_address(verdicts: Verdicts) -> None:
    for _ in range(2):
        await verdicts.probe(replace(verdicts.space.failure(), address="127.0.0.9"))
    verdicts.let_an_interval_pass()
    verdicts.space.raw.hset(verdicts.space.keys.meta, "heartbeats_resumed_at_ms", verdicts.space.now_ms())
    await verdicts.fail(1)
    assert "suspicion" in verdicts.state()
    assert "suspected_address" not in verdicts.state()


async def test_a_router_handed_a_replica_names_the_address_too(verdicts: Verdicts) -> None:
    await verdicts.hand_over(TWO)
    verdicts.let_an_interval_pass()
    for number in range(1, 3):
        result = replace(verdicts.space.failure(), address="127.0.0.9")
        await verdicts.say(TWO, OpinionKind.REPORT, str(number), result)
    assert verdicts.state()["suspected_address"] == "127.0.0.9"


async def test_the_question_is_one_event_and_changes_no_ready_set(verdicts: Verdicts) -> None:
    before = verdicts.space.ready(), verdicts.space.raw.zscore(verdicts.space.keys.ready_secondary, A)
    await verdicts.fail(2)
    (event,) = [
        event for event in await verdicts.space.reader.last_events(10) if event.kind is EventKind.REPLICA_SUSPECTED
    ]
    (question,) = event.questions
    state = verdicts.state()
    assert (question.key, question.incarnation, question.suspicion) == (A, state["incarnation"], state["suspicion"])
    assert set(question.asked) == {TWO, THREE, FOUR}
    assert event.id == state["revision"]
    assert before == (verdicts.space.ready(), verdicts.space.raw.zscore(verdicts.space.keys.ready_secondary, A))


async def test_a_peer_that_reaches_the_replica_clears_it(verdicts: Verdicts) -> None:
    await verdicts.fail(2)
    await verdicts.answer(TWO, ok=False)
    reply = await verdicts.answer(THREE, ok=True)
    (event,) = reply.events
    assert (event.kind, event.router, event.by) == (EventKind.REPLICA_CLEARED, THREE, LEADER)
    state = verdicts.state()
    assert (state["status"], state["consecutive_failures"]) == ("healthy", "0")
    assert (state["reached_by"], state["refuted_prober"]) == (THREE, LEADER)
    assert verdicts.doubt() == {"reached_by", "refuted_prober"}


async def test_it_is_unhealthy_once_all_asked_have_failed(verdicts: Verdicts) -> None:
    await verdicts.fail(2)
    await verdicts.answer(TWO, ok=False)
    await verdicts.answer(THREE, ok=False)
    assert verdicts.status() == "healthy"
    reply = await verdicts.answer(FOUR, ok=False)
    (event,) = reply.events
    assert (event.kind, event.router) == (EventKind.REPLICA_UNHEALTHY, LEADER)
    assert verdicts.doubt() == {"unreached_by"}
    assert set(verdicts.state()["unreached_by"].split()) == {TWO, THREE, FOUR}
    assert verdicts.space.ready() == (set(), set(), set())


@pytest.mark.parametrize(
    ("agrees", "is_over", "status"),
    [
        (False, False, "healthy"),
        (True, False, "unhealthy"),
        (False, True, "unhealthy"),
    ],
)
async def test_the_last_failure_needs_agreement_or_silence(
    verdicts: Verdicts, agrees: bool, is_over: bool, status: str
) -> None:
    await verdicts.fail(2)
    if agrees:
        await verdicts.answer(TWO, ok=False)
    if is_over:
        verdicts.let_silence_end()
    await verdicts.fail(1)
    assert verdicts.status() == status


async def test_the_next_leader_decides_an_open_question(verdicts: Verdicts) -> None:
    await verdicts.fail(2)
    await verdicts.answer(TWO, ok=False)
    verdicts.space.raw.delete(verdicts.space.keys.leader)
    await verdicts.lead()
    verdicts.batch = 0
    await verdicts.fail(1)
    assert verdicts.status() == "unhealthy"


async def test_a_router_without_peers_decides_as_the_original_does(verdicts: Verdicts) -> None:
    for router in (TWO, THREE, FOUR):
        await verdicts.space.store_of(router).leave()
    await verdicts.fail(2)
    assert (verdicts.status(), verdicts.doubt()) == ("healthy", set())
    await verdicts.fail(1)
    assert verdicts.status() == "unhealthy"


async def test_routers_with_other_probes_are_no_peers(verdicts: Verdicts) -> None:
    for router in (TWO, THREE, FOUR):
        await verdicts.space.store_of(router).leave()
    await verdicts.join(TWO, probe_print="other")
    await verdicts.join(FIVE, probe_print="")
    await verdicts.fail(3)
    assert verdicts.status() == "unhealthy"


@pytest.mark.parametrize("refuter", [f"router~{number}" for number in range(3, 10)])
async def test_a_router_that_refuted_the_prober_is_asked_again(verdicts: Verdicts, refuter: str) -> None:
    await verdicts.join(*(f"router~{number}" for number in range(5, 10)))
    await verdicts.fail(2)
    key, state = verdicts.space.keys.replica(A), verdicts.state()
    verdicts.space.raw.hset(key, "asked", f"{state['asked']} {refuter}")  # whoever the hash has chosen
    await verdicts.answer(refuter, ok=True)
    verdicts.let_an_interval_pass()
    await verdicts.fail(2)
    assert verdicts.state()["asked"].split()[0] == refuter
    assert len(set(verdicts.state()["asked"].split())) == 3


async def test_who_refuted_another_prober_is_not_preferred(verdicts: Verdicts) -> None:
    await verdicts.join(*(f"router~{number}" for number in range(5, 10)))
    key = verdicts.space.keys.replica(A)
    first = set()
    for _ in range(40):
        verdicts.space.raw.hset(key, mapping={"refuted_prober": TWO, "reached_by": FIVE})
        await verdicts.fail(2)
        first.add(verdicts.state()["asked"].split()[0])
        verdicts.let_an_interval_pass()
        await verdicts.probe(verdicts.space.success(A))
    assert len(first) > 1


async def test_other_machines_are_asked_first(verdicts: Verdicts) -> None:
    await verdicts.join(FIVE, "router~6", machine=f"of-{LEADER}")
    await verdicts.fail(2)
    assert set(verdicts.state()["asked"].split()) == {TWO, THREE, FOUR}
    await verdicts.space.store_of(TWO).leave()
    await verdicts.answer(THREE, ok=True)
    verdicts.let_an_interval_pass()
    await verdicts.fail(2)
    asked = verdicts.state()["asked"].split()
    assert {THREE, FOUR} < set(asked)
    assert set(asked) - {THREE, FOUR} < {FIVE, "router~6"}


async def test_there_is_one_question_an_interval(verdicts: Verdicts) -> None:
    await verdicts.fail(2)
    await verdicts.answer(TWO, ok=True)
    await verdicts.fail(5)
    assert "suspicion" not in verdicts.state()
    assert verdicts.status() == "healthy"
    verdicts.let_an_interval_pass()
    await verdicts.fail(1)
    assert "suspicion" in verdicts.state()


@pytest.mark.parametrize("what", ["another incarnation", "another question", "another router", "twice", "removed"])
async def test_a_word_that_does_not_fit_changes_nothing(verdicts: Verdicts, what: str) -> None:
    await verdicts.fail(2)
    question, result = verdicts.state()["suspicion"], verdicts.space.failure()
    router = FIVE if what == "another router" else TWO
    if what == "another incarnation":
        result = replace(result, incarnation="other")
    if what == "twice":
        await verdicts.say(TWO, OpinionKind.OPINION, question, result)
    if what == "removed":
        await verdicts.space.remove()
    before = verdicts.space.dump()
    opinion_id = "other" if what == "another question" else question
    reply = await verdicts.say(router, OpinionKind.OPINION, opinion_id, result)
    assert (reply.stale, reply.events, verdicts.space.dump()) == (1, [], before)


@pytest.mark.parametrize("how", ["registered anew", "disabled", "success", "unhealthy"])
async def test_doubt_ends_with_its_reason(verdicts: Verdicts, how: str) -> None:
    space = verdicts.space
    await verdicts.fail(2)
    match how:
        case "registered anew":
            await space.remove()
            await space.add()
        case "disabled":
            await space.store.set_admin(A, AdminState.DISABLED)
        case "success":
            await verdicts.probe(space.success())
        case "unhealthy":
            verdicts.let_silence_end()
            await verdicts.fail(1)
    assert verdicts.doubt() == set()


async def test_a_success_of_the_prober_ends_the_question_for_all(verdicts: Verdicts) -> None:
    await verdicts.fail(2)
    await verdicts.probe(verdicts.space.success())
    (event,) = await verdicts.space.reader.last_events(1)
    assert (event.kind, event.router, event.by) == (EventKind.REPLICA_CLEARED, LEADER, "")
    assert event.record is not None
    assert event.record.doubt.suspicion == ""


@pytest.mark.parametrize("spec", [{"health_check_path": "/ready"}, {"health_check_port": 8001}])
async def test_a_change_of_what_is_probed_ends_doubt(verdicts: Verdicts, spec: dict[str, Any]) -> None:
    await verdicts.fail(2)
    endpoint = ReplicaEndpoint(A, **spec)
    await verdicts.space.store.register(A, endpoint, mode=Source.EXPLICIT, request="again", by="")
    assert verdicts.doubt() == set()


async def test_a_change_of_weight_does_not_end_doubt(verdicts: Verdicts) -> None:
    """Otherwise an automatic scaler could keep a dead replica healthy."""
    await verdicts.fail(2)
    endpoint = ReplicaEndpoint(A, weight=2.0)
    await verdicts.space.store.register(A, endpoint, mode=Source.EXPLICIT, request="again", by="")
    assert "suspicion" in verdicts.doubt()


async def test_unsure_results_ask_and_silence_decides_nothing(verdicts: Verdicts) -> None:
    unsure = replace(verdicts.space.failure(), is_unsure=True)
    await verdicts.probe(unsure)
    assert "suspicion" in verdicts.state()
    assert "suspected_until_ms" not in verdicts.state()
    assert verdicts.state()["consecutive_failures"] == "0"
    for _ in range(5):
        await verdicts.probe(unsure)
    assert verdicts.status() == "healthy"
    for router in (TWO, THREE, FOUR):
        await verdicts.answer(router, ok=False)
    assert verdicts.status() == "unhealthy"


async def test_an_unsure_peer_is_struck_off(verdicts: Verdicts) -> None:
    await verdicts.fail(2)
    await verdicts.answer(TWO, ok=None)
    await verdicts.answer(THREE, ok=None)
    assert verdicts.state()["asked"] == FOUR
    await verdicts.answer(FOUR, ok=None)
    assert verdicts.status() == "healthy"
    await verdicts.fail(1)
    assert verdicts.status() == "healthy", "nobody has agreed, and silence is not over"
    verdicts.let_silence_end()
    await verdicts.fail(1)
    assert verdicts.status() == "unhealthy"


async def test_a_question_from_before_an_outage_is_asked_anew(verdicts: Verdicts) -> None:
    await verdicts.fail(2)
    verdicts.let_silence_end()
    verdicts.let_an_interval_pass()
    first = verdicts.state()["suspicion"]
    verdicts.space.raw.hset(verdicts.space.keys.meta, "heartbeats_resumed_at_ms", verdicts.space.now_ms())
    await verdicts.fail(1)
    assert verdicts.status() == "healthy"
    assert verdicts.state()["suspicion"] != first


async def test_an_outage_that_no_heartbeat_has_noticed_decides_nothing(verdicts: Verdicts) -> None:
    """The report of a blind leader may reach Redis before the first heartbeat after the outage."""
    await verdicts.fail(2)
    verdicts.let_silence_end()
    verdicts.let_an_interval_pass()
    first = verdicts.state()["suspicion"]
    verdicts.space.raw.hset(verdicts.space.keys.meta, "reap_until_ms", verdicts.space.now_ms() - 1)
    await verdicts.fail(1)
    assert verdicts.status() == "healthy"
    assert verdicts.state()["suspicion"] != first


async def test_peers_count_as_alive_after_an_outage(verdicts: Verdicts) -> None:
    """A blind leader that comes back first would otherwise have no peer, and decide alone."""
    space = verdicts.space
    for member in space.raw.zrange(space.keys.probers, 0, -1):
        space.raw.zadd(space.keys.probers, {member: space.now_ms() - 1})
    space.raw.hset(space.keys.meta, "reap_until_ms", space.now_ms() - 1)
    await verdicts.fail(3)
    assert verdicts.status() == "healthy"
    assert "suspicion" in verdicts.state()


async def test_the_same_disagreement_again_hands_over(verdicts: Verdicts) -> None:
    await verdicts.hand_over(TWO)
    await verdicts.fail(9)
    assert verdicts.status() == "healthy", "failures of the leader do not count meanwhile"
    assert verdicts.state()["consecutive_failures"] == "0"
    await verdicts.probe(verdicts.space.success())
    assert verdicts.doubt() == set(), "a success of the leader ends it"


async def test_another_prober_that_is_wrong_is_another_disagreement(verdicts: Verdicts) -> None:
    await verdicts.fail(2)
    await verdicts.answer(TWO, ok=True)
    verdicts.space.raw.delete(verdicts.space.keys.leader)
    store = verdicts.space.store_of(THREE)
    elected = await store.campaign("other", lease_seconds=60, seen_epoch=0)
    verdicts.let_an_interval_pass()
    for batch in (1, 2):
        await store.report(Term(elected.epoch, "other"), batch, [verdicts.space.failure()], LIMITS)  # type: ignore[union-attr]
    await verdicts.answer(TWO, ok=True)
    assert "prober" not in verdicts.state()
    assert verdicts.state()["refuted_prober"] == THREE


async def test_reports_of_the_new_prober_count_once(verdicts: Verdicts) -> None:
    await verdicts.hand_over(TWO)
    failure = verdicts.space.failure()
    assert (await verdicts.say(TWO, OpinionKind.REPORT, "7", failure)).stale == 0
    assert (await verdicts.say(TWO, OpinionKind.REPORT, "7", failure)).stale == 1
    assert (await verdicts.say(THREE, OpinionKind.REPORT, "8", failure)).stale == 1
    assert verdicts.state()["consecutive_failures"] == "1"
    verdicts.let_an_interval_pass()
    await verdicts.say(TWO, OpinionKind.REPORT, "8", failure)
    state = verdicts.state()
    assert state["suspected_by"] == TWO
    assert set(state["asked"].split()) == {LEADER, THREE, FOUR}
    assert "prober" not in state


async def test_a_prober_that_becomes_the_leader_leaves_no_doubt(verdicts: Verdicts) -> None:
    await verdicts.hand_over(TWO)
    verdicts.space.raw.delete(verdicts.space.keys.leader)
    store = verdicts.space.store_of(TWO)
    elected = await store.campaign("other", lease_seconds=60, seen_epoch=0)
    assert isinstance(elected, Elected)
    for batch in (1, 2):
        await store.report(Term(elected.epoch, "other"), batch, [verdicts.space.success()], LIMITS)
        assert verdicts.doubt() == set()
    (event,) = await verdicts.space.reader.last_events(1)
    assert (event.kind, event.router, event.by) == (EventKind.REPLICA_CLEARED, TWO, "")
    assert event.record is not None
    assert event.record.doubt.prober == "", "mirrors take that over"


@pytest.mark.parametrize("end", ["silent", "dead", "clock set back"])
async def test_the_leader_takes_over_from_a_silent_prober(verdicts: Verdicts, end: str) -> None:
    await verdicts.hand_over(TWO)
    space, replica = verdicts.space, verdicts.space.keys.replica(A)
    match end:
        case "silent":
            space.raw.hset(replica, "prober_until_ms", space.now_ms() - 1)
        case "dead":
            space.raw.zadd(space.keys.probers, {f"same of-{TWO} {TWO}": space.now_ms() - 1})
        case "clock set back":
            space.raw.hset(replica, "prober_until_ms", space.now_ms() + 10**7)
    await verdicts.fail(1)
    assert "prober" not in verdicts.state()
    assert "replica_handed_back" in space.event_kinds()
    assert verdicts.state()["consecutive_failures"] == "1"


async def test_an_unsure_prober_does_not_extend_its_word(verdicts: Verdicts) -> None:
    await verdicts.hand_over(TWO)
    before = verdicts.state()["prober_until_ms"]
    unsure = replace(verdicts.space.failure(), is_unsure=True)
    verdicts.space.raw.hset(verdicts.space.keys.replica(A), "prober_until_ms", int(before) - 500)
    await verdicts.say(TWO, OpinionKind.REPORT, "1", unsure)
    assert int(verdicts.state()["prober_until_ms"]) == int(before) - 500


async def test_a_failed_session_of_the_new_prober_decides_nothing(verdicts: Verdicts) -> None:
    """It makes this prober probe, as it makes any other: it may have failed for a reason of its router's own."""
    await verdicts.hand_over(TWO)
    verdicts.let_an_interval_pass()
    before = verdicts.state()
    await verdicts.space.store_of(TWO).record_outcome(verdicts.space.failure(), LIMITS, is_passive=True)
    changed = {name for name, value in verdicts.state().items() if before.get(name) != value}
    assert changed - {"reported_at_ms", "announced_at_ms"} == set()
    assert verdicts.state()["prober"] == TWO


async def make_unhealthy(verdicts: Verdicts) -> None:
    await verdicts.fail(2)
    verdicts.let_silence_end()
    await verdicts.fail(1)
    assert verdicts.status() == "unhealthy"


async def test_one_appeal_soon_after_a_verdict_is_enough(verdicts: Verdicts) -> None:
    verdicts.space.raw.hset(verdicts.space.keys.meta, "slow_start_ms", "60000")
    await make_unhealthy(verdicts)
    await verdicts.say(THREE, OpinionKind.APPEAL, "1", verdicts.space.success())
    assert (verdicts.status(), verdicts.state()["prober"]) == ("healthy", THREE)
    assert "slow_start_ms" not in verdicts.state()
    await verdicts.fail(5)
    assert verdicts.status() == "healthy"


async def test_a_late_appeal_needs_a_recovery_and_ramps_up(verdicts: Verdicts) -> None:
    verdicts.space.raw.hset(verdicts.space.keys.meta, "slow_start_ms", "60000")
    await make_unhealthy(verdicts)
    long_ago = verdicts.space.now_ms() - int(3 * INTERVAL * 1000) - 1
    verdicts.space.raw.hset(verdicts.space.keys.replica(A), "status_since_ms", long_ago)
    assert (await verdicts.say(THREE, OpinionKind.APPEAL, "1", verdicts.space.success())).stale == 1
    await verdicts.say(THREE, OpinionKind.APPEAL, "2", verdicts.space.success())
    assert (verdicts.status(), verdicts.state()["slow_start_ms"]) == ("healthy", "60000")


async def test_an_appeal_makes_a_new_replica_healthy(verdicts: Verdicts) -> None:
    await verdicts.space.add(B)
    await verdicts.say(THREE, OpinionKind.APPEAL, "1", verdicts.space.success(B))
    assert verdicts.status(B) == "healthy"


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DISABLED])
async def test_an_appeal_for_an_inactive_replica_is_stale(verdicts: Verdicts, state: AdminState) -> None:
    await make_unhealthy(verdicts)
    await verdicts.space.store.set_admin(A, state)
    assert (await verdicts.say(THREE, OpinionKind.APPEAL, "2", verdicts.space.success())).stale == 1


async def test_a_more_lenient_router_does_not_appeal(verdicts: Verdicts) -> None:
    await verdicts.join(FIVE, probe_print="lenient")
    await make_unhealthy(verdicts)
    assert (await verdicts.say(FIVE, OpinionKind.APPEAL, "2", verdicts.space.success())).stale == 1


async def test_sessions_change_no_status_among_peers(verdicts: Verdicts) -> None:
    """Two routers, however often, not even one below the threshold; the prober is called once an interval."""
    before = verdicts.state()
    for router in (TWO, THREE, FOUR) * 5:
        await verdicts.space.store_of(router).record_outcome(verdicts.space.failure(), LIMITS, is_passive=True)
    after = verdicts.state()
    assert after.pop("reported_at_ms")
    assert after == before
    assert verdicts.space.event_kinds().count("replica_reported") == 1
    verdicts.let_an_interval_pass()
    await verdicts.space.store_of(TWO).record_outcome(verdicts.space.failure(), LIMITS, is_passive=True)
    (event,) = await verdicts.space.reader.last_events(1)
    assert (event.kind, event.router, event.reported) == (EventKind.REPLICA_REPORTED, TWO, A)


async def test_an_outcome_on_purpose_counts_like_a_probe_among_peers(verdicts: Verdicts) -> None:
    for _ in range(3):
        await verdicts.space.store_of(FIVE).record_outcome(verdicts.space.failure(), LIMITS)
    assert verdicts.status() == "healthy"
    assert verdicts.state()["suspected_by"] == FIVE


@pytest.mark.parametrize(("seconds_ago", "status"), [(580.0, "healthy"), (603.1, "unhealthy")])
async def test_without_probes_a_recent_success_outweighs_a_failure(
    server: EmbeddedServer, namespace: str, seconds_ago: float, status: str
) -> None:
    limits = replace(LIMITS, interval_seconds=600.0)  # so that a pause of this machine counts for little
    async with on_server(server.url, namespace) as space:
        await space.add()
        for router in (LEADER, TWO):
            await space.store_of(router).heartbeat(info(router), expiry_seconds=60)
        await space.store_of(TWO).record_outcome(space.success(), limits)
        at = space.now_ms() - int(seconds_ago * 1000)
        space.raw.hset(space.keys.replica(A), "last_ok_at_ms", at)
        for _ in range(3):
            await space.store.record_outcome(space.failure(), limits)
        assert space.fields(A)["status"] == status


async def test_a_thousand_questions_at_once_are_few_events(verdicts: Verdicts) -> None:
    space = verdicts.space
    urls = [f"http://127.1.{n // 250}.{n % 250}:8000" for n in range(120)]
    for url in urls:
        await space.add(url)
        space.raw.hset(space.keys.replica(url), mapping={"status": "healthy"})
    failures = [space.failure(url) for url in urls]
    await verdicts.probe(*failures)
    await verdicts.probe(*failures)
    assert space.event_kinds().count("replica_suspected") == 5
    events = [event for event in await space.reader.last_events(5) if event.questions]
    assert [len(event.questions) for event in events] == [25, 25, 25, 25, 20]
    assert {space.fields(url)["revision"] for url in urls} == {event.id for event in events}


async def test_opinions_that_decide_about_several_are_one_event(verdicts: Verdicts) -> None:
    space, urls = verdicts.space, [A, B]
    await space.add(B)
    await verdicts.probe(space.success(B))
    await verdicts.probe(*map(space.failure, urls))
    await verdicts.probe(*map(space.failure, urls))
    for url in urls:
        space.raw.hset(space.keys.replica(url), "asked", TWO)
    before = await space.reader.records(urls)
    opinions = [
        Opinion(OpinionKind.OPINION, space.fields(url)["suspicion"], space.failure(url, "unreached")) for url in urls
    ]
    answer = await space.store_of(TWO).give_opinions(opinions, LIMITS)
    (event,) = answer.events
    assert (event.kind, event.router, event.by) == (EventKind.REPLICA_UNHEALTHY, LEADER, TWO)
    assert [change.unreached_by for change in event.changes] == [(TWO,)] * 2
    after = await space.reader.records(urls)
    assert {record.key: record for record in event.records(before.get)} == after
    assert after[A].doubt.unreached_by == (TWO,)


async def test_no_call_changes_much(verdicts: Verdicts) -> None:
    """Whatever a result leads to that is an event: a question, its end, a hand-over's end."""
    space = verdicts.space
    urls = [f"http://127.1.{n // 250}.{n % 250}:8000" for n in range(60)]
    for url in urls:
        await space.add(url)
        space.raw.hset(space.keys.replica(url), mapping={"status": "healthy", "consecutive_failures": 1})

    async def first_call(*results: ProbeResult) -> tuple[int, int]:
        verdicts.batch += 1
        report = await space.store.report(Term(verdicts.epoch, "token"), verdicts.batch, results, LIMITS)
        await verdicts.probe(*results[report.done :])
        return report.done, len(report.events)

    assert await first_call(*map(space.failure, urls)) == (25, 1)
    assert await first_call(*map(space.success, urls)) == (12, 12)
    for url in urls:
        long_ago = {"suspected_at_ms": 1, "prober": TWO, "prober_until_ms": 1}
        space.raw.hset(space.keys.replica(url), mapping=long_ago)
    assert await first_call(*map(space.failure, urls)) == (12, 12)
    question = {"suspicion": "q", "suspected_by": LEADER, "asked": TWO}
    for url in urls:
        space.raw.hset(space.keys.replica(url), mapping=question)
    opinions = [Opinion(OpinionKind.OPINION, "q", space.success(url)) for url in urls]
    answer = await space.store_of(TWO).give_opinions(opinions, LIMITS)
    assert (answer.done, len(answer.events)) == (12, 12)
