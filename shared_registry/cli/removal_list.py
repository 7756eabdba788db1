"""The output of `shared-registry status --removed`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from shared_registry.admin.observer import RemovalList
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.cli.tables import Column, Shown, Table
from shared_registry.config.address import RegistryAddress


def removals_document(config: RegistryAddress, found: RemovalList) -> dict[str, Any]:
    """Return the removed replicas as a JSON object. Times are seconds since the epoch."""
    return {
        **address_document(config),
        "at": found.at,
        "removed": [
            {"url": one.url, "name": one.name or None, "removed_at": one.at, "by": one.by, "reason": one.reason}
            for one in found.removed
        ],
    }


def removals_text(config: RegistryAddress, found: RemovalList) -> Shown:
    """Return the removed replicas as a table."""
    if not found.removed:
        return f"no replica of namespace {config.namespace} is removed"
    each = found.removed
    return Table(
        [
            Column("replica", [printable(f"{one.name} {one.url}" if one.name else one.url) for one in each]),
            Column("removed", ["-" if one.at is None else f"{duration(found.at - one.at)} ago" for one in each]),
            Column("by", [printable(one.by) or "-" for one in each]),
            Column("reason", [printable(one.reason) for one in each]),
        ]
    )
