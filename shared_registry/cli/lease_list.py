"""The output of `shared-registry leases`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared_registry.admin.observer import LeaseList
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.config import RouterConfig
from shared_registry.store.redis_url import mask_redis_url

DIGITS_SHOWN = 12


def leases_document(config: RouterConfig, found: LeaseList) -> dict[str, Any]:
    """Return the leases as a JSON object."""
    each = [
        {
            "id": one.id,
            "router": one.router,
            "url": one.key,
            "name": one.name or None,
            "session_digest": one.session_digest,
            "asked_at": one.asked_at,
        }
        for one in found.leases
    ]
    return {**address_document(config), "at": found.at, "leases": each}


def leases_text(config: RouterConfig, found: LeaseList) -> RenderableType:
    """Return the leases as a table."""
    leases = found.leases
    if not leases:
        return f"no leases are held in namespace {config.namespace} at {mask_redis_url(config.redis_url)}"
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("lease", "router", "name", "replica", "session"):
        table.add_column(heading, overflow="fold")
    table.add_column("age", justify="right")
    for one in leases:
        session = (one.session_digest or "-")[:DIGITS_SHOWN]
        age = "-" if one.asked_at is None else duration(max(0.0, found.at - one.asked_at))
        texts = (one.id[:DIGITS_SHOWN], one.router, one.name or "-", one.key, session, age)
        table.add_row(*(Text(printable(text)) for text in texts))
    routers, replicas = {one.router for one in leases}, {one.key for one in leases}
    return Group(table, f"{len(leases)} leases of {len(routers)} routers on {len(replicas)} replicas")
