"""How evenly policies spread sessions: a simulation of routers that select by loads which they read now and then.

No clock and no Redis: the policies are the package's own, sessions come and go in simulated time, and every router
reads the true loads once a second, each at its own moment. Beside them stand what others do, or might: the least loaded
replica of what was read last, and one at random; and what `acquire()` does, the least loaded one by the truth.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shared_registry.model import Replica, ReplicaEndpoint
from shared_registry.selection.hash_ring import HashRing
from shared_registry.selection.least_loaded import LeastLoaded
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Members, Picker
from shared_registry.selection.round_robin import RoundRobin

REFRESH_SECONDS = 1.0
Choose = Callable[[str], Replica]


@dataclass(frozen=True)
class Traffic:
    """What the routers have to spread.

    Attributes:
        session_seconds: Draws how long a session lasts.
    """

    weights: Sequence[float]
    sessions_per_second: float
    seconds: float
    session_seconds: Callable[[random.Random], float]
    routers: int = 20
    seed: int = 11


class Mirrored:
    """One router: it chooses by the loads that it read last, and its own choices since where its policy knows them."""

    def __init__(self, policy: str, members: Members, truth: Mapping[str, int], rng: random.Random) -> None:
        self._loads = Loads()
        self._read_loads: dict[str, int] = {}
        self._truth = truth
        self.choose = self._chooser(policy, members, rng)

    def read(self) -> None:
        """Read the true loads."""
        self._loads.begin_read()
        self._loads.update(self._truth)
        self._read_loads = dict(self._truth)

    def _chooser(self, policy: str, members: Members, rng: random.Random) -> Choose:
        replicas = members.replicas
        weight_of = {replica.key: weight for replica, weight in zip(members.replicas, members.weights, strict=True)}

        def least(loads: Mapping[str, int]) -> Replica:
            start = rng.randrange(len(replicas))
            turned = [*replicas[start:], *replicas[:start]]  # ties at random
            return min(turned, key=lambda replica: (loads.get(replica.key, 0) + 1) / weight_of[replica.key])

        if policy == "least of what was read":
            return lambda _: least(self._read_loads)
        if policy == "acquire()":
            return lambda _: least(self._truth)
        if policy == "random":
            return lambda _: rng.choices(replicas, members.weights)[0]
        makers: dict[str, Callable[[], Picker]] = {
            "round_robin": lambda: RoundRobin(rng),
            "least_loaded": lambda: LeastLoaded(rng, self._loads),
            "hash": lambda: HashRing(rng, self._loads),
        }
        made = makers[policy]()
        made.update(members)
        return lambda key: _chosen(made.choose(key))


def max_to_mean(policy: str, traffic: Traffic) -> Iterator[tuple[float, float]]:
    """Yield, ten times a second, the time and how far the most loaded replica is above its share of the load."""
    rng = random.Random(traffic.seed)
    members = fleet(traffic.weights)
    truth = {replica.key: 0 for replica in members.replicas}
    routers = [Mirrored(policy, members, truth, random.Random(seed)) for seed in range(traffic.routers)]
    reads = [(rng.random() * REFRESH_SECONDS, number) for number in range(traffic.routers)]
    heapq.heapify(reads)
    endings: list[tuple[float, str]] = []
    shares = [weight / sum(traffic.weights) for weight in traffic.weights]
    now, read_at = 0.0, 0.1
    while now < traffic.seconds:
        now += rng.expovariate(traffic.sessions_per_second)
        while reads[0][0] <= now:
            at, number = reads[0]
            _end(endings, truth, at)
            routers[number].read()
            heapq.heapreplace(reads, (at + REFRESH_SECONDS, number))
        _end(endings, truth, now)
        while read_at <= now:
            total = sum(truth.values())
            if total:
                yield read_at, max(load / share for load, share in zip(truth.values(), shares, strict=True)) / total
            read_at += 0.1
        replica = rng.choice(routers).choose(f"{rng.random()}")
        truth[replica.key] += 1
        heapq.heappush(endings, (now + traffic.session_seconds(rng), replica.key))


def fleet(weights: Sequence[float]) -> Members:
    """Return replicas with these weights."""
    replicas = [Replica(ReplicaEndpoint(f"http://10.0.{at // 250}.{at % 250}:8000")) for at in range(len(weights))]
    return Members(replicas, list(weights))


def forever(rng: random.Random) -> float:  # noqa: ARG001  as the others are called
    """Let a session never end."""
    return float("inf")


def lognormal(median_seconds: float, spread: float) -> Callable[[random.Random], float]:
    """Return a draw of durations of which a few are very long."""
    return lambda rng: median_seconds * rng.lognormvariate(0.0, spread)


def _end(endings: list[tuple[float, str]], truth: dict[str, int], now: float) -> None:
    while endings and endings[0][0] <= now:
        truth[heapq.heappop(endings)[1]] -= 1


def _chosen(replica: Replica | None) -> Replica:
    if replica is None:
        raise RuntimeError("a policy with members chose none")
    return replica
