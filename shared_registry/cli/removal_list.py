"""The output of `shared-registry status --removed`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from shared_registry.admin.observer import RemovalList
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.config import RouterConfig


def removals_document(config: RouterConfig, found: RemovalList) -> dict[str, Any]:
    """Return the removed replicas as a JSON object. Times are seconds since the epoch."""
    return {
        **address_document(config),
        "at": found.at,
        "removed": [
            {"url": one.url, "name": one.name or None, "removed_at": one.at, "by": one.by, "reason": one.reason}
            for one in found.removed
        ],
    }


def removals_text(config: RouterConfig, found: RemovalList) -> RenderableType:
    """Return the removed replicas as a table."""
    if not found.removed:
        return f"no replica of namespace {config.namespace} is removed"
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("replica", "removed", "by", "reason"):
        table.add_column(heading, overflow="fold")
    for one in found.removed:
        table.add_row(
            Text(printable(f"{one.name} {one.url}" if one.name else one.url)),
            "-" if one.at is None else f"{duration(found.at - one.at)} ago",
            Text(printable(one.by) or "-"),
            Text(printable(one.reason)),
        )
    return table
