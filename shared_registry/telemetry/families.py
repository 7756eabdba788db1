"""The metrics by name: `docs/metrics.md` is written from this table, and a metric that is not in it is shown nowhere.

A name, once released, keeps its meaning. All begin with `sr_`. The label `pool` comes with each of a pool; it is empty,
which is the same as absent, if the router has only one pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "sr_"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: Its name, with the prefix, and as queries use it: a counter's ends with `_total`.
        kind: What Prometheus calls its type.
        help: What it tells, for people.
        labels: The names of its labels, without `pool`.
        is_of_pool: Whether it has the label `pool`.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    is_of_pool: bool = True

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The names of all its labels, `pool` last."""
        return (*self.labels, "pool") if self.is_of_pool else self.labels


OF_ROUTER = (
    Family("sr_build_info", "gauge", "Always 1. The version that runs.", ("version",), is_of_pool=False),
    Family(
        "sr_event_loop_lag_seconds",
        "histogram",
        "How late the event loop wakes a timer: how long everything else has to wait.",
        is_of_pool=False,
    ),
    Family("sr_clients", "gauge", "Open connections of clients.", is_of_pool=False),
    Family(
        "sr_refusals_total",
        "counter",
        "Requests and clients that the router itself refused, by the status or close code, and the code of the error:"
        " those that met a bound, and those that no replica could take.",
        ("status", "error"),
        is_of_pool=False,
    ),
)
"""What a router has once, whatever the number of its pools."""

OF_POOL = (
    Family(
        "sr_router_info",
        "gauge",
        "Always 1. The router's key, and the digest of the settings that all routers of a namespace should share.",
        ("router", "config_fingerprint"),
    ),
    Family("sr_is_leader", "gauge", "1 if this router is the leader by its own clock. The sum over all routers is 1."),
    Family("sr_leader_known", "gauge", "1 if this router's view has a leader, which may have died a moment ago."),
    Family("sr_leader_epoch", "gauge", "The epoch of the last leader that this router knows. It only rises."),
    Family(
        "sr_view_age_seconds",
        "gauge",
        "How long ago this router's view was known to be current; since the router's start if it has none yet.",
    ),
    Family("sr_view_stale", "gauge", "1 if the view is older than max_staleness_seconds, so that nothing is selected."),
    Family(
        "sr_store_write_age_seconds",
        "gauge",
        "How long ago Redis accepted a heartbeat of this router; since the router's start if it has accepted none yet.",
    ),
    Family("sr_store_read_failed", "gauge", "1 if the numbers of this page that come from Redis could not be read."),
    Family("sr_panic", "gauge", "1 if so few replicas are healthy that sessions may use others."),
    Family("sr_in_trouble", "gauge", "1 if this router lately could not connect to replicas for reasons of its own."),
    Family(
        "sr_local_health",
        "gauge",
        "The share of the replicas probed by this router for all that it can judge: 1 is well. Not judged are those"
        " that its last probe could not try for a reason of its own, and those that only other routers reach."
        " Absent while it probes none for all.",
    ),
    Family("sr_routers", "gauge", "Routers, by whether they send heartbeats: live or expired.", ("state",)),
    Family("sr_replicas", "gauge", "Replicas.", ("tier", "status", "admin")),
    Family("sr_slots", "gauge", "Slots of the replicas that can be selected; +Inf if one has no limit.", ("tier",)),
    Family("sr_slots_free", "gauge", "Those of them that are free.", ("tier",)),
    Family("sr_queue_depth", "gauge", "Sessions that wait for a slot, over all routers."),
    Family("sr_queue_oldest_seconds", "gauge", "How long the first of them has waited; 0 if none waits."),
    Family("sr_queue_timeout_seconds", "gauge", "The setting of that name, after which a session waits no longer."),
    Family("sr_leases", "gauge", "Leases that this router holds."),
    Family(
        "sr_cooldown_active", "gauge", "Replicas to which this router sends sessions last, because it failed there."
    ),
    Family(
        "sr_sessions_active",
        "gauge",
        "Requests (http) and WebSocket sessions under way at this router, also those that wait.",
        ("kind",),
    ),
    Family(
        "sr_sessions_total",
        "counter",
        "Requests (http) and WebSocket sessions that have ended, by outcome: ok, client_gone, replica_failed (also a"
        " status from 500 on), refused, timeout, shutdown, router_failed.",
        ("kind", "outcome"),
    ),
    Family("sr_session_duration_seconds", "histogram", "How long they took.", ("kind",)),
    Family("sr_first_byte_seconds", "histogram", "The time until the head of the response was sent.", ("kind",)),
    Family(
        "sr_bytes_total",
        "counter",
        "Bytes of bodies and of WebSocket frames, in from clients, out to them.",
        ("direction",),
    ),
    Family(
        "sr_placements_total",
        "counter",
        "How sessions that need a slot were answered: granted, affinity (granted where a session of its name was),"
        " waited (granted after that), degraded (granted without Redis), saturated, no_healthy, unavailable (Redis is"
        " away).",
        ("outcome",),
    ),
    Family(
        "sr_retries_total",
        "counter",
        "How often a session was placed again after a replica had not taken it, by the cause: busy, connect, timeout,"
        " own_trouble.",
        ("cause",),
    ),
    Family(
        "sr_probes_total", "counter", "Probes, by result: ok, failed, own_trouble (this router could not).", ("result",)
    ),
    Family("sr_probe_duration_seconds", "histogram", "How long they took.", ("result",)),
    Family("sr_probe_lag_seconds", "histogram", "How long after it was due a probe has begun."),
    Family("sr_probe_interval_seconds", "gauge", "The setting health_check_interval_seconds."),
    Family(
        "sr_store_command_seconds",
        "histogram",
        "How long commands to Redis took that were answered, with the wait for their turn in this router.",
        ("command",),
    ),
    Family("sr_store_errors_total", "counter", "Commands to Redis that have failed, by the kind of error.", ("kind",)),
    Family(
        "sr_store_reconnects_total",
        "counter",
        "How often the connections to Redis were given up, its server being lost.",
    ),
    Family("sr_upstream_connect_seconds", "histogram", "How long it took to connect to a replica."),
    Family(
        "sr_leader_changes_total",
        "counter",
        "Terms of this router: elected, and how they ended: resigned, lost, deposed, blind (it cannot probe),"
        " contradicted (others reach what it does not).",
        ("reason",),
    ),
    Family(
        "sr_leases_ended_total",
        "counter",
        "Leases of this router that have ended: released, abandoned (collected without a release), left (the router"
        " stopped), reconciled (Redis had it, the router did not). And leases of routers that have expired, which this"
        " one has ended (router_expired). The removal of a replica ends none.",
        ("cause",),
    ),
    Family(
        "sr_routers_ended_total",
        "counter",
        "Routers that this one knows to have left or expired, with their leases.",
        ("cause",),
    ),
    Family(
        "sr_suspicions_total",
        "counter",
        "How often other routers were asked about a replica (suspected), and found it well (cleared).",
        ("outcome",),
    ),
    Family(
        "sr_opinions_total",
        "counter",
        "Probes of a replica that another router probes, made for an opinion, by result, as"
        " sr_probes_total. A router whose opinions fail while those of others are ok cannot reach replicas.",
        ("result",),
    ),
    Family(
        "sr_stream_lag_seconds",
        "histogram",
        "How long after its writing an event has reached this router. The clock of the Redis server is compared with"
        " this router's own when a page is made, so nothing is counted before the first one.",
    ),
    Family(
        "sr_resyncs_total",
        "counter",
        "How often this router has read everything: at its start, or after a gap: missed (events), lost_write (an own"
        " write that Redis lost), history (all data lost), repaired (by an operator), damaged (an unreadable event).",
        ("reason",),
    ),
    Family("sr_history_losses_total", "counter", "How often Redis has lost its data, as this router found."),
    Family("sr_restored_total", "counter", "What this router has put back after that: views, and leases.", ("kind",)),
    Family(
        "sr_discovery_age_seconds",
        "gauge",
        "How long ago a source of discovery, such as dns:pods, gave an answer that could be believed. Only the leader"
        " asks the sources, and has these metrics.",
        ("source",),
    ),
    Family("sr_discovery_failing", "gauge", "1 if the last answer of a source could not be believed.", ("source",)),
    Family(
        "sr_discovery_failures_total",
        "counter",
        "How many answers of a source could not be believed in this term of the leader.",
        ("source",),
    ),
    Family(
        "sr_discovery_held",
        "gauge",
        "Replicas that a source does not have any more, and that stay until that is confirmed.",
        ("source",),
    ),
    Family(
        "sr_acquire_duration_seconds",
        "histogram",
        "How long sessions that did not wait in the queue took to get a slot, or a refusal, by outcome, as"
        " sr_placements_total.",
        ("outcome",),
    ),
    Family(
        "sr_wait_duration_seconds",
        "histogram",
        "The same for sessions that waited in the queue, by how that ended.",
        ("outcome",),
    ),
)
"""What each pool of a router has."""

OF_REPLICA = (
    Family("sr_replica_up", "gauge", "1 if the replica is healthy.", ("replica",)),
    Family(
        "sr_replica_status_since_seconds",
        "gauge",
        "When its status began, in seconds since the Unix epoch on the Redis server's clock.",
        ("replica",),
    ),
    Family(
        "sr_replica_admin_since_seconds",
        "gauge",
        "When its admin state began, unless it is active.",
        ("replica", "admin"),
    ),
    Family("sr_replica_in_flight", "gauge", "Sessions on it, over all routers.", ("replica",)),
    Family("sr_replica_capacity", "gauge", "The most sessions that it takes; 0 without a limit.", ("replica",)),
    Family("sr_replica_weight", "gauge", "Its share of the load, relative to others.", ("replica",)),
    Family(
        "sr_leases_over_capacity",
        "gauge",
        "Sessions on it beyond its capacity; absent if none.",
        ("replica",),
    ),
)
"""What each replica has. The label `replica` is its name, or its url without the scheme if it has no own name."""

OF_REPLICA_COUNTS = (
    Family(
        "sr_replica_transitions_total",
        "counter",
        "How often it turned healthy or unhealthy, as this router learned, and why: connect, timeout, status, body,"
        " session, other, or probe.",
        ("replica", "to", "cause"),
    ),
    Family(
        "sr_upstream_failures_total",
        "counter",
        "What went wrong at a replica with sessions of this router: connect, timeout, busy, own_trouble, broken (it was"
        " connected), status (from 500 on).",
        ("replica", "cause"),
    ),
)
"""What is counted for each replica. The samples go with the replica."""

EVERY = (*OF_ROUTER, *OF_POOL, *OF_REPLICA, *OF_REPLICA_COUNTS)
"""All metrics, in the order of the page."""
