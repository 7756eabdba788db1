"""The output of `shared-registry status` and `check`, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared_registry.admin.durations import since
from shared_registry.admin.observer import Overview
from shared_registry.admin.troubles import trouble_of
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.cli.overview_document import overview_summary
from shared_registry.cli.replica_filter import SHOW_ALL, ReplicaFilter
from shared_registry.cli.replica_table import label_of, replica_table
from shared_registry.cli.tables import Printed, Stack, Table, Text, facts_table
from shared_registry.config.address import RegistryAddress
from shared_registry.model import ReplicaRecord, ReplicaStatus, prober_of
from shared_registry.store.redis_url import mask_redis_url

if TYPE_CHECKING:
    from shared_registry.admin.check import Violation

TROUBLES_SHOWN = 20
"""How many replicas that are not well are explained before the table, unless all of them are asked for."""


def overview_text(
    config: RegistryAddress,
    overview: Overview,
    chosen: ReplicaFilter = SHOW_ALL,
    *,
    width: int | None = None,
    away_seconds: float | None = None,
) -> Printed:
    """Return the status as text: a sentence, the facts, what is not well, and the table of replicas.

    Args:
        config: Names the registry.
        overview: The status.
        chosen: Which replicas are shown, and how.
        width: The columns of the terminal, which decide the columns of the table; `None` for all.
        away_seconds: How long ago the status was read, if Redis could not be read since; otherwise `None`.
    """
    summary = overview_summary(overview, away_seconds)
    sentence = Text(printable(summary.text), f"bold {summary.level.value}")
    parts: list[Printed] = [sentence, _facts(config, overview)]
    return Stack(*parts, *explained_replicas(overview, chosen, width=width))


def explained_replicas(overview: Overview, chosen: ReplicaFilter, *, width: int | None) -> list[Printed]:
    """Return what is not well, and the table of replicas."""
    replicas = chosen.of(overview.replicas)
    parts = _troubles(overview, replicas, is_whole=chosen.only_unwell or chosen.is_wide)
    if replicas:
        parts.append(replica_table(overview, replicas, None if chosen.is_wide else width))
    if not overview.replicas:
        parts.append("no replicas are registered")
    elif len(replicas) < len(overview.replicas):
        parts.append(f"{len(replicas)} of {len(overview.replicas)} replicas")
    return parts


def _facts(config: RegistryAddress, overview: Overview) -> Table:
    head = overview.head
    facts: list[tuple[str, Text | str]] = [
        ("namespace", f"{config.namespace} at {mask_redis_url(config.redis_url)}"),
    ]
    if head.history_id is None:
        facts.append(("", "the namespace is empty: start a router, or check the url and the namespace"))
    facts += [("leader", _leader(overview)), ("routers", _routers(overview))]
    if overview.plan is not None:
        facts.append(("probing", _shares(overview)))
    facts.append(("queue", _queue(overview)))
    if overview.panic:
        why = f"began with {printable(overview.panic)}"
        facts.append(("panic", Text(f"{why}: sessions that find no free slot on a healthy replica use others", "red")))
    for router, reason in overview.trouble.items():
        words = f"{printable(router)} cannot connect to replicas: {printable(reason)}"
        facts.append(("trouble", Text(words, "red")))
    facts.append(("revision", f"{head.revision} of history {head.history_id or '-'}"))
    return facts_table(facts)


def _leader(overview: Overview) -> Text:
    leader, vacancy = overview.leader, overview.vacancy
    if leader is not None:
        return Text(f"{printable(leader.router)}, epoch {leader.epoch}")
    lasts = "" if vacancy.since is None else f" since {since(overview.at - vacancy.since)}"
    why = f" ({vacancy.why})" if vacancy.why else ""
    return Text(printable(f"none{lasts}{why}; last epoch {overview.head.epoch}"), "red" if overview.head.epoch else "")


def _queue(overview: Overview) -> str:
    if not overview.waiting:
        return "empty"
    first = overview.first_waits_since
    return f"{overview.waiting} sessions wait" + (f", the first for {since(overview.at - first)}" if first else "")


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


def _troubles(overview: Overview, replicas: Sequence[ReplicaRecord], *, is_whole: bool) -> list[Printed]:
    """Return a line for each replica that is not well, those that concern most sessions first."""
    unwell = [(one, text) for one in replicas if (text := trouble_of(one, overview.at))]
    unwell.sort(key=lambda found: -found[0].in_flight)
    shown = unwell if is_whole else unwell[:TROUBLES_SHOWN]
    lines: list[Printed] = []
    for one, text in shown:
        is_up = one.health.status is ReplicaStatus.HEALTHY
        lines.append(Text(printable(f"{label_of(one)}: {text}"), "yellow" if is_up else "red"))
    if len(unwell) > len(shown):
        lines.append(f"{len(unwell) - len(shown)} more are not well; --unhealthy explains all")
    return lines


def check_document(config: RegistryAddress, violations: list[Violation]) -> dict[str, Any]:
    """Return the violations that a check found, as a JSON object."""
    return {
        **address_document(config),
        "is_clean": not violations,
        "violations": [{"rule": one.rule, "key": one.key, "message": one.message} for one in violations],
    }


def check_lines(config: RegistryAddress, violations: list[Violation]) -> list[str]:
    """Return one line of text for each violation, or one line that says that there is none."""
    if not violations:
        return [f"namespace {config.namespace}: all invariants hold"]
    return [f"{one.rule}: {one.key}: {one.message}" for one in violations]
