"""The output of `shared-registry status` and `check`, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared_registry.admin.check import Violation
from shared_registry.admin.observer import Overview
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.config import RouterConfig
from shared_registry.model import NO_DOUBT, AdminState, Doubt, ReplicaRecord, ReplicaStatus, prober_of
from shared_registry.store.redis_url import mask_redis_url
from shared_registry.store.replica_fields import Document, replica_document

STYLES = {
    ReplicaStatus.HEALTHY: "green",
    ReplicaStatus.UNHEALTHY: "red",
    ReplicaStatus.UNKNOWN: "yellow",
    AdminState.ACTIVE: "",
    AdminState.DRAINING: "yellow",
    AdminState.DISABLED: "red",
}


def overview_document(config: RouterConfig, overview: Overview) -> dict[str, Any]:
    """Return the status as a JSON object. Times are seconds since the epoch on the Redis server's clock."""
    leader = overview.leader
    return {
        **address_document(config),
        "at": overview.at,
        "history_id": overview.head.history_id,
        "revision": overview.head.revision,
        "epoch": overview.head.epoch,
        "leader": leader and {"router": leader.router, "epoch": leader.epoch, "elected_at": leader.elected_at},
        "live_routers": overview.live_routers,
        "last_heartbeat_at": overview.last_heartbeat_at,
        "queue": {"depth": overview.waiting},
        "panic": overview.panic or None,
        "routers_in_trouble": dict(overview.trouble),
        "replicas": [replica_document(record, Document.STATUS, overview.plan) for record in overview.replicas],
    }


def overview_text(config: RouterConfig, overview: Overview) -> RenderableType:
    """Return the status as tables."""
    head, leader = overview.head, overview.leader
    facts = Table.grid(padding=(0, 2))
    facts.add_row("namespace", f"{config.namespace} at {mask_redis_url(config.redis_url)}")
    if head.history_id is None:
        facts.add_row("", "the namespace is empty: start a router, or check the url and the namespace")
    facts.add_row("leader", f"{leader.router}, epoch {leader.epoch}" if leader else f"none; last epoch {head.epoch}")
    facts.add_row("routers", _routers(overview))
    if overview.plan is not None:
        facts.add_row("probing", Text(_shares(overview)))
    facts.add_row("queue", f"{overview.waiting} sessions wait" if overview.waiting else "empty")
    if overview.panic:
        facts.add_row(
            "panic",
            Text(
                f"{printable(overview.panic)}: sessions that find no free slot on a healthy replica use others", "red"
            ),
        )
    for router, reason in overview.trouble.items():
        facts.add_row("trouble", Text(f"{printable(router)} cannot connect to replicas: {printable(reason)}", "red"))
    facts.add_row("revision", f"{head.revision} of history {head.history_id or '-'}")
    return Group(facts, _replica_table(overview) if overview.replicas else "no replicas are registered")


def _routers(overview: Overview) -> Text:
    """Return the number of live routers. If there is none, add the time since the last heartbeat of any router."""
    live, last = f"{overview.live_routers} live", overview.last_heartbeat_at
    if last is None or overview.live_routers:
        return Text(live)
    silence = f"{live}; the last heartbeat was written {duration(overview.at - last)} ago"
    return Text(f"{silence}: no router runs, or Redis refuses writes (see the routers' logs and /readyz)", "red")


def _shares(overview: Overview) -> str:
    """Return how many replicas each router probes while they share the work."""
    probers = Counter(prober_of(record, overview.plan, None) for record in overview.replicas if record.is_probed)
    counts = [f"{printable(router)} {count}" for router, count in sorted(probers.items())]
    return f"shared: {', '.join(counts)}" if counts else "shared"


def _replica_table(overview: Overview) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("replica", "tier", "status", "admin"):
        table.add_column(heading, overflow="fold")
    for heading in ("in flight", "latency", "last ok", "failures"):
        table.add_column(heading, justify="right", no_wrap=True)
    has_labels = any(record.endpoint.labels for record in overview.replicas)
    if has_labels:
        table.add_column("labels", overflow="fold")
    has_doubts = any(record.doubt is not NO_DOUBT for record in overview.replicas)
    if has_doubts:
        table.add_column("doubt", overflow="fold")
    if overview.plan is not None:
        table.add_column("prober", overflow="fold")
    for record in overview.replicas:
        endpoint, health = record.endpoint, record.health
        table.add_row(
            Text(f"{endpoint.name} {endpoint.url}" if endpoint.name else endpoint.url),
            "primary" if endpoint.primary else "secondary",
            Text(_status(record, overview.at), "yellow" if record.ejected_until else STYLES[health.status]),
            Text(_admin(record), STYLES.get(record.admin, "")),
            f"{record.in_flight}/{endpoint.capacity}" if endpoint.capacity else str(record.in_flight),
            "-" if health.last_latency_ms is None else f"{health.last_latency_ms:.1f} ms",
            "never" if health.last_ok_at is None else f"{duration(overview.at - health.last_ok_at)} ago",
            str(health.consecutive_failures),
            *([str(endpoint.labels)] if has_labels else []),
            *([printable(_doubt(record.doubt))] if has_doubts else []),
            *([printable(prober_of(record, overview.plan, None))] if overview.plan is not None else []),
        )
    return table


def _status(record: ReplicaRecord, now: float) -> str:
    if record.ejected_until is None:
        return record.health.status.value
    return f"{record.health.status.value}, ejected for {duration(max(0.0, record.ejected_until - now))}"


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


def _admin(record: ReplicaRecord) -> str:
    return f"{record.admin.value}: {printable(record.admin_reason)}" if record.admin_reason else record.admin.value


def check_document(config: RouterConfig, violations: list[Violation]) -> dict[str, Any]:
    """Return the violations that a check found, as a JSON object."""
    return {
        **address_document(config),
        "is_clean": not violations,
        "violations": [{"rule": one.rule, "key": one.key, "message": one.message} for one in violations],
    }


def check_lines(config: RouterConfig, violations: list[Violation]) -> list[str]:
    """Return one line of text for each violation, or one line that says that there is none."""
    if not violations:
        return [f"namespace {config.namespace}: all invariants hold"]
    return [f"{one.rule}: {one.key}: {one.message}" for one in violations]
