"""What a page of metrics tells of the replicas of one pool: each of them, and how many there are of a kind."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import islice

from shared_registry.aio.breath import Breath
from shared_registry.model import AdminState, ReplicaRecord, ReplicaStatus
from shared_registry.telemetry import exposition
from shared_registry.telemetry.families import OF_REPLICA, Family

AT_ONCE = 200
"""How many replicas are handled before other tasks run: about a millisecond."""
_Sample = tuple[str, float]
CountsByReplica = dict[tuple[str, str], int] | dict[tuple[str, str, str], int]
"""Counts by a replica's canonical url and the values of the other labels."""
TIERS = {True: "primary", False: "secondary"}


class Fleet:
    """The replicas of one pool, as of one moment.

    Attributes:
        kinds: How many replicas there are, by tier, status and admin state.
        slots: The slots of the replicas that can be selected, by tier.
        free: Those of them that are free.
    """

    def __init__(self, records: Sequence[ReplicaRecord], loads: Mapping[str, int], *, pool: str) -> None:
        """Count nothing yet; `count` does.

        Args:
            records: The replicas.
            loads: The number of sessions on each, as far as it is known; otherwise the record's counts.
            pool: The name of the pool.
        """
        self.kinds: Counter[tuple[str, str, str]] = Counter()
        self.slots: dict[str, float] = {}
        self.free: dict[str, float] = {}
        self._records = records
        self._loads = [loads.get(one.key, one.in_flight) for one in records]
        self._pool = pool
        self._labels: list[str] = []

    async def count(self) -> None:
        """Count the replicas, in pieces."""
        breath, names, places = Breath(), Counter[str | None](), Counter[str]()
        for one in self._records:
            names[one.endpoint.name] += 1
            places[_place(one)] += 1
            await breath.pause()
        everything = zip(self._records, self._loads, strict=True)
        while piece := list(islice(everything, AT_ONCE)):
            for one, load in piece:
                label = _unique_label(one, names, places)
                self._labels.append(exposition.labels(replica=label, pool=self._pool))
                tier = TIERS[one.endpoint.primary]
                self.kinds[tier, one.health.status.value, one.admin.value] += 1
                capacity = (one.endpoint.capacity or math.inf) if one.is_selectable else 0.0
                self.slots[tier] = self.slots.get(tier, 0.0) + capacity
                self.free[tier] = self.free.get(tier, 0.0) + max(0.0, capacity - load)
            await asyncio.sleep(0)

    async def samples(self, family: Family) -> AsyncIterator[str]:
        """Yield the lines of one of the metrics of replicas, in pieces."""
        value = _VALUES[family.name]
        everything = zip(self._labels, self._records, self._loads, strict=True)
        while piece := list(islice(everything, AT_ONCE)):
            found = [value(text, record, load) for text, record, load in piece]
            yield exposition.sample_lines(family, [one for one in found if one is not None])
            await asyncio.sleep(0)

    async def counts(self, family: Family, found: CountsByReplica) -> AsyncIterator[str]:
        """Yield the lines of a count, in pieces. Those of replicas that are registered no more are left out.

        Args:
            family: The metric.
            found: The counts.
        """
        labels = dict(zip([one.key for one in self._records], self._labels, strict=True))
        everything = iter(found.items())
        while piece := list(islice(everything, AT_ONCE)):
            samples = [
                (f"{labels[key]},{exposition.labels(**dict(zip(family.labels[1:], others, strict=True)))}", count)
                for (key, *others), count in piece
                if key in labels
            ]
            yield exposition.sample_lines(family, samples)
            await asyncio.sleep(0)


def _unique_label(record: ReplicaRecord, names: Counter[str | None], places: Counter[str]) -> str:
    """Return a replica's name if no other is called so, or else its host and port, or its url if those are not unique.

    Two replicas with the same labels would be one in Prometheus.
    """
    name, place = record.endpoint.name, _place(record)
    if name and names[name] == 1 and name not in places and "://" not in name:
        return name
    return place if places[place] == 1 else record.key


def _place(record: ReplicaRecord) -> str:
    return record.key.partition("://")[2]


def _up(text: str, record: ReplicaRecord, _: int) -> _Sample:
    return text, 1 if record.health.status is ReplicaStatus.HEALTHY else 0


def _status_since(text: str, record: ReplicaRecord, _: int) -> _Sample | None:
    return None if record.status_since is None else (text, record.status_since)


def _admin_since(text: str, record: ReplicaRecord, _: int) -> _Sample | None:
    if record.admin is AdminState.ACTIVE or record.admin_since is None:
        return None
    return f'{text},admin="{record.admin.value}"', record.admin_since


def _in_flight(text: str, _: ReplicaRecord, load: int) -> _Sample:
    return text, load


def _capacity(text: str, record: ReplicaRecord, _: int) -> _Sample:
    return text, record.endpoint.capacity


def _weight(text: str, record: ReplicaRecord, _: int) -> _Sample:
    return text, record.endpoint.weight


def _over_capacity(text: str, record: ReplicaRecord, load: int) -> _Sample | None:
    return (text, load - record.endpoint.capacity) if 0 < record.endpoint.capacity < load else None


_VALUES: Mapping[str, Callable[[str, ReplicaRecord, int], _Sample | None]] = dict(
    zip(
        [family.name for family in OF_REPLICA],
        (_up, _status_since, _admin_since, _in_flight, _capacity, _weight, _over_capacity),
        strict=True,
    )
)
