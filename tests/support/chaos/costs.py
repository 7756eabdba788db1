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


def the_wrong_hand_over(history: History) -> Iterator[str]:
    """A router that is wrong about a replica twice in a row loses it to the one that reaches it."""
    wrong: dict[str, tuple[str, str, float]] = {}
    for event in history.events:
        if event.record is None:
            continue
        url, doubt = event.record.key, event.record.doubt
        before = wrong.pop(url, None)
        if event.kind is not EventKind.REPLICA_CLEARED or not event.by:
            continue
        wrong[url] = event.by, event.record.incarnation, event.at
        place = history.world.place_of(event.by)
        if place is None or before is None or before[:2] != (event.by, event.record.incarnation):
            continue
        is_wrong_throughout = history.world.paths.path(place.number, url).bad.covers(before[2], event.at)
        if is_wrong_throughout and doubt.prober != event.router:
            yield f"at {history.at(event.at)} {event.by} is wrong about {url} again, and {doubt.prober!r} probes it"


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
            for reached in (history.unreached(place, url) | history.idle(url)).gaps(*span):
                if reached.length > INTERVAL + TIMEOUT + WORD + history.noise(*reached):
                    yield f"{url} is suspected from {history.times(reached)}, r{place.number} reaches it"
