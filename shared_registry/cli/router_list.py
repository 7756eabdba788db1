"""The output of `shared-registry routers`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from shared_registry.admin.fleet_reads import RouterList
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.cli.tables import Column, Printed, Stack, Text, fitted_table
from shared_registry.config.address import RegistryAddress
from shared_registry.model import RouterRecord
from shared_registry.store.redis_url import mask_redis_url


def routers_document(config: RegistryAddress, found: RouterList) -> dict[str, Any]:
    """Return the routers as a JSON object. Times are seconds since the epoch."""
    return {**address_document(config), **found.document()}


def routers_text(config: RegistryAddress, found: RouterList, *, width: int | None = None) -> Printed:
    """Return the routers as a table of the columns that fit; of all columns without a width."""
    if not found.routers:
        return f"no routers have joined namespace {config.namespace} at {mask_redis_url(config.redis_url)}"
    each, now = found.routers, found.at
    table = fitted_table(
        [
            Column("router", [Text(printable(one.info.key)) for one in each]),
            Column("leads", ["yes" if found.leads(one) else "" for one in each]),
            Column("leases", [str(found.leases.get(one.info.key, "-")) for one in each], is_number=True),
            Column("url", [Text(printable(one.info.url)) for one in each], keep=5),
            Column("probes", [found.probes_of(one) for one in each], keep=4),
            Column("view age", [_measured(one.info.view_age_seconds) for one in each], is_number=True, keep=4),
            Column("probe age", [_measured(one.info.probe_age_seconds) for one in each], is_number=True, keep=4),
            Column("probe lag", [_measured(one.info.probe_lag_seconds) for one in each], is_number=True, keep=4),
            Column("host", [Text(printable(one.info.host)) for one in each], keep=2),
            Column("pid", [str(one.info.pid) for one in each], keep=1),
            Column("version", [Text(printable(one.info.version)) for one in each], keep=6),
            Column("up for", [duration(now - one.info.started_at) for one in each], keep=7),
            Column("last heartbeat", [f"{duration(now - one.last_heartbeat_at)} ago" for one in each], keep=9),
            Column("expires", [_expiry(one.expires_at - now) for one in each], keep=3),
            Column("config", [_config(found, one) for one in each], keep=8),
        ],
        width,
    )
    lines: list[Printed] = [table]
    lines += [
        f"{printable(one.info.key)} cannot connect to replicas for reasons of its own: {printable(one.info.trouble)}"
        for one in found.routers
        if one.info.trouble
    ]
    odd = sum(found.agrees_with_leader(one) is False for one in found.routers)
    if odd:
        what = "router has" if odd == 1 else "routers have"
        lines.append(f"{odd} {what} other shared settings than the leader; compare them with `config show`")
    return Stack(*lines)


def _measured(seconds: float | None) -> str:
    """Return a duration that a router has measured; "-" for one that is not known."""
    return "-" if seconds is None else duration(seconds)


def _expiry(left: float) -> Text:
    return Text(f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago", "" if left > 0 else "red")


def _config(found: RouterList, one: RouterRecord) -> Text:
    differs = found.agrees_with_leader(one) is False
    return Text(one.info.config_fingerprint + (" differs" if differs else ""), "yellow" if differs else "")
