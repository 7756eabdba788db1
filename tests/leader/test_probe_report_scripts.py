"""Probe results and outcomes: who may report, what counts, and what it does to a replica's health."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from shared_registry.errors import Fenced
from shared_registry.model import EventKind, ProbeResult, ReplicaStatus, Term, Thresholds
from shared_registry.store.replies import Elected
from tests.support.space import THRESHOLDS, A, B, C, Space

pytestmark = pytest.mark.usefixtures("stays_sound")


@pytest.mark.parametrize("case", ["wrong token", "wrong epoch", "lower epoch", "no leader", "another leader"])
async def test_a_report_of_another_router_than_the_leader_writes_nothing(space: Space, case: str) -> None:
    await space.add()
    epoch, token = await space.elect(), "token"
    match case:
        case "wrong token":
            token = "Token"
        case "wrong epoch":
            epoch += 1
        case "lower epoch":
            epoch -= 1
        case "no leader":
            space.raw.delete(space.keys.leader)
        case "another leader":
            space.raw.delete(space.keys.leader)
            assert isinstance(
                await space.store_of("router~2").campaign("theirs", lease_seconds=60, seen_epoch=0), Elected
            )
    before = space.dump()
    with pytest.raises(Fenced, match=f"epoch {epoch} is over"):
        await space.report(epoch, 1, space.success(), space.failure(), token=token)
    assert space.dump() == before


async def test_the_epoch_is_compared_as_text_with_every_digit(space: Space) -> None:
    await space.add()
    answer = await space.store.campaign("token", lease_seconds=60, seen_epoch=2**53 - 3)
    assert isinstance(answer, Elected)
    with pytest.raises(Fenced):
        await space.report(answer.epoch + 1, 1, space.success())
    assert (await space.report(answer.epoch, 1, space.success())).events


async def test_a_batch_counts_once_and_an_older_batch_never(space: Space) -> None:
    await space.add()
    epoch = await space.elect()
    await space.report(epoch, 5, space.failure())
    before = space.dump()
    for batch in (5, 4, 1, 0):
        assert (await space.report(epoch, batch, space.failure())).is_duplicate
    assert space.dump() == before
    assert not (await space.report(epoch, 10, space.failure())).is_duplicate
    assert space.fields(A)["consecutive_failures"] == "2"


async def test_batch_numbers_start_again_with_each_epoch(space: Space) -> None:
    await space.add()
    epoch = await space.elect()
    await space.report(epoch, 7, space.failure())
    space.raw.delete(space.keys.leader)
    epoch = await space.elect()
    assert not (await space.report(epoch, 1, space.failure())).is_duplicate


async def test_results_for_unknown_replicas_are_dropped_and_create_nothing(space: Space) -> None:
    await space.add(A)
    await space.add(B)
    await space.remove(B)
    epoch = await space.elect()
    gone = ProbeResult(B, space.incarnation(B), 1.0)
    results = [ProbeResult(C, "x", 1.0), gone, ProbeResult(A, "another", 1.0), ProbeResult(A, "", 1.0)]
    before = space.dump()
    report = await space.report(epoch, 1, *results)
    after = space.dump()
    assert (report.dropped, report.events) == (4, [])
    assert before.pop(space.keys.leader) != after.pop(space.keys.leader)  # the batch number
    assert after == before


async def test_a_result_for_a_foreign_hash_is_dropped(space: Space) -> None:
    epoch = await space.elect()
    space.raw.hset(space.keys.replica(A), "foreign", "1")
    assert (await space.report(epoch, 1, ProbeResult(A, "", 1.0))).dropped == 1
    assert space.fields(A) == {"foreign": "1"}
    space.raw.delete(space.keys.replica(A))


async def test_a_late_result_for_an_earlier_life_changes_nothing(space: Space) -> None:
    """The url is registered again by then."""
    await space.add()
    epoch = await space.elect()
    late = space.failure()
    await space.remove()
    await space.add()
    await space.make("healthy")
    before = space.fields(A)
    assert (await space.report(epoch, 1, late, late, late)).dropped == 3
    assert space.fields(A) == before


async def test_an_unknown_replica_turns_healthy_at_the_first_success(space: Space) -> None:
    await space.add(primary=True)
    epoch = await space.elect()
    report = await space.report(epoch, 1, space.success())
    (event,) = report.events
    assert (event.kind, event.router, event.epoch) == (EventKind.REPLICA_HEALTHY, "router~1", epoch)
    assert event.record is not None
    assert event.record.health.status is ReplicaStatus.HEALTHY
    assert (space.fields(A)["consecutive_successes"], space.ready()[0]) == ("0", {A})


@pytest.mark.parametrize(
    ("failure", "recovery", "results", "statuses"),
    [
        (3, 2, "fffffss", "???----+"),
        (3, 2, "sffsff", "?++++++"),
        (3, 2, "sfffsfss", "?+++----+"),
        (1, 1, "fsfs", "?-+-+"),
        (1, 3, "fsssfs", "?---+--"),
        (2, 2, "ffs", "??--"),
    ],
)
async def test_the_thresholds_work_like_the_originals(
    space: Space, failure: int, recovery: int, results: str, statuses: str
) -> None:
    """Every step is one probe: f a failure, s a success; the status before it and after it is written below."""
    await space.add()
    epoch = await space.elect()
    shown = {"unknown": "?", "healthy": "+", "unhealthy": "-"}
    seen = [shown[space.fields(A)["status"]]]
    for batch, letter in enumerate(results, 1):
        result = space.success() if letter == "s" else space.failure()
        await space.store.report(Term(epoch, "token"), batch, [result], Thresholds(failure, recovery))
        seen.append(shown[space.fields(A)["status"]])
    assert "".join(seen) == statuses


async def test_counters_times_and_the_last_error_are_kept(space: Space) -> None:
    await space.add()
    epoch = await space.elect()
    begun = space.now_ms()
    await space.report(epoch, 1, space.success(latency_ms=12.3456))
    fields = space.fields(A)
    assert (fields["last_latency_ms"], "last_failure_at_ms" in fields) == ("12.346", False)
    assert begun <= int(fields["last_ok_at_ms"]) == int(fields["status_since_ms"]) <= space.now_ms()
    await space.report(epoch, 2, space.failure(error="first"), space.failure(error="second"))
    fields = space.fields(A)
    assert (fields["consecutive_failures"], fields["last_error"], fields["last_latency_ms"]) == (
        "2",
        "second",
        "12.346",
    )
    assert begun <= int(fields["last_failure_at_ms"]) <= space.now_ms()
    await space.report(epoch, 3, space.success())
    fields = space.fields(A)
    assert (fields["consecutive_failures"], fields["consecutive_successes"]) == ("0", "1")


@pytest.mark.parametrize(
    ("latency_ms", "text"), [(0.0, "0.000"), (1e-9, "0.000"), (0.0005, "0.001"), (1e15 + 0.25, "1000000000000000.250")]
)
async def test_a_latency_is_stored_as_python_wrote_it(space: Space, latency_ms: float, text: str) -> None:
    await space.add()
    epoch = await space.elect()
    await space.report(epoch, 1, space.success(latency_ms=latency_ms))
    assert space.fields(A)["last_latency_ms"] == text


@pytest.mark.parametrize(
    "error", ["timeout", "ü \U0001f600 \u2028", "two\nlines\r\n\x00\x1b[31m", "x" * 10_000, "%s {} '\"]] --"]
)
async def test_any_error_text_is_kept_and_carried_by_the_event(space: Space, error: str) -> None:
    await space.add()
    epoch = await space.elect()
    report = await space.report(epoch, 1, *[space.failure(error=error)] * 3)
    (event,) = report.events
    (read,) = await space.reader.last_events(1)
    assert event == read
    assert event.record is not None
    assert event.reason == event.record.last_error == space.fields(A)["last_error"] == error


async def test_unchanged_health_writes_no_event(space: Space) -> None:
    await space.add(A)
    await space.add(B)
    epoch = await space.elect()
    await space.report(epoch, 1, space.success(A), *[space.failure(B)] * 3)
    before = space.raw.xlen(space.keys.events), space.raw.hget(space.keys.meta, "revision")
    for batch in range(2, 22):
        assert (await space.report(epoch, batch, space.success(A), space.failure(B))).events == []
    assert (space.raw.xlen(space.keys.events), space.raw.hget(space.keys.meta, "revision")) == before
    assert space.fields(A)["consecutive_successes"] == "20"
    assert space.fields(B)["consecutive_failures"] == "23"


async def test_a_call_stops_after_some_changes_and_says_where(space: Space) -> None:
    """A batch goes on where the last one has stopped; a repeated call says the same."""
    urls = [f"http://127.1.{n // 250}.{n % 250}:8000" for n in range(60)]
    for url in urls:
        await space.add(url)
    epoch = await space.elect()
    results, done = [space.success(url) for url in urls], []
    for batch in range(1, 3):
        report = await space.report(epoch, batch, *results)
        assert (len(report.events), report.dropped) == (1, 0)
        assert [change.key for change in report.events[0].changes] == urls[: report.done]
        repeated = await space.report(epoch, batch, *results)
        assert (repeated.done, repeated.is_duplicate) == (report.done, True)
        done.append(report.done)
        results, urls = results[report.done :], urls[report.done :]
    assert (done, results) == ([36, 24], [])
    assert len(space.ready()[1]) == 60


async def test_five_hundred_results_without_a_change_fit_in_one_call(space: Space) -> None:
    urls = [f"http://127.1.{n // 250}.{n % 250}:8000" for n in range(500)]
    for url in urls:
        await space.add(url)
    epoch = await space.elect()
    report = await space.report(epoch, 1, *(space.failure(url) for url in urls))
    assert (report.done, len(report.events), report.dropped) == (500, 0, 0)


async def test_results_of_one_batch_are_applied_in_order(space: Space) -> None:
    await space.add()
    epoch = await space.elect()
    good, bad = space.success(), space.failure()
    report = await space.report(epoch, 1, good, bad, bad, bad, good, good)
    kinds = [EventKind.REPLICA_HEALTHY, EventKind.REPLICA_UNHEALTHY, EventKind.REPLICA_HEALTHY]
    assert [event.kind for event in report.events] == kinds
    assert [event.previous for event in report.events[1:]] == [event.id for event in report.events[:-1]]


async def test_an_empty_batch_changes_only_the_batch_number(space: Space) -> None:
    epoch = await space.elect()
    assert await space.report(epoch, 1) == await space.report(epoch, 2)
    assert (await space.report(epoch, 2)).is_duplicate


@pytest.mark.parametrize("results", [["s"], ["f", "f", "f"], ["s", "f", "f", "s"], ["s", "f", "f", "f", "s", "s"]])
async def test_outcomes_follow_the_same_rules_and_name_their_router(space: Space, results: Sequence[str]) -> None:
    for url in (A, B):
        await space.add(url)
    epoch = await space.elect()
    for batch, letter in enumerate(results, 1):
        await space.report(epoch, batch, space.success(A) if letter == "s" else space.failure(A))
        outcome = space.success(B) if letter == "s" else space.failure(B)
        for event in await space.store.record_outcome(outcome, THRESHOLDS, by="a session"):
            assert (event.by, event.router) == ("a session", "router~1")
    own = {"status", "consecutive_failures", "consecutive_successes"}
    assert [space.fields(A)[field] for field in own] == [space.fields(B)[field] for field in own]


async def test_an_outcome_for_an_unknown_replica_is_dropped(space: Space) -> None:
    await space.add()
    stale = space.failure()
    await space.remove()
    await space.add()
    before = space.dump()
    for result in (stale, ProbeResult(B, "x", 1.0)):
        assert await space.store.record_outcome(result, THRESHOLDS) == []
    assert space.dump() == before


DAMAGES: dict[str, Callable[[Space], object]] = {
    "another type": lambda space: (space.raw.delete(space.keys.replica(A)), space.raw.set(space.keys.replica(A), "x")),
    "no failures": lambda space: space.raw.hdel(space.keys.replica(A), "consecutive_failures"),
    "no successes": lambda space: space.raw.hdel(space.keys.replica(A), "consecutive_successes"),
    "no status": lambda space: space.raw.hdel(space.keys.replica(A), "status"),
    "no weight": lambda space: space.raw.hdel(space.keys.replica(A), "weight"),
    "weight 0": lambda space: space.raw.hset(space.keys.replica(A), "weight", "0"),
    "no number": lambda space: space.raw.hset(space.keys.replica(A), "capacity", "many"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_hash_costs_no_other_replica_its_reports(space: Space, damage: str) -> None:
    await space.add(A)
    await space.add(B)
    epoch = await space.elect()
    sound = space.raw.hgetall(space.keys.replica(A))
    incarnations = {url: space.incarnation(url) for url in (A, B)}
    DAMAGES[damage](space)
    for batch, error in enumerate((None, "refused", "refused", "refused"), start=1):
        results = [ProbeResult(url, one, 1.0, error) for url, one in incarnations.items()]
        report = await space.report(epoch, batch, *results)
        assert (report.done, report.dropped) == (2, 1)
    assert space.fields(B)["status"] == "unhealthy"
    space.raw.delete(space.keys.replica(A))
    space.raw.hset(space.keys.replica(A), mapping=sound)
