"""What happened in one run, put together: samples of Redis, the event stream, the lines of routers, and the truth."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from shared_registry.model import Event, EventKind
from tests.support.chaos.samples import Sample
from tests.support.chaos.spans import Span, Spans, union
from tests.support.chaos.world import SETTLING_SECONDS, Place, World
from tests.support.whole_events import with_records


class History:
    """Looks at one run that is over.

    Attributes:
        lines: What each place's processes wrote, oldest first, with the key of the router in `router`.
    """

    def __init__(self, world: World, events: Sequence[Event]) -> None:
        self.world = world
        self.samples: Sequence[Sample] = world.sampler.samples
        self.events = with_records(events)
        self.lines = {place.number: list(lines_of(place)) for place in world.places}

    @property
    def urls(self) -> list[str]:
        return self.world.urls

    @property
    def begin(self) -> float:
        return self.samples[0].at

    @property
    def end(self) -> float:
        return self.samples[-1].at

    def noise(self, begin: float, end: float) -> float:
        """Return by how much longer than meant things may take, because this machine is busy."""
        late = [self.world.paths.late, *self.late.values()]
        return 1.0 + 2 * max(spans.seconds(begin - 1, end) for spans in late)

    @cached_property
    def late(self) -> dict[int, Spans]:
        """When each router's process did not get to run in time."""
        return {
            number: Spans(Span(line["since"], line["at"]) for line in lines if line["what"] == "late")
            for number, lines in self.lines.items()
        }

    @cached_property
    def redis_away(self) -> Spans:
        """When Redis was away, and until routers have found back to it."""
        return self.world.redis_away.longer(SETTLING_SECONDS)

    def mute(self, place: Place) -> Spans:
        """Return when this router could not do its work at all, or not write to Redis."""
        found = [place.gone, place.stopped, place.cut_off]
        return union([*(spans.longer(SETTLING_SECONDS) for spans in found), self.redis_away])

    def unsound(self, place: Place) -> Spans:
        """Return when this router could not probe every replica that a path leads to."""
        return union(
            [self.mute(place), place.squeezed.longer(SETTLING_SECONDS), place.nameless.longer(SETTLING_SECONDS)]
        )

    def failing(self, place: Place, url: str) -> Spans:
        """Return when a probe of this router could fail."""
        return self.world.paths.path(place.number, url).bad | self.world.paths.late

    def unreached(self, place: Place, url: str) -> Spans:
        """Return when this router might not reach a replica, for whatever reason."""
        return self.unsound(place) | self.failing(place, url)

    def spans_where(self, holds: Callable[[Sample], bool]) -> Iterator[Span]:
        """Yield the times from the first to the last sample in a row for which this holds."""
        first: float | None = None
        last = 0.0
        for sample in self.samples:
            if holds(sample):
                first = sample.at if first is None else first
                last = sample.at
            elif first is not None:
                yield Span(first, last)
                first = None
        if first is not None:
            yield Span(first, last)

    def out(self, url: str) -> Iterator[Span]:
        """Yield when a replica was active and not healthy."""
        return self.spans_where(lambda sample: sample.is_active(url) and sample.status(url) != "healthy")

    def serving(self, url: str) -> Iterator[Span]:
        """Yield when a replica was active and healthy."""
        return self.spans_where(lambda sample: sample.is_active(url) and sample.status(url) == "healthy")

    def suspected(self, url: str) -> Iterator[Span]:
        """Yield when a question about a replica was open."""
        return self.spans_where(lambda sample: "suspicion" in sample.replicas.get(url, {}))

    def inactive(self, url: str) -> Spans:
        """Return when a replica was not registered, drained or disabled."""
        return Spans(self.spans_where(lambda sample: not sample.is_active(url)))

    def idle(self, url: str) -> Spans:
        """Return when nobody probed a replica, or could not: the leader, or its router in the plan."""
        found = [Spans(self.spans_where(lambda sample: not sample.planned(url)))]
        for router, span in self.planned(url):
            place = self.world.place_of(router)
            if place is not None:
                found += [self.unsound(place).within(span), Spans(self._life(router).gaps(*span))]
        return union(found)

    def _life(self, router: str) -> Spans:
        """Return from when to when a router ran."""
        place = self.world.place_of(router)
        ready = [line for line in self.lines[place.number] if line["what"] == "ready"] if place is not None else []
        began = [(line["router"], line["at"]) for line in ready]
        ends = [*(at for _, at in began[1:]), self.end]
        return Spans(Span(at, end) for (one, at), end in zip(began, ends, strict=True) if one == router)

    def times(self, span: Span) -> str:
        return f"{self.at(span.begin)} to {self.at(span.end)}"

    @cached_property
    def vacant(self) -> Spans:
        """When no router was the leader."""
        return Spans(self.spans_where(lambda sample: not sample.leader))

    @cached_property
    def terms(self) -> list[tuple[str, Span]]:
        """Which router was the leader, and when, as sampled."""
        return self._holders(lambda sample: sample.leader)

    def planned(self, url: str) -> list[tuple[str, Span]]:
        """Return which router had to probe a replica, and when, as sampled, apart from hand-overs."""
        return self._holders(lambda sample: sample.planned(url))

    def _holders(self, router_of: Callable[[Sample], str]) -> list[tuple[str, Span]]:
        found: list[tuple[str, Span]] = []
        for sample in self.samples:
            router = router_of(sample)
            if found and found[-1][0] == router:
                found[-1] = router, Span(found[-1][1].begin, sample.at)
            else:
                found.append((router, Span(sample.at, sample.at)))
        return [(router, span) for router, span in found if router]

    @cached_property
    def disturbances(self) -> Spans:
        """Whatever was done to routers or to Redis, apart from paths."""
        some = [
            spans
            for place in self.world.places
            for spans in (place.gone, place.stopped, place.squeezed, place.nameless, place.cut_off)
        ]
        return union([*some, self.world.redis_away])

    def of_kind(self, *kinds: EventKind) -> Iterator[Event]:
        return (event for event in self.events if event.kind in kinds)

    def most_probers(self, begin: float, end: float) -> int:
        """Return how many probers there were at the most."""
        return max((len(sample.probers) for sample in self.samples if begin <= sample.at <= end), default=0)

    def sample_at(self, at: float) -> Sample:
        """Return the last sample until then."""
        return self.samples[max(0, bisect.bisect_right(self.samples, at, key=lambda sample: sample.at) - 1)]

    def error_of(self, url: str, at: float) -> str:
        """Return the last failure of a replica's probes just after a time, as sampled."""
        after = (sample.replicas.get(url, {}) for sample in self.samples if sample.at >= at)
        return next((fields.get("last_error", "") for fields in after if fields), "")

    def at(self, at: float) -> str:
        return f"{at - self.world.began_at:.2f}"


def lines_of(place: Place) -> Iterator[dict[str, Any]]:
    for process in place.all:
        router = ""
        for line in process.lines():
            router = line["router"] if line["what"] == "ready" else router
            yield {"router": router, **line}
