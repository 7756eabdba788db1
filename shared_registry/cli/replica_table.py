"""The table of replicas of `shared-registry status`."""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.admin.durations import duration, since
from shared_registry.admin.observer import Overview
from shared_registry.cli.console import printable
from shared_registry.cli.tables import Column, Table, Text, fitted_table
from shared_registry.model import (
    NO_DOUBT,
    AdminState,
    Doubt,
    ReplicaRecord,
    ReplicaStatus,
    prober_of,
)
from shared_registry.model.replicas import is_discovered

STYLES = {
    ReplicaStatus.HEALTHY: "green",
    ReplicaStatus.UNHEALTHY: "red",
    ReplicaStatus.UNKNOWN: "yellow",
    AdminState.ACTIVE: "",
    AdminState.DRAINING: "yellow",
    AdminState.DISABLED: "red",
}


def replica_table(overview: Overview, replicas: Sequence[ReplicaRecord], width: int | None) -> Table:
    """Return the table of some replicas with the columns that fit, names first; with all columns without a width."""
    now = overview.at
    columns = [
        Column("replica", [Text(printable(label_of(one))) for one in replicas]),
        Column("url", [Text(one.endpoint.url) if one.endpoint.name else "" for one in replicas], keep=1),
        Column("tier", ["primary" if one.endpoint.primary else "secondary" for one in replicas], keep=7),
        Column("status", [_status(one, now) for one in replicas]),
        Column("since", [_age(one.status_since, now) for one in replicas], is_number=True, keep=10),
        Column("admin", [Text(one.admin.value, STYLES.get(one.admin, "")) for one in replicas], keep=11),
        Column("in flight", [_load(one) for one in replicas], is_number=True),
        Column("latency", [_latency(one) for one in replicas], is_number=True, keep=5),
        Column("last ok", [_ago(one.health.last_ok_at, now) for one in replicas], is_number=True, keep=8),
        Column("failures", [str(one.health.consecutive_failures) for one in replicas], is_number=True, keep=4),
        Column("labels", [Text(printable(str(one.endpoint.labels))) for one in replicas], keep=6),
        Column("doubt", [Text(printable(_doubt(one.doubt))) for one in replicas], keep=3),
    ]
    are_announced = any(one.owner for one in replicas)
    columns += [
        Column("source", [one.source for one in replicas], keep=2),
        Column("owner", [Text(printable(one.owner or "-")) for one in replicas], keep=2),
        Column("heartbeat", [_heartbeat(one, now) for one in replicas], is_number=True, keep=2),
    ]
    optional = {
        "source": width is None or are_announced or any(is_discovered(one.source) for one in replicas),
        "owner": are_announced,
        "heartbeat": are_announced,
        "url": any(one.endpoint.name for one in replicas),
        "labels": any(one.endpoint.labels for one in replicas),
        "doubt": any(one.doubt is not NO_DOUBT for one in replicas),
    }
    if overview.plan is not None:
        probers = [Text(printable(prober_of(one, overview.plan, None))) for one in replicas]
        columns.append(Column("prober", probers, keep=2))
    return fitted_table([one for one in columns if optional.get(one.heading, True)], width)


def label_of(record: ReplicaRecord) -> str:
    """Return a replica's name, or its url if it has none."""
    return record.endpoint.name or record.endpoint.url


def _status(record: ReplicaRecord, now: float) -> Text:
    if record.ejected_until is None:
        return Text(record.health.status.value, STYLES[record.health.status])
    left = duration(max(0.0, record.ejected_until - now))
    return Text(f"{record.health.status.value}, ejected for {left}", "yellow")


def _age(at: float | None, now: float) -> str:
    return "-" if at is None else since(now - at)


def _ago(at: float | None, now: float) -> str:
    return "never" if at is None else f"{duration(now - at)} ago"


def _heartbeat(record: ReplicaRecord, now: float) -> str:
    """Return how old the last heartbeat of an announced replica is."""
    return "-" if record.last_heartbeat_at is None else _ago(record.last_heartbeat_at, now)


def _load(record: ReplicaRecord) -> str:
    capacity = record.endpoint.capacity
    return f"{record.in_flight}/{capacity}" if capacity else str(record.in_flight)


def _latency(record: ReplicaRecord) -> str:
    latency = record.health.last_latency_ms
    return "-" if latency is None else f"{latency:.1f} ms"


def _doubt(doubt: Doubt) -> str:
    """Return in words who probes a replica, who doubts it, and who reaches it and who does not."""
    facts = {
        "probed by": doubt.prober,
        "suspected by": doubt.suspected_by,
        "asked": " ".join(doubt.asked),
        "reached by": doubt.reached_by,
        "not by": " ".join(dict.fromkeys([*filter(None, [doubt.refuted_prober]), *doubt.unreached_by])),
    }
    return "; ".join(f"{what} {who}" for what, who in facts.items() if who)
