"""Joins the routers: waits for Redis, sends a heartbeat, registers the configured replicas, reads the shared state."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.errors import KeyConflict, StoreUnavailable
from shared_registry.model import ReplicaEndpoint, ReplicaRecord, Source
from shared_registry.registry.wiring import Parts
from shared_registry.store import client
from shared_registry.store.answers import new_token
from shared_registry.store.keys import Keys
from shared_registry.store.reader import Tombstone
from shared_registry.store.verification import verify_server
from shared_registry.urls import canonical_url

logger = logging.getLogger(__name__)


async def join(parts: Parts, settings: RouterConfig, *, clock: Clock, rng: random.Random) -> None:
    """Join the routers as soon as Redis can be reached. On return the view is current.

    Raises:
        StoreRefused: Wrong credentials, or a server older than Redis 6.2.
        KeyConflict: A key of the namespace is of another type.
    """
    backoff = Backoff(rng=rng)
    is_in_trouble = False
    while True:
        try:
            key = Keys(settings.namespace).meta
            await verify_server(parts.clients.commands, key, timeout_seconds=settings.redis_timeout_seconds)
            while (notices := await _take_part(parts, settings)) is None:
                pass
        except StoreUnavailable as error:
            if not is_in_trouble:
                is_in_trouble = True
                logger.warning("redis: waiting for %s: %s", client.redacted(settings.redis_url), error)
            await clock.sleep(backoff.next_seconds())
        else:
            for notice in notices:
                logger.warning("config: %s", notice)
            return


async def _take_part(parts: Parts, settings: RouterConfig) -> list[str] | None:
    """Send a heartbeat, register the configured replicas, and read.

    Return what the config asks for and does not get; `None` if not all of that met one history.
    """
    heartbeat = await parts.membership.heartbeat()
    notices = await _seed(parts, settings)
    await parts.mirror.load()
    return notices if parts.mirror.history_id == heartbeat.history_id else None


async def _seed(parts: Parts, settings: RouterConfig) -> list[str]:
    """Register the configured replicas that are not registered as configured. Return what differs from the config.

    This must come before the mirror loads the shared state: otherwise the view would lack these replicas for a moment.
    """
    configured = {canonical_url(endpoint.url): endpoint for endpoint in settings.replicas}
    registered = await parts.reader.records(list(configured))
    removed = {
        one.key: one for one in await parts.reader.tombstones([key for key in configured if key not in registered])
    }
    notices = []
    for key, endpoint in configured.items():
        known = registered.get(key)
        differences = _differences(known.endpoint, endpoint) if known else []
        if known is None or differences:
            try:
                await parts.store.register(key, endpoint, mode=Source.SEED, request=new_token(), by="config")
            except KeyConflict as error:
                if str(parts.keys.replica(key)) not in str(error):
                    raise
                notices.append(f"replica {key} cannot be registered: {error}")
        if key in removed:
            notices.append(_removed_text(removed[key]))
        elif known is not None and differences:
            notices.append(_differing_text(known, endpoint, differences))
    return notices


def _differences(known: ReplicaEndpoint, configured: ReplicaEndpoint) -> list[str]:
    """Return the attributes that differ, with both values."""
    wanted = dataclasses.replace(configured, order=known.order if configured.order is None else configured.order)
    names = [field.name for field in dataclasses.fields(ReplicaEndpoint)]
    pairs = ((name, getattr(known, name), getattr(wanted, name)) for name in names)
    return [f"{name} {old!r} is registered, {new!r} configured" for name, old, new in pairs if old != new]


def _removed_text(removed: Tombstone) -> str:
    when = "" if removed.at is None else f" at {datetime.fromtimestamp(removed.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    by = f" by {removed.by}" if removed.by else ""
    reason = f" ({removed.reason})" if removed.reason else ""
    name = f" {removed.name}" if removed.name else ""
    return (
        f"replica{name} {removed.url} was removed{when}{by}{reason} and stays removed; "
        "delete it from the config, or bring it back with `shared-registry add`"
    )


def _differing_text(known: ReplicaRecord, configured: ReplicaEndpoint, differences: Sequence[str]) -> str:
    which = f"{configured.name} {configured.url}" if configured.name else configured.url
    facts = "; ".join(differences)
    if known.source is Source.EXPLICIT:
        return f"replica {which} stays as an operator has set it: {facts}; change it with `shared-registry add`"
    return (
        f"replica {which} was registered from another config, and now has the values of this one for all routers: "
        f"{facts}; give all routers the same list"
    )
