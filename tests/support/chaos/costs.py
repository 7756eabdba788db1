"""How much routers ask and write. Each rule yields what contradicts it."""

from __future__ import annotations

from collections.abc import Iterator

from shared_registry.model import EventKind
from tests.support.chaos.history import History
from tests.support.chaos.world import INTERVAL, TIMEOUT, WORD


def questions_keep_a_distance(history: History) -> Iterator[str]:
    """One question an interval and replica, with at most three routers asked, and one event for all of one script."""
    last: dict[tuple[str, str], float] = {}
    for event in history.events:
        for question in event.questions:
            key = question.key, question.incarnation
            if event.at - last.get(key, 0.0) < INTERVAL - 0.002:
                yield f"at {history.at(event.at)} {question.key} is suspected again after {event.at - last[key]:.2f} s"
            if len(question.asked) > 3:
                yield f"at {history.at(event.at)} {len(question.asked)} routers are asked about {question.key}"
            last[key] = event.at
        if event.record is not None and event.kind not in (EventKind.REPLICA_CLEARED, EventKind.REPLICA_HANDED_BACK):
            last.pop((event.record.key, event.record.incarnation), None)


def disagreements_stay_quiet(history: History) -> Iterator[str]:
    """A leader that does not reach one replica costs three questions at the most, and one more after each change."""
    for leader, term in history.terms:
        leading = history.world.place_of(leader)
        if leading is None:
            continue
        for url in history.urls:
            for blind in history.world.paths.path(leading.number, url).bad.within(term):
                asked = sum(
                    question.key == url and blind.begin <= event.at <= blind.end
                    for event in history.of_kind(EventKind.REPLICA_SUSPECTED)
                    for question in event.questions
                )
                changes = history.disturbances.count(blind.begin - WORD, blind.end)
                changes += sum(
                    history.failing(place, url).count(blind.begin - WORD, blind.end)
                    for place in history.world.places
                    if place is not leading
                )
                changes += sum(
                    event.record is not None and event.record.key == url and blind.begin <= event.at <= blind.end
                    for event in history.of_kind(EventKind.REPLICA_ADMIN, EventKind.REPLICA_REGISTERED)
                )
                if asked > 3 + changes:
                    yield f"{asked} questions about {url} from {history.times(blind)}, with {changes} changes"


def questions_end(history: History) -> Iterator[str]:
    """A question is over soon after its prober reaches the replica again."""
    for url in history.urls:
        for span in history.suspected(url):
            places = {
                history.world.place_of(sample.replicas[url].get("suspected_by", ""))
                for sample in history.samples
                if span.begin <= sample.at <= span.end and url in sample.replicas
            }
            if len(places) != 1:
                continue
            (place,) = places
            if place is None:
                continue
            for reached in (history.unreached(place, url) | history.idle).gaps(*span):
                if reached.length > INTERVAL + TIMEOUT + WORD + history.noise(*reached):
                    yield f"{url} is suspected from {history.times(reached)}, r{place.number} reaches it"
