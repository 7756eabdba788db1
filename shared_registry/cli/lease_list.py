"""The output of `shared-registry leases`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from shared_registry.admin.observer import LeaseList
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, printable
from shared_registry.cli.tables import Column, Group, Shown, Table
from shared_registry.config.address import RegistryAddress
from shared_registry.store.redis_url import mask_redis_url

DIGITS_SHOWN = 12


def leases_document(config: RegistryAddress, found: LeaseList) -> dict[str, Any]:
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


def leases_text(config: RegistryAddress, found: LeaseList) -> Shown:
    """Return the leases as a table."""
    leases = found.leases
    if not leases:
        return f"no leases are held in namespace {config.namespace} at {mask_redis_url(config.redis_url)}"
    ages = ["-" if one.asked_at is None else duration(max(0.0, found.at - one.asked_at)) for one in leases]
    table = Table(
        [
            Column("lease", [printable(one.id[:DIGITS_SHOWN]) for one in leases]),
            Column("router", [printable(one.router) for one in leases]),
            Column("name", [printable(one.name or "-") for one in leases]),
            Column("replica", [printable(one.key) for one in leases]),
            Column("session", [printable((one.session_digest or "-")[:DIGITS_SHOWN]) for one in leases]),
            Column("age", ages, is_number=True),
        ]
    )
    routers, replicas = {one.router for one in leases}, {one.key for one in leases}
    return Group(table, f"{len(leases)} leases of {len(routers)} routers on {len(replicas)} replicas")
