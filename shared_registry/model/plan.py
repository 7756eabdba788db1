"""The plan, by which routers share the probing: who probes which replica. Pure.

Each replica is in one of 256 buckets, by its url, and the plan gives each bucket to a router. `lua/lib/plan.lua` has
the same rule for the results that routers report.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared_registry.model.replicas import ReplicaRecord
from shared_registry.model.routers import Leader

BUCKETS = tuple(f"{number:02x}" for number in range(256))
"""All buckets, as the plan names them."""
_PRIME = 2**31 - 1


@functools.lru_cache(maxsize=100_000)
def bucket_of(key: str) -> str:
    """Return the bucket of the replica with this canonical url."""
    number = 0
    for byte in key.encode():
        number = (number * 31 + byte) % _PRIME
    return BUCKETS[number % len(BUCKETS)]


@dataclass(frozen=True, slots=True)
class Plan:
    """How routers share the probing.

    Attributes:
        number: The number of the plan. A later plan has a higher one.
        epoch: The epoch of the leader that made it.
        shares: For each bucket, the key of the router that probes its replicas.
        routers: The keys of all routers that take part.
    """

    number: int
    epoch: int
    shares: Mapping[str, str]
    routers: frozenset[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "routers", frozenset(self.shares.values()))

    def prober_of(self, key: str) -> str:
        """Return the router that probes the replica with this canonical url; empty if nobody does."""
        return self.shares.get(bucket_of(key), "")


@dataclass(frozen=True, slots=True)
class Share:
    """A router's part in a plan. Every report of a participant carries it, and Redis compares it with the plan.

    Attributes:
        number: The number of the plan.
        router: The key of the router.
    """

    number: int
    router: str


def planned_prober(key: str, plan: Plan | None, leader: Leader | None) -> str:
    """Return the router that probes a replica unless it was handed over; empty if there is none.

    Args:
        key: The canonical url.
        plan: The plan; `None` if the leader probes all replicas.
        leader: The leader, if there is one.
    """
    if plan is not None:
        return plan.prober_of(key)
    return leader.router if leader is not None else ""


def prober_of(record: ReplicaRecord, plan: Plan | None, leader: Leader | None) -> str:
    """Return the router that probes a replica; empty if there is none. See `planned_prober`."""
    return record.doubt.prober or planned_prober(record.key, plan, leader)
