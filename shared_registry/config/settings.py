"""Settings of a router: what each means, what its default is and why, and which do not fit together.

Build a `RouterConfig` in Python, `adopt()` the config object of another router, or read one with
`shared_registry.config.sources`. A config that exists is a valid one: a wrong one raises `ConfigError`, which lists
everything that is wrong. Nothing here reads a file or the environment.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, field, fields
from typing import Any

from pydantic import ConfigDict, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from shared_registry.config.problems import InvalidSettings, Problem, in_one_error
from shared_registry.config.rules import (
    ConfiguredReplicas,
    Count,
    DegradedMode,
    Expectations,
    Expiry,
    FrameBytes,
    Grace,
    HealthPath,
    Host,
    MaxLoad,
    Namespace,
    OnLost,
    Percent,
    Period,
    PolicyName,
    Port,
    RedisUrl,
    RouterId,
    Seconds,
    SessionKeyText,
    default_router_id,
    validate_endpoint,
)
from shared_registry.store.redis_url import mask_redis_url

__all__ = ["SHARED_SETTINGS", "InvalidSettings", "Problem", "RouterConfig", "validate_endpoint"]

SHARED_SETTINGS = (
    "health_check_path",
    "health_check_interval_seconds",
    "health_check_timeout_seconds",
    "failure_threshold",
    "recovery_threshold",
    "health_check_expect",
    "fast_interval_seconds",
    "lease_seconds",
    "renew_interval_seconds",
    "heartbeat_seconds",
    "router_expiry_seconds",
    "affinity_seconds",
    "max_queue",
    "panic_percent",
    "slow_start_seconds",
)
"""What the routers of one registry should agree on: any of them may lead, and all judge each other's silence."""


@in_one_error
@dataclass(
    frozen=True,
    repr=False,
    config=ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    ),
)
class RouterConfig:
    """All settings of one router. Immutable; `dataclasses.replace` makes a changed copy and checks it again.

    Durations are float seconds. Wrong values raise `ConfigError`, also a `ValueError`, that lists all of them.
    """

    host: Host = "0.0.0.0"  # noqa: S104
    """Address that the router's own server binds to. The default is every IPv4 interface, for clients come from
    outside; `127.0.0.1` keeps a trial private."""

    port: Port = 9000
    """TCP port of the router's own server. 0 takes any free one, for tests and demos."""

    replicas: ConfiguredReplicas = field(default_factory=list)
    """Replicas that this router contributes when it starts; none by default. They seed the shared list: what an
    operator changed or removed there since stays so, and routers with different lists add up. May be empty where
    other routers or operators register the replicas."""

    health_check_path: HealthPath = "/health"
    """What a probe requests: appended to a replica's url. A status of 400 or more is a failure. `/health` is
    liveness; where replicas warm up, choose the path that tells readiness, or set `health_check_expect`."""

    health_check_interval_seconds: Seconds = 5.0
    """Seconds between two probes of a replica in a settled state. The leader alone probes, so that the cost is
    replicas / interval probes a second, however many routers there are. A replica that hangs is unhealthy after about

        interval + failure_threshold x timeout + (failure_threshold - 1) x fast_interval     (13 s by default)

    at the most, and one that refuses connections after interval + (failure_threshold - 1) x fast_interval (7 s).
    Lowering it notices sooner at the expense of probes; raising it the other way round."""

    health_check_timeout_seconds: Seconds = 2.0
    """Seconds until a probe without a complete answer counts as failed. Well above the slowest healthy answer, also
    under full load: lowering it ejects replicas that are only busy, raising it delays the verdict on those that hang
    (see the formula above) and keeps more probes open. May exceed the interval: a replica never has two probes at
    once."""

    failure_threshold: Count = 3
    """Failures in a row that make a replica unhealthy. 3 forgives one lost packet and one hiccup. 1 ejects on the
    first failure; each step more lets sessions meet a dead replica for `fast_interval_seconds` longer, and for the
    timeout besides if it hangs."""

    recovery_threshold: Count = 2
    """Successes in a row that make an unhealthy replica healthy again; one that was never judged needs only one.
    Raising it keeps a flapping replica out longer, at `fast_interval_seconds` a step."""

    health_check_expect: Expectations = field(default_factory=dict)
    """Values that a probe's JSON body must hold besides a good status, such as `{status: ready}`; none by default.
    A body that is no JSON object or holds something else is a failure. For replicas that answer 200 while they load a
    model."""

    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    """The Redis or Valkey that holds the shared state: `redis://`, `rediss://` (TLS), `unix://`,
    `redis+sentinel://h1:p,h2:p/master/0` or `redis+cluster://h1:p,h2:p`. All routers of a registry name the same one.
    A password in it is masked wherever the config is shown."""

    namespace: Namespace = "default"
    """Name of the registry within that Redis, one per model or pool: 1 to 64 of `A-Z a-z 0-9 _ . -`. It is the hash
    tag of every key, so that a namespace lives on one Cluster shard; several pools spread over the shards."""

    router_id: RouterId = field(default_factory=default_router_id)
    """How this router is named to people in lists, events and logs: at most 64 characters, without `~`, `/` and white
    space. By default the host's name. Need not be unique: a random suffix, new at each start, tells routers apart."""

    lease_seconds: Expiry = 3.0
    """Seconds that a leader's election holds without renewal. After a crash nobody probes for at most this long and a
    fraction of a second; selection and leases go on meanwhile. The leader itself stops at 90% of it, so that it rides
    out a Redis that does not answer for

        0.9 x lease - renew_interval     (1.7 s by default)

    Raising it survives longer stalls without a change of leader; lowering it fails over sooner. Keep 0.9 x lease above
    renew_interval + redis_timeout, or a single slow answer ends a leadership."""

    renew_interval_seconds: Period = 1.0
    """Seconds between two renewals by the leader. A third of the lease by default, so that one lost renewal costs
    nothing; refused unless below half of the lease. Lowering it costs one tiny command each time."""

    heartbeat_seconds: Period = 1.0
    """Seconds between two signs of life of this router. Each is one script call, routers / heartbeat a second in all.
    Refused unless below half of `router_expiry_seconds`: one lost heartbeat must not look like a death."""

    router_expiry_seconds: Expiry = 5.0
    """Seconds that a router may be silent before the others count it dead and end its leases. After a crash its
    sessions' slots are free again within expiry + heartbeat (6 s by default). Five heartbeats by default, so that a
    pause of some seconds is no death. Raising it tolerates longer pauses of a router that lives; lowering it frees
    slots sooner, and more often those of sessions that still run."""

    fast_interval_seconds: Period = 1.0
    """Seconds from a probe's result to the next probe while something is pending about the replica: never judged yet,
    failing, or recovering. A fifth of the ordinary interval, so that a verdict takes seconds and the steady state
    costs little. Never more than `health_check_interval_seconds`: where it is, that counts
    (`effective_fast_interval_seconds`)."""

    probe_concurrency: Count = 256
    """Most probes under way at once when this router leads. Every replica keeps its schedule while

        answering replicas x latency / interval + silent replicas x timeout / interval <= probe_concurrency

    so 256 keeps up with 640 replicas that all hang, or with tens of thousands that answer. Lowering it delays verdicts
    when many hang at once; raising it lets one burst of TLS handshakes (some 2 ms of CPU each) eat up
    `health_check_timeout_seconds` and time out healthy replicas, and takes a file descriptor each."""

    refresh_seconds: Period = 1.0
    """Seconds between two looks at whether this router's mirror still follows the shared state, and the shortest time
    between two re-reads of what the event stream does not carry (latencies, in_flight). Changes themselves arrive at
    once; this bounds how long a lost one goes unnoticed. Lowering it costs one small read each time."""

    max_staleness_seconds: Seconds | None = None
    """Age of the mirror, in seconds without an answer from Redis, from which `select()` returns nothing. None by
    default: an old view serves better than none, and connecting to a dead replica fails fast anyway. Set it where
    routing to a replica that may have been withdrawn is worse than refusing. At least `refresh_seconds`, for a healthy
    mirror is that old."""

    policy: PolicyName = "priority"
    """How `select()` chooses among the healthy, active replicas of the first tier that has one. `priority`: the first
    in order. `round_robin`: each in turn, as often as its weight says. `least_loaded`: the less loaded of two random
    ones. `hash`: equal keys to the same replica. `acquire()` goes by load whatever this says, and so does
    `shared-registry serve`. docs/policies.md tells which to choose."""

    hash_max_load: MaxLoad | None = None
    """The most sessions that `hash` gives a replica, as a multiple of its share of all: 1.25 lets it have a quarter
    more than on average, and sends what would exceed that to the next replica in the key's order. None by default: a
    popular key goes to one replica, however many sessions it has. Lowering it spreads load more evenly and hits warm
    caches less often; above 1, at most 100. Goes by the leases of all routers, as read every `refresh_seconds`."""

    panic_percent: Percent = 0.0
    """Share of healthy ones among the active replicas, in percent, below which `select()` doubts the verdicts and
    spreads sessions over all active replicas that were ever probed, healthy or not, so that the few that are left are
    not run down; by `policy`, with `round_robin` in place of `priority`. 0, the default, never does. 50 is what Envoy
    has. `acquire()` places on healthy replicas in any case. Begin and end are events."""

    slow_start_seconds: Grace = 0.0
    """Seconds in which a replica that turns healthy ramps up: its weight grows linearly from a tenth to all of it, for
    `acquire()` and for every policy but `priority`, while its caches fill and its model warms. 0, the default, gives it
    its whole share at once. Raising it spares cold replicas, and lets the others bear more for longer. The leader's
    setting counts."""

    affinity_seconds: Grace = 300.0
    """Seconds after a session's end for which its replica is remembered: `acquire(session)` with the same name returns
    to it while it is ready. 0 forgets at once; while a session runs it is remembered in any case. Five minutes let a
    user reconnect to warm caches. Raising it keeps one small key for each session that long."""

    max_queue: Count = 10_000
    """Most sessions that may wait for a slot at once, over all routers: `acquire(timeout=...)` is refused with
    `Saturated` at once while so many do. A session at the end of such a line waits for 10,000 others; lowering it
    refuses those sooner that would wait without success. Each costs Redis some 200 bytes, and a look at its position a
    second."""

    degraded_placement: DegradedMode = "share"
    """What `acquire()` does while Redis is away. `share`: this router goes on with its equal share of the free slots
    that it saw last, so that all routers together stay within capacity as far as each saw the truth. `off`: it raises
    `StoreUnavailable`. `unlimited`: it places by health alone, for replicas that can bear it. What was placed is
    counted once Redis is back."""

    local_cooldown_seconds: Grace = 5.0
    """Seconds for which a replica that this router failed to connect to comes last in its own choices: other routers
    may still reach it, and the verdict on it takes some probes more. 0 for none. Raising it spares sessions a failed
    try each; lowering it returns sooner to one that only hiccuped."""

    redis_timeout_seconds: Period = 1.0
    """Seconds to wait for a connection to Redis or for an answer before `StoreUnavailable`. A script takes well under a
    millisecond, so 1 s is a stall and not a slow answer. Time in which a call waits for its turn in this process, or
    in which the event loop stands still, does not count. Lowering it fails sooner; raising it lets callers wait
    longer, and see `lease_seconds` for how far it may go."""

    connect_timeout_seconds: Seconds = 2.0
    """Seconds for the router to connect to a replica, the WebSocket handshake included, before it tries another one.
    Far above what a replica in the same network takes, also a busy one. Lowering it passes over a silent replica
    sooner; raising it lets clients wait longer for one."""

    response_timeout_seconds: Seconds = 300.0
    """Seconds without a byte after which a proxied HTTP exchange is given up: from the client while it sends its
    request, from the replica until its response begins and between two pieces of it. A replica that computes for long
    before it answers needs as much; raising it keeps exchanges with replicas that hang for as long. WebSocket
    sessions may be silent for ever."""

    peer_timeout_seconds: Expiry = 60.0
    """Seconds after which a connection is cut whose other end has vanished without a word, or takes nothing of what
    is sent to it; by the system's TCP, to the second, on Linux. A client or replica that is only slow is not concerned:
    one byte acknowledged begins the time anew. Lowering it frees what the vanished held sooner; raising it forgives
    longer breaks of the network."""

    header_timeout_seconds: Seconds = 10.0
    """Seconds in which a client must have sent the head of a request, once it has begun or has just connected, before
    it is cut off with 408. Bounds what a client costs that sends a byte at a time."""

    session_key: SessionKeyText = None
    """Where the router finds the name of a session, by which it returns to its replica. One of `header:NAME`,
    `cookie:NAME`, `query:NAME` or, of a WebSocket, `first_frame.FIELD`: a field of its first message, which must be
    JSON, such as `first_frame.client_id`. None by default: every session is a new one. With `first_frame` a session is
    accepted before it has a replica, which then gets that message first. See `affinity_seconds`."""

    on_lost: OnLost = "keep"
    """What the router does with a session whose replica turns unhealthy or is removed while it runs. `keep` lets it go
    on, since it may well outlive a failing health check; `close` ends it, so that the client comes back elsewhere."""

    queue_timeout_seconds: Grace = 0.0
    """Seconds for which a session may wait at the router for a slot, over all replicas that it tries. 0, the default,
    refuses at once where every replica is full or none is healthy. Above it sessions stand in one line over all
    routers, first come first (see `max_queue`): a WebSocket client is accepted and told its position, an HTTP request
    goes unanswered meanwhile. Raising it rides out longer bursts and restarts of replicas; it costs an open connection
    for each that waits, and clients and load balancers in front must be as patient."""

    max_frame_bytes: FrameBytes = 64 * 1024 * 1024
    """Most bytes of one WebSocket message, in both directions; a larger one ends its session with 1009 towards who
    sent it. A session holds one message at a time in each
    direction, but several copies of it on the way, so that

        sessions x 6 x the largest message really sent

    is what slow peers can make a router need. Lowering it bounds that; the default takes what video needs."""

    grace_seconds: Grace = 30.0
    """Seconds that live sessions have to finish when the router is asked to stop, before they are closed with 1012.
    It has resigned and accepts nobody new by then. 30 is what Kubernetes leaves by default; raise both together. 0
    closes them at once."""

    @field_validator("renew_interval_seconds")
    @classmethod
    def _renew_within_lease(cls, renew: float, info: ValidationInfo) -> float:
        lease = info.data.get("lease_seconds")
        if lease is not None and not renew < lease / 2:
            raise _misfit(
                f"must be below half of lease_seconds ({lease:g}), got {renew:g}; use about {lease / 3:.3g}",
                "renew_interval_seconds",
                "lease_seconds",
            )
        return renew

    @field_validator("router_expiry_seconds")
    @classmethod
    def _expiry_spans_heartbeats(cls, expiry: float, info: ValidationInfo) -> float:
        heartbeat = info.data.get("heartbeat_seconds")
        if heartbeat is not None and not heartbeat < expiry / 2:
            raise _misfit(
                f"must be below half of router_expiry_seconds ({expiry:g}), got {heartbeat:g};"
                f" use about {expiry / 5:.3g}",
                "heartbeat_seconds",
                "router_expiry_seconds",
            )
        return expiry

    @field_validator("max_staleness_seconds")
    @classmethod
    def _staleness_spans_refresh(cls, staleness: float | None, info: ValidationInfo) -> float | None:
        refresh = info.data.get("refresh_seconds")
        if refresh is not None and staleness is not None and staleness < 2 * refresh:
            raise _misfit(
                f"must be at least twice refresh_seconds ({refresh:g}), got {staleness:g}; use {3 * refresh:g} or more",
                "max_staleness_seconds",
                "refresh_seconds",
            )
        return staleness

    @classmethod
    def adopt(cls, source: object) -> RouterConfig:
        """Return a config with the settings that any object has as attributes, such as another router's config.

        Missing attributes take their defaults and unknown ones are ignored. A `RouterConfig` is returned as it is.

        Raises:
            ConfigError: A value is wrong, or the object has not a single setting.
        """
        if isinstance(source, RouterConfig):
            return source
        names = [] if isinstance(source, type) else [name for name in _names() if hasattr(source, name)]
        if not names:
            text = f"config: {type(source).__name__} has no setting such as host or replicas; pass a RouterConfig"
            raise InvalidSettings([Problem(text)])
        return cls(**{name: getattr(source, name) for name in names})

    @property
    def effective_fast_interval_seconds(self) -> float:
        """`fast_interval_seconds`, or the ordinary interval where that is shorter."""
        return min(self.fast_interval_seconds, self.health_check_interval_seconds)

    def fingerprint(self) -> str:
        """Return 12 hex digits that are equal where all `SHARED_SETTINGS` are, on every machine and Python."""
        agreed = {name: getattr(self, name) for name in SHARED_SETTINGS}
        agreed["fast_interval_seconds"] = self.effective_fast_interval_seconds
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()[:12]

    def shown(self) -> dict[str, Any]:
        """Return all settings as JSON knows them, for people: with passwords masked."""
        return asdict(self) | {"redis_url": mask_redis_url(self.redis_url)}

    def __repr__(self) -> str:
        values = {name: getattr(self, name) for name in _names()} | {"redis_url": mask_redis_url(self.redis_url)}
        return f"RouterConfig({', '.join(f'{name}={value!r}' for name, value in values.items())})"


def _names() -> list[str]:
    return [setting.name for setting in fields(RouterConfig)]


def _misfit(text: str, name: str, other: str) -> InvalidSettings:
    return InvalidSettings([Problem(f"{name}: {text}", (name, other))])
