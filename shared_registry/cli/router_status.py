"""The output of `shared-registry status --from`, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared_registry.admin.durations import since
from shared_registry.admin.observer import Overview
from shared_registry.admin.summary import FleetCounts, Situation, Summary, summarize
from shared_registry.admin.troubles import trouble_of
from shared_registry.cli.console import printable
from shared_registry.cli.replica_filter import ReplicaFilter
from shared_registry.cli.status import explained_replicas
from shared_registry.cli.tables import Printed, Stack, Text, facts_table

LOADS_BEHIND_SECONDS = 5.0
"""How much older than the view sessions and probe times are when their age is shown. A router reads them on demand."""


def page_summary(page: Mapping[str, Any], overview: Overview) -> Summary:
    """Return the sentence about a registry as this router knows it. A queue of unknown length means no Redis."""
    depth = page["queue"]["depth"]
    situation = Situation(
        overview.at,
        overview.leader,
        waiting=depth,
        panic=overview.panic,
        away_seconds=_away_seconds(page),
        is_stale=bool(page["is_stale"]),
        is_settling=overview.head.is_settling,
        is_loaded=page["age_seconds"] is not None,
    )
    return summarize(FleetCounts.of(overview.replicas), situation)


def page_document(url: str, page: Mapping[str, Any], overview: Overview, chosen: ReplicaFilter) -> dict[str, Any]:
    """Return the router's own document, with the sentence and only the chosen replicas."""
    summary = page_summary(page, overview)
    shown = {one["url"]: one for one in page["replicas"]}
    return {
        "from": url,
        "summary": {"level": summary.level.name.lower(), "text": summary.text},
        **page,
        "replicas": [
            {**shown[one.endpoint.url], "trouble": trouble_of(one, overview.at) or None}
            for one in chosen.of(overview.replicas)
        ],
    }


def page_text(
    url: str, page: Mapping[str, Any], overview: Overview, chosen: ReplicaFilter, *, width: int | None
) -> Printed:
    """Return the status as text."""
    summary = page_summary(page, overview)
    facts = facts_table(
        [
            ("router", printable(f"{page['router']} at {url}, {page['sessions']} sessions through it")),
            ("namespace", printable(page["namespace"])),
            ("leader", printable(_leader(page, overview))),
            ("view", _view(page)),
            ("writes", _writes(page)),
        ]
    )
    sentence = Text(printable(summary.text), f"bold {summary.level.value}")
    return Stack(sentence, facts, *explained_replicas(overview, chosen, width=width))


def _away_seconds(page: Mapping[str, Any]) -> float | None:
    """Return for how long the router has not read Redis, if it cannot now."""
    return page["age_seconds"] if page["queue"]["depth"] is None else None


def _leader(page: Mapping[str, Any], overview: Overview) -> str:
    leader, away = overview.leader, _away_seconds(page)
    if leader is None:
        return "not known" if page["age_seconds"] is None else "none"
    known = "" if away is None else f", as of {since(away)} ago"
    return f"{leader.router}, epoch {leader.epoch}{known}"


def _view(page: Mapping[str, Any]) -> Text:
    age, loads_age = page["age_seconds"], page["read_age_seconds"]
    text = "none yet" if age is None else f"{since(age)} old"
    if age is not None and loads_age is not None and loads_age > age + LOADS_BEHIND_SECONDS:
        text += f"; sessions and probe times {since(loads_age)} old"
    return Text(f"{text}, too old to select by", "red") if page["is_stale"] else Text(text)


def _writes(page: Mapping[str, Any]) -> Text:
    age, failure = page["writable_age_seconds"], page["write_failure"]
    text = "none yet" if age is None else f"the last one {since(age)} ago"
    return Text(printable(f"{text}: {failure}"), "red") if failure else Text(text)
