"""What became of the leases, put together from what processes wrote, the event stream, and looks at Redis. Pure."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REPORT = "has more sessions than its capacity after leases were put back"
READ_MARGIN_SECONDS = 0.5
"""Between a lease's being put back and the look that sees it, or the log line that tells of it."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Load:
    """One replica as Redis has it at one instant.

    Attributes:
        leases: How many leases name it, over all routers.
    """

    url: str
    in_flight: int
    capacity: int
    leases: int

    @property
    def is_over(self) -> bool:
        return 0 < self.capacity < self.in_flight


@dataclass(frozen=True)
class Reading:
    """All replicas at one instant."""

    at: float
    loads: Sequence[Load]


@dataclass(frozen=True)
class Placement:
    """A slot that Redis gave away, for as long as it was that session's for certain."""

    url: str
    begin: float
    end: float


def placements(lines: Iterable[Record], reaped_at: Mapping[str, Sequence[float]]) -> list[Placement]:
    """Return what one process was granted, until it was given back or the router was reaped.

    A lease that is put back after that is no placement, nor is one that was taken while Redis was away, nor one whose
    router was reaped before it read the answer, because it was paused in between.

    Args:
        lines: What it wrote, in order.
        reaped_at: When routers were reaped, by their keys.
    """
    found: list[Placement] = []
    begun: dict[str, tuple[str, float, float]] = {}
    reaps: Sequence[float] = ()

    def add(url: str, asked_at: float, begin: float, released: float) -> None:
        end = min([released, *(at for at in reaps if at > asked_at)])
        if end > begin:
            found.append(Placement(url, begin, end))

    for line in lines:
        if line["what"] == "ready":
            reaps = reaped_at.get(line["router"], ())
        elif line["what"] == "acquired" and not line["is_degraded"]:
            begun[line["id"]] = line["url"], line["asked_at"], line["at"]
        elif line["what"] == "released" and line["id"] in begun:
            add(*begun.pop(line["id"]), line["at"])
    for url, asked_at, begin in begun.values():
        add(url, asked_at, begin, math.inf)
    return found


def most_at_once(found: Iterable[Placement]) -> dict[str, int]:
    """Return how many placements each replica had at once at the most."""
    steps: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for one in found:
        steps[one.url] += [(one.begin, 1), (one.end, -1)]
    return {url: max(itertools.accumulate(step for _, step in sorted(moves))) for url, moves in steps.items()}


@dataclass(frozen=True)
class Excess:
    """A time for which a replica had more sessions than its capacity."""

    url: str
    begin: float
    end: float


def excesses(readings: Iterable[Reading]) -> list[Excess]:
    """Return every such time that was seen."""
    open_since: dict[str, tuple[float, float]] = {}
    found: list[Excess] = []
    for reading in readings:
        over = {load.url for load in reading.loads if load.is_over}
        for url in over:
            open_since[url] = open_since.get(url, (reading.at, reading.at))[0], reading.at
        found += [Excess(url, *open_since.pop(url)) for url in open_since.keys() - over]
    return found + [Excess(url, begin, end) for url, (begin, end) in open_since.items()]


def is_reported(excess: Excess, histories: Iterable[Sequence[Record]]) -> bool:
    """Return whether somebody logged it, or was killed before the answer came by which it would have known."""
    for lines in histories:
        unanswered: Record | None = None
        for line in lines:
            if line["what"] in ("restoring", "restored"):
                unanswered = line if line["what"] == "restoring" else None
            is_logged = line["what"] == "log" and REPORT in line["text"] and excess.url in line["text"]
            if is_logged and excess.begin - READ_MARGIN_SECONDS <= line["at"]:
                return True
        if unanswered and excess.url in unanswered["leases"].values():
            return True
    return False


def miscounts(readings: Iterable[Reading]) -> list[tuple[float, Load]]:
    """Return where a replica's count was not the number of the leases on it, and when."""
    return [(reading.at, load) for reading in readings for load in reading.loads if load.in_flight != load.leases]
