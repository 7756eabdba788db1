"""What a verdict needs, and who may write it. Each rule yields what contradicts it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from shared_registry.model import AdminState, Event, EventKind, ReplicaStatus
from tests.support.chaos.history import History
from tests.support.chaos.spans import Span, union
from tests.support.chaos.world import CAPACITY, FAST, TIMEOUT, Place
from tests.support.lease_history import Load, Reading, excesses, is_reported, most_at_once, placements

SILENCE = 0.75
WINDOW = 3.0
"""Within how much time two machines that do not connect count together; see `lua/lib/ejecting.lua`."""
ANSWER = 0.3
"""Until an event has arrived, a peer has probed, and its opinion is written, at a replica that answers."""
VERDICT = TIMEOUT + 0.1 + FAST + 2 * TIMEOUT
"""How old the last failure of a verdict may be: what it took, its report, and the next probe, that was not better."""


def verdicts_have_failures(history: History) -> Iterator[str]:
    """Whoever is said not to have reached a replica could fail to.

    A router that asked because it could not probe has not failed: the answers of others decide, and `by` names one.
    """
    for event in history.of_kind(EventKind.REPLICA_UNHEALTHY):
        assert event.record is not None
        url, blamed = event.record.key, {event.by or event.router, *event.record.doubt.unreached_by}
        for router in blamed:
            place = history.world.place_of(router)
            if place is None:
                yield f"at {history.at(event.at)} {router} judged {url}, which is none of our routers"
            elif not _could_fail(history, place, url, event.at):
                path = history.world.paths.path(place.number, url).host
                yield f"at {history.at(event.at)} {url} is unhealthy, but {router} reached it by {path}: {event.reason}"


def _could_fail(history: History, place: Place, url: str, at: float) -> bool:
    held_back = union([place.stopped, place.cut_off, history.late[place.number], history.redis_away])
    least = held_back.back_from(at, VERDICT + TIMEOUT + SILENCE + history.noise(at, at))
    return history.failing(place, url).overlaps(least, at)


LEAVE_QUESTIONS = (
    EventKind.REPLICA_CLEARED,
    EventKind.REPLICA_EJECTED,
    EventKind.REPLICA_RETURNED,
    EventKind.REPLICA_HANDED_BACK,
)
"""Events after which a question may go on. Nor does it end when a replica is drained or enabled."""


def verdicts_have_asked(history: History) -> Iterator[str]:
    """Peers were asked, and no router that was asked and reached the replica all the time was passed over."""
    questions: dict[str, tuple[float, tuple[str, ...]]] = {}
    healthy: set[str] = set()
    for event in history.events:
        for question in event.questions:
            questions[question.key] = event.at, question.asked
        if event.record is None:
            continue
        url = event.record.key
        if event.kind is EventKind.REPLICA_UNHEALTHY and url in healthy:
            yield from _verdict_after(history, event, url, questions.get(url))
        is_healthy = event.record.health.status is ReplicaStatus.HEALTHY
        (healthy.add if is_healthy else healthy.discard)(url)
        ends_it = event.kind is not EventKind.REPLICA_ADMIN or event.record.admin is AdminState.DISABLED
        if event.kind not in LEAVE_QUESTIONS and ends_it:
            questions.pop(url, None)


def _verdict_after(
    history: History, event: Event, url: str, question: tuple[float, tuple[str, ...]] | None
) -> Iterator[str]:
    at = event.at
    if question is None:
        around = [one for one in history.samples if at - 1 <= one.at <= at + 1]
        if around and all(len(one.probers - {event.router}) >= 1 for one in around):
            yield f"at {history.at(at)} {event.router} judged {url} without asking anybody"
        return
    asked_at, asked = question
    if event.record is not None and (event.record.doubt.unreached_by or event.by):
        return  # one agreed: the next failure may come before another answer
    for router in asked:
        place = history.world.place_of(router)
        if place is not None and place.router == router:
            unreached = history.unreached(place, url)
            if not unreached.overlaps(asked_at, at) and at - asked_at > ANSWER + history.noise(asked_at, at):
                yield f"at {history.at(at)} {url} is unhealthy by silence, but {router} was asked and reached it"


def questions_have_failures(history: History) -> Iterator[str]:
    """A question that ends by silence comes from a router that could fail to reach the replica."""
    for event in history.of_kind(EventKind.REPLICA_SUSPECTED):
        place = history.world.place_of(event.router)
        for question in event.questions:
            if place is None or question.until is None:
                continue
            if not _could_fail(history, place, question.key, event.at):
                error = history.error_of(question.key, event.at)
                yield f"at {history.at(event.at)} {event.router} suspected {question.key}, which it reached: {error}"


def leaders_are_fenced(history: History) -> Iterator[str]:
    """Epochs rise, each has one leader, and only a replica's prober judges: it, one of a plan, or after a hand-over."""
    leaders: dict[int, str] = {}
    epoch = 0
    handed: dict[str, set[str]] = defaultdict(set)
    for sample in history.samples:
        for url in sample.replicas:
            handed[url].add(sample.prober(url))
            if sample.shares:
                handed[url].add(sample.planned(url))
    for event in history.events:
        if event.record is not None:
            handed[event.record.key].add(event.record.doubt.prober)
        if event.kind is EventKind.LEADER_ELECTED:
            if event.epoch <= epoch:
                yield f"at {history.at(event.at)} epoch {event.epoch} follows {epoch}"
            epoch = event.epoch
            leaders[epoch] = event.router
        elif event.kind is EventKind.REPLICA_UNHEALTHY and not event.by and event.record is not None:
            may = {leaders.get(event.epoch, ""), *handed[event.record.key]}
            if event.router not in may:
                yield f"at {history.at(event.at)} {event.router} judged {event.record.key} in {event.epoch}, not {may}"
    yield from _batches_rise(history)


def ejections_have_witnesses(history: History) -> Iterator[str]:
    """Sessions that could not connect eject only where two routers failed to reach a replica, and then reached it."""
    for event in history.of_kind(EventKind.REPLICA_EJECTED):
        if event.record is None or "could not connect" not in event.reason:
            continue
        begin = event.at - WINDOW - TIMEOUT - history.noise(event.at, event.at)
        witnesses = [
            place for place in history.world.places if _may_testify(history, place, event.record.key, begin, event.at)
        ]
        if len(witnesses) < 2:
            numbers = [place.number for place in witnesses]
            yield f"at {history.at(event.at)} {event.record.key} is ejected, only {numbers} reached it after a failure"


def _may_testify(history: History, place: Place, url: str, begin: float, end: float) -> bool:
    failing = history.failing(place, url) | history.late[place.number]
    bad = history.world.paths.path(place.number, url).bad
    return any(bad.gaps(max(one.begin, begin), end) for one in failing.within(Span(begin, end)))


def _batches_rise(history: History) -> Iterator[str]:
    last = (0, 0)
    for sample in history.samples:
        if sample.leader:
            now = (sample.leader_epoch, sample.batch)
            if now < last:
                yield f"at {history.at(sample.at)} epoch and batch went from {last} to {now}"
            last = now


def ready_sets_follow_status(history: History) -> Iterator[str]:
    """What may serve is in a ready set or in `full`, nothing else is, whether it is suspected or not."""
    for sample in history.samples:
        for url, fields in sample.replicas.items():
            may_serve = (
                fields["status"] == "healthy" and fields["admin"] == "active" and "ejected_until_ms" not in fields
            )
            is_full = int(fields["in_flight"]) >= int(fields["capacity"]) > 0
            if (url in sample.ready) is not (may_serve and not is_full) or (url in sample.full) is not (
                may_serve and is_full
            ):
                yield f"at {history.at(sample.at)} {url} is in the wrong set: {dict(fields)}"


def capacity_holds(history: History) -> Iterator[str]:
    """No replica has more sessions than its capacity, unless leases were put back after their router was removed."""
    reaped: dict[str, list[float]] = defaultdict(list)
    for event in history.of_kind(EventKind.ROUTER_EXPIRED):
        reaped[event.router].append(event.at)
    histories = [list(process.lines()) for place in history.world.places for process in place.all]
    placed = [one for lines in histories for one in placements(lines, reaped)]
    for url, count in most_at_once(placed).items():
        if count > CAPACITY:
            yield f"{url} had {count} sessions at once"
    readings = [
        Reading(sample.at, [_load(url, fields, sample.leases) for url, fields in sample.replicas.items()])
        for sample in history.samples
    ]
    for over in excesses(readings):
        if not is_reported(over, histories):
            yield f"{over.url} is over its capacity from {history.times(Span(over.begin, over.end))}"


def _load(url: str, fields: Mapping[str, str], leases: Mapping[str, int]) -> Load:
    return Load(url, int(fields["in_flight"]), int(fields["capacity"]), int(leases.get(url, 0)))
