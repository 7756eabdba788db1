"""The output of `shared-registry queue`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared_registry.admin.observer import QueueList
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.cli.lease_list import DIGITS_SHOWN
from shared_registry.config import RouterConfig
from shared_registry.store.redis_url import mask_redis_url


def queue_document(config: RouterConfig, found: QueueList) -> dict[str, Any]:
    """Return the queue as a JSON object. Times are seconds since the epoch on the Redis server's clock."""
    waiters = [
        {
            "position": one.position,
            "id": one.id,
            "router": one.router,
            "session_digest": one.session_digest,
            "since": one.since,
        }
        for one in found.waiters
    ]
    return {**address_document(config), "at": found.at, "depth": found.depth, "waiters": waiters}


def queue_text(config: RouterConfig, found: QueueList) -> RenderableType:
    """Return the queue as a table."""
    if not found.depth:
        return f"no session waits in namespace {config.namespace} at {mask_redis_url(config.redis_url)}"
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("position", justify="right")
    for heading in ("lease", "router", "session"):
        table.add_column(heading, overflow="fold")
    table.add_column("waits for", justify="right")
    for one in found.waiters:
        table.add_row(
            str(one.position),
            Text(printable(one.id[:DIGITS_SHOWN])),
            Text(printable(one.router)),
            Text(printable((one.session_digest or "-")[:DIGITS_SHOWN])),
            duration(found.at - one.since),
        )
    more = found.depth - len(found.waiters)
    summary = f"{found.depth} sessions wait" + (f"; {more} are not shown, raise --count" if more else "")
    return Group(table, summary) if found.waiters else summary
