"""What goes wrong in a simulation, and when. All of it comes from the seed."""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

ROUTERS = 3
REPLICAS = 4
"""Two of them are configured. Operators add and remove the others."""
PODS = (1, 2, 2, 5)
"""How many replicas announce themselves in a seed that has any. Of five, more than three can be silent at once."""
PODS_SHARE = 1 / 3
"""In so many seeds there are any."""
FIRST_AT = 2.0
"""The routers have started, and some sessions are under way."""
LENGTHS = (2.0, 5.0, 10.0)
"""The seconds over which the faults of a seed are spread."""
LONGEST_SECONDS = 16.0
"""All faults are ended at this time."""
FEWEST, MOST = 2, 12
KINDS_SHARE = 0.4


class Kind(enum.Enum):
    """What happens. Most of it ends by itself after `seconds`."""

    PAUSE = "router {router} is paused for {seconds:g} s"
    CRASH = "router {router} is killed, and started again after {seconds:g} s"
    STOP = "router {router} is stopped, and started again after {seconds:g} s"
    BREAK = "the connections of router {router} break"
    LOSE_REPLIES = "the next {count} replies to router {router} are lost with their connections"
    LOSE_COMMANDS = "the next {count} commands of router {router} are lost with their connections"
    REPEAT = "the next {count} commands of router {router} are executed twice"
    SLOW = "each way between router {router} and Redis takes up to {amount:g} s, for {seconds:g} s"
    CUT_OFF = "router {router} is cut off from Redis for {seconds:g} s"
    CUT_REPLIES = "no reply reaches router {router} for {seconds:g} s"
    FREEZE = "Redis is paused for {seconds:g} s"
    RESTART = "Redis restarts with its data, and is away for {seconds:g} s"
    FLUSH = "all data is deleted"
    LOSE_ALL = "Redis restarts without data, and is away for {seconds:g} s"
    OLDER_COPY = "Redis restarts with the data of {amount:g} s ago, and is away for {seconds:g} s"
    FAILOVER = (
        "Redis fails over to a server that lacks the last {amount:g} s and whose clock is {count} s behind,"
        " and is away for {seconds:g} s"
    )
    READ_ONLY = "Redis takes no writes for {seconds:g} s, as a replica"
    NO_MEMORY = "Redis takes no data for {seconds:g} s, because it is at maxmemory"
    CLOCK = "the clock of Redis steps by {amount:+g} s"
    DIES = "replica {replica} is dead for {seconds:g} s"
    ADD = "an operator adds replica {replica} with capacity {count}, at router {router}"
    REMOVE = "an operator removes replica {replica}, at router {router}"
    DRAIN = "an operator drains replica {replica}, at router {router}"
    ENABLE = "an operator enables replica {replica}, at router {router}"
    POD_JOINS = "pod {replica} starts, and announces itself"
    POD_CRASH = "pod {replica} is killed, and started again after {seconds:g} s"
    POD_MOVE = "pod {replica} is killed, and started at another address after {seconds:g} s"
    POD_STOP = "pod {replica} is stopped, and started again after {seconds:g} s"
    POD_LOST = "pod {replica} is killed for good, and something else answers at its address"
    POD_TWIN = "another program announces the address of pod {replica}, and is killed after {seconds:g} s"
    POD_PAUSE = "the program beside pod {replica} is paused for {seconds:g} s"
    POD_BREAK = "the connections of pod {replica} to Redis break"
    POD_LOSE_REPLIES = "the next {count} replies to pod {replica} are lost with their connections"
    POD_REPEAT = "the next {count} commands of pod {replica} are executed twice"
    POD_CUT_OFF = "pod {replica} is cut off from Redis for {seconds:g} s"
    POD_CUT_REPLIES = "no reply reaches pod {replica} for {seconds:g} s"
    PODS_CUT_OFF = "no pod reaches Redis for {seconds:g} s"
    POD_SICK = "pod {replica} answers no probes for {seconds:g} s"
    POD_REMOVE = "an operator removes pod {replica}, at router {router}"
    POD_DRAIN = "an operator drains pod {replica}, at router {router}"
    POD_ENABLE = "an operator enables pod {replica}, at router {router}"


KEEP_CAPACITY = {
    Kind.CRASH,
    Kind.STOP,
    Kind.BREAK,
    Kind.LOSE_REPLIES,
    Kind.LOSE_COMMANDS,
    Kind.REPEAT,
    Kind.DIES,
    Kind.DRAIN,
    Kind.ENABLE,
    *(kind for kind in Kind if kind.name.startswith("POD")),
}
"""Faults in which no replica ever has more sessions than its capacity.

No leases are lost, and Redis is not away: sessions that are placed without Redis rely on loads that may be old.
"""
CUT_OFF_FOR_A_MOMENT = {Kind.LOSE_REPLIES, Kind.LOSE_COMMANDS}
"""Of these, the faults that may also end connections as soon as they are made: then Redis is away for the router."""
AT_REDIS = {
    Kind.FREEZE,
    Kind.RESTART,
    Kind.FLUSH,
    Kind.LOSE_ALL,
    Kind.OLDER_COPY,
    Kind.FAILOVER,
    Kind.READ_ONLY,
    Kind.NO_MEMORY,
    Kind.CLOCK,
}
"""Faults that all clients of Redis meet."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens.

    Attributes:
        number: Its number in the schedule of its seed.
        at: When, in virtual seconds since the routers started.
        kind: What.
        router: The number of the router.
        replica: The number of the replica, or of the pod.
        seconds: How long it lasts.
        count: How many commands or replies; or the capacity.
        amount: How far, or how slow.
    """

    number: int
    at: float
    kind: Kind
    router: int = 0
    replica: int = 0
    seconds: float = 0.0
    count: int = 1
    amount: float = 0.0

    def __str__(self) -> str:
        values = {name: getattr(self, name) for name in ("router", "replica", "seconds", "count", "amount")}
        return f"{self.number:3}  {self.at:6.2f} s  {self.kind.value.format(**values)}"


WEIGHTS = {
    Kind.PAUSE: 4,
    Kind.CRASH: 3,
    Kind.STOP: 2,
    Kind.BREAK: 3,
    Kind.LOSE_REPLIES: 4,
    Kind.LOSE_COMMANDS: 2,
    Kind.REPEAT: 3,
    Kind.SLOW: 3,
    Kind.CUT_OFF: 4,
    Kind.CUT_REPLIES: 3,
    Kind.FREEZE: 2,
    Kind.RESTART: 2,
    Kind.FLUSH: 2,
    Kind.LOSE_ALL: 2,
    Kind.OLDER_COPY: 2,
    Kind.FAILOVER: 2,
    Kind.READ_ONLY: 2,
    Kind.NO_MEMORY: 2,
    Kind.CLOCK: 2,
    Kind.DIES: 3,
    Kind.ADD: 4,
    Kind.REMOVE: 2,
    Kind.DRAIN: 2,
    Kind.ENABLE: 2,
}


POD_WEIGHTS = {
    Kind.POD_CRASH: 4,
    Kind.POD_MOVE: 2,
    Kind.POD_STOP: 2,
    Kind.POD_LOST: 3,
    Kind.POD_TWIN: 3,
    Kind.POD_PAUSE: 2,
    Kind.POD_BREAK: 2,
    Kind.POD_LOSE_REPLIES: 2,
    Kind.POD_REPEAT: 2,
    Kind.POD_CUT_OFF: 3,
    Kind.POD_CUT_REPLIES: 2,
    Kind.PODS_CUT_OFF: 2,
    Kind.POD_SICK: 2,
    Kind.POD_REMOVE: 2,
    Kind.POD_DRAIN: 3,
    Kind.POD_ENABLE: 2,
}
"""What happens to pods, in a schedule of its own beside the other one."""
POD_KINDS = frozenset({Kind.POD_JOINS, *POD_WEIGHTS})


def schedule(seed: int, kinds: Sequence[Kind] | None = None) -> list[Fault]:
    """Return the faults of a seed, in order.

    Each seed has some kinds of them only: a few kinds that come often meet in more ways than all kinds that come once.

    Args:
        seed: Decides everything.
        kinds: The kinds that come, instead of those of the seed.
    """
    faults = _faults(random.Random(f"{seed} faults"), WEIGHTS, kinds) + _pod_faults(seed, kinds)
    faults.sort(key=lambda fault: fault.at)
    return [replace(fault, number=number) for number, fault in enumerate(faults)]


def _pod_faults(seed: int, kinds: Sequence[Kind] | None) -> list[Fault]:
    """Return the starts of the pods of a seed, and what happens to them."""
    rng = random.Random(f"{seed} pods")
    has_pods = rng.random() < PODS_SHARE if kinds is None else any(kind in POD_KINDS for kind in kinds)
    if not has_pods:
        return []
    pods = rng.choice(PODS)
    starts = [Fault(0, round(rng.uniform(0.3, FIRST_AT), 2), Kind.POD_JOINS, replica=pod) for pod in range(pods)]
    return starts + [replace(fault, replica=fault.replica % pods) for fault in _faults(rng, POD_WEIGHTS, kinds)]


def _faults(rng: random.Random, weights: dict[Kind, int], kinds: Sequence[Kind] | None) -> list[Fault]:
    """Return faults of some of these kinds, or of those that are given, in order."""
    own = [kind for kind in weights if rng.random() < KINDS_SHARE]
    kinds = own if kinds is None else [kind for kind in kinds if kind in weights]
    if not kinds:
        return []
    length = rng.choice(LENGTHS)
    times = sorted(round(FIRST_AT + rng.uniform(0, length), 2) for _ in range(rng.randint(FEWEST, MOST)))
    return [_fault(number, at, kinds, weights, rng) for number, at in enumerate(times)]


def end_of(faults: Sequence[Fault]) -> float:
    """Return when the last of these faults has ended by itself, or is ended."""
    ends = (fault.at + (fault.seconds if "{seconds" in fault.kind.value else 0.0) for fault in faults)
    return min(max(ends, default=FIRST_AT) + 0.5, LONGEST_SECONDS)


def _fault(number: int, at: float, kinds: Sequence[Kind], weights: dict[Kind, int], rng: random.Random) -> Fault:
    kind = rng.choices(kinds, [weights[one] for one in kinds])[0]
    amount = 0.0
    if kind is Kind.CLOCK:
        amount = round(rng.choice([-1, 1]) * rng.choice([0.5, 3, 10, 60]) * rng.uniform(0.5, 1.5), 1)
    elif kind is Kind.OLDER_COPY:
        amount = round(rng.uniform(0.1, 4), 2)
    elif kind is Kind.FAILOVER:
        amount = round(rng.choice([0.05, 0.5]) * rng.uniform(0.2, 2), 2)
    elif kind is Kind.SLOW:
        amount = round(rng.uniform(0.1, 1.5), 2)
    return Fault(
        number,
        at,
        kind,
        router=rng.randrange(ROUTERS),
        replica=rng.randrange(REPLICAS),
        seconds=round(rng.choice([0.3, 1.5, 4.0, 8.0]) * rng.uniform(0.5, 1.5), 2),
        count=rng.randint(5, 40) if kind in (Kind.REPEAT, Kind.POD_REPEAT) else rng.randint(1, 4),
        amount=amount,
    )
