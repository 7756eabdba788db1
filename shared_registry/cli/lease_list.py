"""The output of `shared-registry leases`, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared_registry.admin.observer import LeaseRecord
from shared_registry.cli.access import address_document
from shared_registry.cli.console import printable
from shared_registry.config import RouterConfig
from shared_registry.store.redis_url import mask_redis_url

DIGITS_SHOWN = 12


def leases_document(config: RouterConfig, found: Sequence[LeaseRecord]) -> dict[str, Any]:
    """Return the leases as a JSON object."""
    each = [{"id": one.id, "router": one.router, "url": one.key, "session_digest": one.session_digest} for one in found]
    return {**address_document(config), "leases": each}


def leases_text(config: RouterConfig, found: Sequence[LeaseRecord]) -> RenderableType:
    """Return the leases as a table."""
    if not found:
        return f"no leases are held in namespace {config.namespace} at {mask_redis_url(config.redis_url)}"
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("lease", "router", "replica", "session"):
        table.add_column(heading, overflow="fold")
    for one in found:
        session = (one.session_digest or "-")[:DIGITS_SHOWN]
        table.add_row(one.id[:DIGITS_SHOWN], Text(printable(one.router)), Text(printable(one.key)), session)
    routers, replicas = {one.router for one in found}, {one.key for one in found}
    return Group(table, f"{len(found)} leases of {len(routers)} routers on {len(replicas)} replicas")
