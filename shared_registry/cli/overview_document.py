"""The output of `shared-registry status` as JSON. It draws nothing, so that programs do not wait for rich's import."""

from __future__ import annotations

from typing import Any

from shared_registry.admin.observer import Overview
from shared_registry.admin.summary import FleetCounts, Situation, Summary, summarize
from shared_registry.admin.troubles import trouble_of
from shared_registry.cli.access import address_document
from shared_registry.cli.replica_filter import SHOW_ALL, ReplicaFilter
from shared_registry.config.address import RegistryAddress
from shared_registry.store.replica_fields import Document, replica_document


def overview_summary(overview: Overview, away_seconds: float | None = None) -> Summary:
    """Return the sentence with which the status begins."""
    first = overview.first_waits_since
    situation = Situation(
        overview.at,
        overview.leader,
        leaderless_since=overview.vacancy.since,
        waiting=overview.waiting,
        oldest_wait_seconds=None if first is None else overview.at - first,
        panic=overview.panic,
        away_seconds=away_seconds,
        is_settling=overview.head.is_settling,
    )
    return summarize(FleetCounts.of(overview.replicas), situation)


def overview_document(config: RegistryAddress, overview: Overview, chosen: ReplicaFilter = SHOW_ALL) -> dict[str, Any]:
    """Return the status as a JSON object. Times are seconds since the epoch on the Redis server's clock."""
    leader, summary = overview.leader, overview_summary(overview)
    return {
        **address_document(config),
        "at": overview.at,
        "summary": {"level": summary.level.name.lower(), "text": summary.text},
        "history_id": overview.head.history_id,
        "revision": overview.head.revision,
        "epoch": overview.head.epoch,
        "leader": leader and {"router": leader.router, "epoch": leader.epoch, "elected_at": leader.elected_at},
        "leaderless_since": overview.vacancy.since,
        "leaderless_why": overview.vacancy.why or None,
        "live_routers": overview.live_routers,
        "last_heartbeat_at": overview.last_heartbeat_at,
        "queue": {"depth": overview.waiting, "first_since": overview.first_waits_since},
        "panic": overview.panic or None,
        "routers_in_trouble": dict(overview.trouble),
        "replicas": [
            {**replica_document(one, Document.STATUS, overview.plan), "trouble": trouble_of(one, overview.at) or None}
            for one in chosen.of(overview.replicas)
        ],
    }
