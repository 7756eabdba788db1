"""The settings of the registry: replicas, health checks, Redis, the election, membership, selection and the queue."""

from __future__ import annotations

from dataclasses import field

from pydantic import ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from shared_registry.config.address import (
    DEFAULT_NAMESPACE,
    DEFAULT_REDIS_TIMEOUT_SECONDS,
    DEFAULT_REDIS_URL,
    DEFAULT_REFRESH_SECONDS,
)
from shared_registry.config.probe_rules import (
    ANY_SUCCESS,
    DEFAULT_PATH,
    CaFile,
    CertificateFile,
    ExpectedPattern,
    ExpectedText,
    ExpectedValues,
    HealthPath,
    KeyFile,
    ProbeHeaders,
    ProbeMethod,
    ProbePort,
    ProbeType,
    RequestBody,
    ServerName,
    Statuses,
    misfits,
)
from shared_registry.config.problems import InvalidSettings, Problem
from shared_registry.config.rules import (
    CHECKS_OF_A_PART,
    ClusterName,
    ConfiguredReplicas,
    Count,
    DegradedMode,
    DiscoveryRules,
    Expiry,
    Grace,
    Host,
    MaxLoad,
    Namespace,
    Percent,
    Period,
    PolicyName,
    Port,
    Probing,
    RedisUrl,
    RouterId,
    Seconds,
    default_router_id,
)


@dataclass(frozen=True, repr=False, config=CHECKS_OF_A_PART)
class RegistrySettings:
    """The settings that every process with a registry uses. A part of `RouterConfig`."""

    host: Host = "0.0.0.0"  # noqa: S104
    """Address on which the router's own server listens. The default is every IPv4 interface, because clients connect
    from other machines. With `127.0.0.1` only this machine can connect."""

    port: Port = 9000
    """TCP port of the router's own server. 0 takes any free port, for tests and demos."""

    replicas: ConfiguredReplicas = field(default_factory=list)
    """Replicas that this router registers when it starts; none by default. They are added to the shared list of
    replicas. A replica that an operator has changed or removed stays changed or removed. If routers have different
    lists, the shared list contains the replicas of all of them. The list may be empty if other routers or operators
    register the replicas."""

    health_check_path: HealthPath = DEFAULT_PATH
    """Path that a probe requests, appended to the replica's url. A response status of 400 or more is a failure.
    `/health` usually reports liveness. If replicas need time to warm up, use the path that reports readiness, or set
    `health_check_expect`. A replica may have a `health_check_path` of its own."""

    health_check_interval_seconds: Seconds = 5.0
    """Seconds between two probes of a replica whose status is settled. One router probes a replica, so the cost is
    replicas / interval probes per second for any number of routers. A replica that hangs becomes unhealthy after at
    most about

        interval + failure_threshold x timeout + (failure_threshold - 1) x fast_interval     (13 s by default)

    A replica that refuses connections becomes unhealthy after interval + (failure_threshold - 1) x fast_interval (7 s).
    A lower value detects failures sooner and costs more probes. A higher value detects them later and costs fewer."""

    health_check_timeout_seconds: Seconds = 2.0
    """Seconds after which a probe without a complete response counts as failed. Keep it well above the slowest
    response of a healthy replica under full load. A lower value makes busy replicas unhealthy. A higher value detects
    replicas that hang later (see the formula above) and keeps more probes open. It may exceed the interval, because a
    replica never has two probes at once."""

    failure_threshold: Count = 3
    """Number of consecutive failed probes that make a replica unhealthy. The default of 3 tolerates two failures in a
    row, such as a lost packet and a short pause. With 1 the first failure makes the replica unhealthy. Each further
    step lets sessions reach a failed replica for `fast_interval_seconds` longer, and for the probe timeout in addition
    if the replica hangs."""

    recovery_threshold: Count = 2
    """Number of consecutive successful probes that make an unhealthy replica healthy again. A replica of status
    `unknown` needs only one. A higher value keeps a replica whose health alternates out of use longer, by
    `fast_interval_seconds` per step."""

    health_check_expect: ExpectedValues = field(default_factory=dict)
    """Values that the JSON body of a probe's response must contain, such as `{status: ready}`; none by default. They
    are required in addition to a status below 400. A body that is not a JSON object, or that has other values, is a
    failure. Use it for replicas that respond with 200 while they load a model. A name with dots, such as
    `engine.state` or `models.0.id`, is a nested field. A mapping is a set of conditions: `eq`, `ne`, `lt`, `le`, `gt`,
    `ge`, `in` (a list), `matches` (a regular expression) and `exists`, such as `{engine.queue: {lt: 100}}`."""

    health_check_expect_text: ExpectedText = None
    """Text that the body of a probe's response must contain; none by default. At most 64 KiB of a body are read."""

    health_check_expect_pattern: ExpectedPattern = None
    """Regular expression (Python's) that must match somewhere in the body of a probe's response; none by default. The
    event loop stops while it is matched, so a pattern that repeats a group with a repetition in it is refused."""

    health_check_statuses: Statuses = ANY_SUCCESS
    """Response statuses that are a success: statuses and ranges of them, such as `200-299,404`. Redirects are not
    followed; by default they are a success."""

    health_check_type: ProbeType = "http"
    """What a probe does. `http` sends a request. `tcp` only connects, with the TLS handshake if the url is https.
    `websocket` opens a WebSocket at `health_check_path` and waits for the answer to a ping: it finds a replica whose
    WebSocket path is dead while its health page still responds. Such a probe is a session for the replica; use a path
    on which it takes no slot."""

    health_check_port: ProbePort = None
    """Port that probes connect to, if replicas answer them on another port than sessions; by default the port of the
    replica's url. The scheme stays that of the url. A replica may have a `health_check_port` of its own."""

    health_check_method: ProbeMethod = "GET"
    """Method of a probe's request. With `HEAD` a response has no body, so nothing can be expected of it."""

    health_check_headers: ProbeHeaders = field(default_factory=dict)
    """Further headers of a probe's request, such as `{Host: replica.internal, Authorization: "Bearer ..."}`; none by
    default. They replace the probe's own `Host`, `User-Agent` and `Accept`. Values are masked wherever the config is
    shown, except that of `Host`."""

    health_check_request_body: RequestBody = None
    """Body of a probe's request with the method `POST` or `PUT`; none by default. Set its type with
    `health_check_headers`, such as `{Content-Type: application/json}`."""

    replica_tls_ca_file: CaFile = None
    """PEM file of the certificate authorities that are trusted for https replicas, by probes and by the router's
    sessions. By default the system's authorities, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Files are read
    again when they change; if the new ones are not usable, the former stay in use, and the log says so."""

    replica_tls_certificate_file: CertificateFile = None
    """PEM file of the certificate, with its chain, that this router presents to https replicas; none by default. It
    needs `replica_tls_key_file`."""

    replica_tls_key_file: KeyFile = None
    """PEM file of the private key for `replica_tls_certificate_file`; none by default. It must not have a password,
    because nobody is there to enter one."""

    replica_tls_server_name: ServerName = None
    """Name that is sent to https replicas (SNI), and that their certificates must have. By default it is the host of
    the replica's url. Set it if replicas are addressed by IP address, and share a certificate for a name."""

    replica_tls_verify: bool = True
    """Whether the certificates of https replicas are verified. Without it, anybody on the path to a replica can read
    and change its sessions."""

    redis_url: RedisUrl = DEFAULT_REDIS_URL
    """The Redis or Valkey that holds the shared state: `redis://`, `rediss://` (TLS), `valkey://`, `valkeys://`,
    `unix://`, `redis+sentinel://h1:p,h2:p/master/0` or `redis+cluster://h1:p,h2:p`, the last two also as `rediss+`. The
    page "Redis" (docs/redis.md) has the options. All routers of a registry must use the same Redis. A password in the
    url is masked wherever the config is shown."""

    namespace: Namespace = DEFAULT_NAMESPACE
    """Name of the registry in that Redis, one for each model or pool: 1 to 64 of `A-Z a-z 0-9 _ . -`. The namespace is
    the hash tag of every key, so one namespace is stored on one Cluster shard. Several namespaces spread over the
    shards."""

    cluster: ClusterName = None
    """Name of the group of routers that share the namespace, such as `prod-eu`: 1 to 64 of `A-Z a-z 0-9 _ . -`. The
    first router with a name gives it to the namespace. A router or command with another name is then refused at its
    start, so that two clusters which meet in one namespace by mistake are noticed. Without a name nothing is checked.
    To change the name, write it to the field `cluster` of the key `meta` first, then restart the routers one by one."""

    router_id: RouterId = field(default_factory=default_router_id)
    """Name of this router in lists, events and logs: at most 64 characters, without `~`, `/` and white space. The
    default is the host's name. It need not be unique: each start adds a new random suffix that distinguishes
    routers."""

    lease_seconds: Expiry = 3.0
    """Seconds for which an election of a leader is valid without renewal. If the leader crashes, no replica is probed
    for at most this time and a fraction of a second; selection and leases continue. The leader itself stops leading
    after 90% of this time without a renewal. It therefore stays the leader if Redis does not respond for up to

        0.9 x lease - renew_interval     (1.7 s by default)

    A higher value tolerates longer stalls without a change of leader. A lower value elects a new leader sooner. Keep
    0.9 x lease above renew_interval + redis_timeout; otherwise a single slow response makes the leader stop."""

    renew_interval_seconds: Period = 1.0
    """Seconds between two renewals by the leader. The default is a third of `lease_seconds`, so that one lost renewal
    has no effect. The value must be below half of `lease_seconds`. Each renewal costs one small command."""

    heartbeat_seconds: Period = 1.0
    """Seconds between two heartbeats of this router. Each heartbeat is one script call; all routers together make
    routers / heartbeat calls per second. The value must be below half of `router_expiry_seconds`, so that one lost
    heartbeat does not make the router expire."""

    router_expiry_seconds: Expiry = 5.0
    """Seconds without a heartbeat after which the other routers reap a router and end its leases. After a crash the
    slots of its sessions are free again within expiry + heartbeat (6 s by default). The default is five heartbeats, so
    that a router may pause for some seconds. A higher value tolerates longer pauses of a live router. A lower value
    frees slots sooner, but also more often frees slots of sessions that still run."""

    fast_interval_seconds: Period = 1.0
    """Seconds from a probe's result to the next probe of the same replica while the replica is new, failing or
    recovering. The default is a fifth of the ordinary interval, so that a change of status takes seconds and settled
    replicas cost few probes. If it exceeds `health_check_interval_seconds`, that value is used instead
    (`effective_fast_interval_seconds`)."""

    probing: Probing = "leader"
    """Which router probes a replica. With `leader`, the default, the leader probes all of them. With `shared` the
    leader divides the replicas evenly among the routers whose health checks have the same settings and that are set to
    `shared` themselves. Each then needs a part of the CPU that one leader needs. The verdicts are the same. The
    leader's setting decides; a router that is set to `leader` gets no share. When a router dies, others probe its
    replicas within `router_expiry_seconds` and a heartbeat, while the death of a leader that probes alone stops all
    probes for `lease_seconds`. Set `shared` if probing takes the leader much of a core, from some thousand replicas
    on."""

    may_lead: bool = True
    """Whether this router may become the leader. One that may not still answers when others ask whether it reaches a
    replica, and still probes its share with `probing: shared`. In a fleet of many thousand replicas, set `false` on the
    routers that serve clients (`shared-registry serve --never-lead`), and let others lead that only probe
    (`shared-registry probe`). If no router may lead, nobody probes, and no replica ever turns healthy."""

    probe_concurrency: Count = 256
    """The most probes of one router that run at once. Every replica is probed on schedule while

        answering replicas x latency / interval + silent replicas x timeout / interval <= probe_concurrency

    256 is therefore enough for 640 replicas that all hang, or for tens of thousands that respond. A lower value delays
    changes of status when many replicas hang at once. A higher value allows larger bursts of TLS handshakes (some 2 ms
    of CPU each), which may use up `health_check_timeout_seconds` and time out healthy replicas. Each running probe
    takes a file descriptor."""

    refresh_seconds: Period = DEFAULT_REFRESH_SECONDS
    """Seconds between two checks that this router's mirror still follows the shared state. It is also the shortest
    time between two reads of values that the event stream does not carry (latencies, in_flight). Changes themselves
    arrive at once, and a lost change is noticed by the next check. Each check costs one small read. A heartbeat is such
    a check too: if `heartbeat_seconds` is no longer than this, only every third read remains."""

    max_staleness_seconds: Seconds | None = None
    """Age of the mirror, in seconds without a response from Redis, from which `select()` returns nothing. None by
    default, which sets no limit: an old view is better than none, and a connection to a failed replica usually fails
    fast. Set it if refusing a session is better than sending it to a replica that may have been withdrawn. It must be
    at least twice `refresh_seconds`, because the mirror of a healthy router may be `refresh_seconds` old."""

    policy: PolicyName = "priority"
    """How `select()` chooses among the healthy, active replicas of the first tier that has one. `priority` takes the
    first in order. `round_robin` takes each in turn, in proportion to its weight. `least_loaded` takes the less loaded
    of two random replicas. `hash` sends equal keys to the same replica. This setting has no effect on `acquire()`,
    which always chooses by load, nor on `shared-registry serve`, which uses `acquire()`. docs/policies.md compares the
    policies."""

    hash_max_load: MaxLoad | None = None
    """The most sessions that `hash` gives to a replica, as a multiple of its share of all sessions. With 1.25 a replica
    gets up to a quarter more than its share; further sessions go to the next replica in the key's order. None by
    default: all sessions of a popular key go to one replica. A lower value spreads the load more evenly, but uses warm
    caches less often. The value must be above 1 and at most 100. The load is the number of leases of all routers, read
    every `refresh_seconds`."""

    panic_percent: Percent | None = None
    """Percentage of healthy replicas, among the active ones that answered a probe within the last hour, below which the
    registry is in panic. In panic, a session for which `acquire()` finds no healthy replica with a free slot gets the
    least loaded of the others, on two replicas at most, before it is refused or waits. None, the default, means 50 for
    `acquire()`, the queue and `shared-registry serve`, and no panic for `select()`. If a percentage is set, it is used
    for `select()` too, which in panic spreads sessions over all these replicas, healthy or not, by `policy`, with
    `round_robin` in place of `priority`. 0 turns panic off for all of them. The last heartbeat's percentage is used for
    sessions that wait. The beginning and the end of panic are events."""

    max_ejection_percent: Percent = 50.0
    """The most replicas that may be ejected at once, as a percentage of the active ones that answered a probe within
    the last hour. A healthy replica is ejected if sessions fail on it although its probes succeed: it takes no new
    sessions for some time. One replica may be ejected in any case, but never the last one that could be selected. In
    panic, an ejected replica may take sessions like one that is not healthy. One router alone ejects nothing, and
    neither do routers of which none probes. 0 turns ejections off. A higher value avoids more bad replicas, and leaves
    less capacity if a common cause makes sessions fail. docs/verdicts.md describes which failures count."""

    base_ejection_seconds: Period = 30.0
    """Seconds for which a replica is ejected the first time. Each further ejection is longer by the same time, up to
    ten times this value. The number of ejections falls by one for each such time without an ejection. A higher value
    keeps sessions away from a bad replica for longer. A lower value uses a repaired one again sooner."""

    ejection_failures: Count = 5
    """Sessions that fail in a row, over all routers, before a replica is ejected. A session fails if its HTTP response
    has a status of 500 to 599 other than 501, 503 and 505. It also fails if the replica breaks it off, does not respond
    in time, or closes its WebSocket with code 1011. Failures of one client alone do not eject, because its requests may
    be at fault. Sessions that cannot be connected are counted otherwise: those of two machines are enough, if probes of
    the same routers reach the replica. A lower value ejects sooner, and by chance more often."""

    slow_start_seconds: Grace = 0.0
    """Length in seconds of the ramp of a replica that has become healthy. During the ramp its weight grows linearly
    from a tenth to the full weight, while its caches fill and its model warms up. This applies to `acquire()` and to
    every policy except `priority`. 0, the default, gives the replica its full share at once. A higher value protects
    cold replicas, and keeps more load on the other replicas for longer. The leader's setting is used."""

    affinity_seconds: Grace = 300.0
    """Seconds after a session's end for which the registry remembers its replica. In this time `acquire(session)` with
    the same name returns the same replica if it is ready. 0 forgets it at the end of the session. While the session
    runs, that is until the last of its leases ends, its replica is always remembered. The default of five minutes
    lets a user reconnect to warm caches. Redis keeps one small key for each session for this time."""

    max_queue: Count = 10_000
    """The most sessions that may wait in the queue at once, over all routers. While the queue is full,
    `acquire(timeout=...)` raises `Saturated` at once. By default a session at the end of a full queue waits for 10,000
    others. A lower value refuses sessions sooner that would wait without success. Each waiter costs some 200 bytes in
    Redis, and one read of its position per second."""

    hold_grace_seconds: Grace = 5.0
    """Seconds for which a slot stays taken after the connection that holds it by the API has ended, or after its router
    has left or died. In this time the same client can take it over again, at any router. 0 frees the slot at once. A
    higher value bridges longer interruptions, and keeps the slots of clients that do not come back for longer."""

    degraded_placement: DegradedMode = "share"
    """What `acquire()` does while Redis is away. `share`: this router uses its equal share of the free slots that it
    last read, so that all routers together stay within capacity as far as their last reads were current. `off`:
    `acquire()` raises `StoreUnavailable`. `unlimited`: it chooses by health alone, for replicas that tolerate more
    sessions than their capacity. The new leases are counted once Redis is back."""

    local_cooldown_seconds: Grace = 5.0
    """Length in seconds of the cooldown: after this router failed to connect to a replica, it chooses that replica
    last. Other routers may still reach the replica, and some more probes are needed to make it unhealthy. 0 turns the
    cooldown off. A higher value spares sessions failed attempts. A lower value uses a replica with a short problem
    again sooner."""

    redis_timeout_seconds: Period = DEFAULT_REDIS_TIMEOUT_SECONDS
    """Seconds to wait for a connection to Redis, or for its response, before a call raises `StoreUnavailable`. A script
    takes well under a millisecond, so 1 s without a response means that Redis is stalled. The time in which a call is
    queued inside this process, or in which the event loop is blocked, does not count. With a lower value calls fail
    sooner. With a higher value callers wait longer; `lease_seconds` describes the upper limit."""

    discovery: DiscoveryRules = ()
    """Sources from which the leader learns which replicas there are: files, DNS names and Kubernetes services; none by
    default. A replica that appears is registered, and one that vanishes is drained and then removed. Each source
    changes only the replicas that came from it. Set the same sources on all routers, because any may become the leader;
    docs/discovery.md has the keys of each kind, and says when an answer is not believed."""

    @field_validator("replica_tls_verify")
    @classmethod
    def _probes_fit_together(cls, verify: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's interface
        if found := tuple(misfits(info.data | {"replica_tls_verify": verify})):
            raise InvalidSettings(found)
        return verify

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


def _misfit(text: str, name: str, other: str) -> InvalidSettings:
    return InvalidSettings([Problem(f"{name}: {text}", (name, other))])
