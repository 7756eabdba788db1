"""How soon verdicts and leaders come. Each rule yields what contradicts it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from shared_registry.model import EventKind
from tests.support.chaos.history import History
from tests.support.chaos.spans import Span, Spans, union
from tests.support.chaos.world import FAST, INTERVAL, LEASE, RECOVERY, THRESHOLD, TIMEOUT, WORD, Place

ANSWER = 0.3


def the_dead_are_unhealthy(history: History) -> Iterator[str]:
    """Dead for all: unhealthy in time. Time counts while its prober works."""
    bound = INTERVAL + THRESHOLD * TIMEOUT + (THRESHOLD - 1) * FAST + 1.2
    for url in history.urls:
        idle = history.idle(url)
        alive = Spans(
            gap
            for place in history.world.places
            for gap in history.world.paths.path(place.number, url).bad.gaps(history.begin, history.end)
        )
        for span in history.serving(url):
            for dead in alive.gaps(span.begin, span.end):
                waited = sum(gap.length for gap in idle.gaps(dead.begin, dead.end))
                if waited > bound + _more(history, url, dead) + history.noise(*dead):
                    yield f"{url} is dead for all and healthy from {history.times(dead)} ({waited:.1f} s of work)"


def _more(history: History, url: str, dead: Span) -> float:
    """Return what a hand-over, a new prober, and asked routers that have just ended add."""
    near = [sample for sample in history.samples if dead.begin - 0.2 <= sample.at <= dead.end]
    was_handed_over = any(sample.prober(url) for sample in near)
    new_probers = sum(dead.begin <= term.begin <= dead.end for _, term in history.planned(url))
    has_ended = history.disturbances.overlaps(dead.begin - WORD, dead.end)
    return WORD * was_handed_over + INTERVAL * new_probers + 1.0 * has_ended


def appeal_seconds(history: History, url: str, span: Span) -> float:
    """Return how long it may take until each router has had its turn, and has reached the replica often enough.

    A replica that is new is left to its prober for an interval and a timeout before.
    """
    turns = history.most_probers(span.begin - 1, span.end) + 1
    is_new = any(one.status(url) == "unknown" for one in history.samples if span.begin - 0.2 <= one.at <= span.end)
    return turns * INTERVAL + TIMEOUT + (RECOVERY - 1) * FAST + (INTERVAL + TIMEOUT) * is_new


def the_reached_are_healthy(history: History) -> Iterator[str]:
    """Reached by a prober throughout: healthy again in time."""
    for url, place in itertools.product(history.urls, history.world.places):
        for span in history.out(url):
            for reached in (history.unreached(place, url) | history.vacant).gaps(*span):
                if reached.length > appeal_seconds(history, url, reached) + history.noise(*reached):
                    yield f"{url} is out from {history.times(reached)}, r{place.number} reaches it"


def selects_find_what_is_reached(history: History) -> Iterator[str]:
    """A router selects something as soon as any prober has reached any replica for long enough."""
    for place in history.world.places:
        for empty, url, prober in itertools.product(_empty_selects(history, place), history.urls, history.world.places):
            mute = [history.mute(place), history.vacant, history.inactive(url)]
            for reached in union([history.unreached(prober, url), *mute]).gaps(*empty):
                if reached.length > appeal_seconds(history, url, reached) + history.noise(*reached):
                    when = history.times(reached)
                    yield f"r{place.number} selects nothing from {when}, although r{prober.number} reaches {url}"


def _empty_selects(history: History, place: Place) -> Iterator[Span]:
    since: float | None = None
    for line in history.lines[place.number]:
        if line["what"] == "selects" and line["url"] is None:
            since = line["at"]
        elif line["what"] in ("selects", "ready") and since is not None:
            yield Span(since, line["at"])
            since = None
    if since is not None:
        yield Span(since, history.end)


def somebody_leads(history: History) -> Iterator[str]:
    """While any prober reaches Redis, one leads within two leases and a second."""
    for vacancy in history.vacant:
        for place in history.world.places:
            for able in (history.mute(place) | place.squeezed).gaps(*vacancy):
                if able.length > 2 * LEASE + 1 + history.noise(*able):
                    yield f"nobody leads from {history.times(able)}, although r{place.number} could"


def the_wrong_resign(history: History) -> Iterator[str]:
    """A leader that does not reach half of the replicas that it probes, as another router does, hands over the lead."""
    resigned = [(event.router, event.at) for event in history.of_kind(EventKind.LEADER_RESIGNED)]
    bound = 2 * INTERVAL + THRESHOLD * (TIMEOUT + FAST) + ANSWER + LEASE / 2
    for leader, term in history.terms:
        leading = history.world.place_of(leader)
        for place in history.world.places:
            if leading is None or place is leading:
                continue
            if any(one == place.router and 0 <= term.end - at <= 10 * LEASE + 1 for one, at in resigned):
                continue  # it has a handicap
            wrong = {url: _wrong_about(history, leading, place, url, term) for url in history.urls}
            moments = sorted({at for spans in wrong.values() for one in spans for at in one})
            for begin in moments:
                end = begin + bound + history.noise(begin, begin + bound)
                own = [url for url in history.urls if _judges(history, leader, url, Span(begin, end))]
                if own and end <= term.end and 2 * sum(wrong[url].covers(begin, end) for url in own) >= len(own):
                    yield f"{leader} leads from {history.times(Span(begin, end))}, although r{place.number} is right"


def _judges(history: History, router: str, url: str, span: Span) -> bool:
    """Return whether a router had to probe a replica all that time, and it was not handed over to another before."""
    is_its_own = any(
        one == router and held.begin <= span.begin and span.end <= held.end for one, held in history.planned(url)
    )
    return is_its_own and not history.sample_at(span.begin).prober(url)


def _wrong_about(history: History, leading: Place, place: Place, url: str, term: Span) -> Spans:
    """Return when only the leader of the two did not reach a replica, and could have learned that."""
    bad = history.world.paths.path(leading.number, url).bad
    excluded = union([history.unreached(place, url), history.mute(leading), leading.squeezed, history.inactive(url)])
    return Spans(gap for one in bad.within(term) for gap in excluded.gaps(*one))
