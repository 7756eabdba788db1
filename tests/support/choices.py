"""Replicas to choose among, choices by the thousand, and what statistics say of them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shared_registry.model import AdminState, Replica, ReplicaEndpoint, ReplicaHealth, ReplicaRecord, ReplicaStatus
from shared_registry.selection import Selection
from shared_registry.selection.members import Members
from shared_registry.selection.view import View

ANSWERED_AT = time.time()
HEALTHY, UNHEALTHY, UNKNOWN = ReplicaStatus.HEALTHY, ReplicaStatus.UNHEALTHY, ReplicaStatus.UNKNOWN


def url(number: int) -> str:
    return f"http://10.{number // 62500}.{number // 250 % 250}.{number % 250}:8000"


def record(
    number: int,
    *,
    weight: float = 1.0,
    primary: bool = False,
    status: ReplicaStatus = HEALTHY,
    admin: AdminState = AdminState.ACTIVE,
    revision: int = 1,
    answered_at: float | None = ANSWERED_AT,
    order: int | None = None,
    **fields: Any,
) -> ReplicaRecord:
    endpoint = ReplicaEndpoint(url(number), primary=primary, weight=weight, order=number if order is None else order)
    health = ReplicaHealth(status, last_ok_at=None if status is UNKNOWN else answered_at)
    return ReplicaRecord(
        url(number), endpoint, health, admin=admin, revision=f"{revision}-0", incarnation="i", **fields
    )


def replicas(count: int) -> list[Replica]:
    return [Replica.of(record(number)) for number in range(count)]


def members(weights: Sequence[float]) -> Members:
    """Return as many replicas, with these weights."""
    return Members(replicas(len(weights)), list(weights))


def shown(view: View, *records: ReplicaRecord) -> View:
    view.replace_all({each.key: each for each in records})
    return view


def view_of(selection: Selection, *records: ReplicaRecord, panic_percent: float = 0.0) -> View:
    return shown(View(selection, panic_percent=panic_percent), *records)


def number_of(replica: Replica | None) -> int:
    assert replica is not None
    first, second, third = (int(part) for part in replica.key.split(":")[1].split(".")[1:])
    return first * 62500 + second * 250 + third


def tally(choose: Callable[[str | None], Replica | None], keys: Iterable[str | None]) -> Counter[int]:
    return Counter(number_of(choose(key)) for key in keys)


def chi_square(counts: Mapping[int, int], weights: Sequence[float]) -> float:
    """Return Pearson's statistic of these counts against these weights."""
    total = sum(counts.values())
    expected = [total * weight / sum(weights) for weight in weights]
    return sum((counts[number] - share) ** 2 / share for number, share in enumerate(expected))


def chi_square_limit(degrees: int, *, deviations: float = 4.0) -> float:
    """Return what the statistic stays below but for one case in some 30,000: Wilson and Hilferty's approximation."""
    part = 2 / (9 * degrees)
    return degrees * (1 - part + deviations * math.sqrt(part)) ** 3


def max_to_mean(counts: Mapping[int, int], weights: Sequence[float]) -> float:
    """Return how much more than its share the most loaded one has."""
    total = sum(counts.values())
    return max(counts.get(number, 0) / (total * weight / sum(weights)) for number, weight in enumerate(weights))
