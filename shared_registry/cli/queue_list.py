"""The output of `shared-registry queue`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from shared_registry.admin.fleet_reads import QueueList
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.cli.lease_list import DIGITS_SHOWN
from shared_registry.cli.tables import Column, Printed, Stack, Table
from shared_registry.config.address import RegistryAddress
from shared_registry.store.redis_url import mask_redis_url


def queue_document(config: RegistryAddress, found: QueueList) -> dict[str, Any]:
    """Return the queue as a JSON object. Times are seconds since the epoch on the Redis server's clock."""
    return {**address_document(config), **found.document()}


def queue_text(config: RegistryAddress, found: QueueList) -> Printed:
    """Return the queue as a table."""
    if not found.depth:
        return f"no session waits in namespace {config.namespace} at {mask_redis_url(config.redis_url)}"
    first = found.waiters
    table = Table(
        [
            Column("position", [str(one.position) for one in first], is_number=True),
            Column("lease", [printable(one.id[:DIGITS_SHOWN]) for one in first]),
            Column("router", [printable(one.router) for one in first]),
            Column("session", [printable((one.session_digest or "-")[:DIGITS_SHOWN]) for one in first]),
            Column("waits for", [duration(found.at - one.since) for one in first], is_number=True),
        ]
    )
    more = found.depth - len(found.waiters)
    summary = f"{found.depth} sessions wait" + (f"; {more} are not shown, raise --count" if more else "")
    return Stack(table, summary) if found.waiters else summary
