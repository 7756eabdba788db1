"""The output of `shared-registry routers`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared_registry.admin.observer import RouterList
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.config import RouterConfig
from shared_registry.model import RouterRecord
from shared_registry.store.redis_url import mask_redis_url


def routers_document(config: RouterConfig, found: RouterList) -> dict[str, Any]:
    """Return the routers as a JSON object. Times are seconds since the epoch."""
    leader = found.leader
    return {
        **address_document(config),
        "at": found.at,
        "leader": leader and {"router": leader.router, "epoch": leader.epoch, "elected_at": leader.elected_at},
        "routers": [
            {
                "key": one.info.key,
                "host": one.info.host,
                "pid": one.info.pid,
                "version": one.info.version,
                "url": one.info.url,
                "started_at": one.info.started_at,
                "last_heartbeat_at": one.last_heartbeat_at,
                "expires_at": one.expires_at,
                "is_live": one.expires_at > found.at,
                "is_leader": _is_leader(found, one),
                "config_fingerprint": one.info.config_fingerprint,
                "agrees_with_leader": _agrees_with_leader(found, one),
                "trouble": one.info.trouble or None,
            }
            for one in found.routers
        ],
    }


def routers_text(config: RouterConfig, found: RouterList) -> RenderableType:
    """Return the routers as a table."""
    if not found.routers:
        return f"no routers have joined namespace {config.namespace} at {mask_redis_url(config.redis_url)}"
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("router", "leads", "host", "pid", "version", "up for", "last heartbeat", "expires", "config"):
        table.add_column(heading, overflow="fold")
    for one in found.routers:
        info, left = one.info, one.expires_at - found.at
        differs = _agrees_with_leader(found, one) is False
        table.add_row(
            Text(printable(info.key)),
            "yes" if _is_leader(found, one) else "",
            Text(printable(info.host)),
            str(info.pid),
            Text(printable(info.version)),
            duration(found.at - info.started_at),
            f"{duration(found.at - one.last_heartbeat_at)} ago",
            Text(f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago", "" if left > 0 else "red"),
            Text(info.config_fingerprint + (" differs" if differs else ""), "yellow" if differs else ""),
        )
    lines: list[RenderableType] = [table]
    lines += [
        f"{printable(one.info.key)} cannot connect to replicas for reasons of its own: {printable(one.info.trouble)}"
        for one in found.routers
        if one.info.trouble
    ]
    odd = sum(_agrees_with_leader(found, one) is False for one in found.routers)
    if odd:
        what = "router has" if odd == 1 else "routers have"
        lines.append(f"{odd} {what} other shared settings than the leader; compare them with `config show`")
    return Group(*lines)


def _is_leader(found: RouterList, one: RouterRecord) -> bool:
    return found.leader is not None and found.leader.router == one.info.key


def _agrees_with_leader(found: RouterList, one: RouterRecord) -> bool | None:
    """Return whether a router's shared settings equal the leader's; `None` if no listed router is the leader."""
    leading = [other.info.config_fingerprint for other in found.routers if _is_leader(found, other)]
    return one.info.config_fingerprint == leading[0] if leading else None
