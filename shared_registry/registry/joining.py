"""Joins the routers: waits for Redis, sends a heartbeat, registers the configured replicas, reads the shared state."""

from __future__ import annotations

import dataclasses
import logging
import random

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreUnavailable
from shared_registry.model import ReplicaEndpoint, Source
from shared_registry.registry.wiring import Parts
from shared_registry.store import client
from shared_registry.store.answers import new_token
from shared_registry.store.keys import Keys
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
            while not await _take_part(parts, settings):
                pass
        except StoreUnavailable as error:
            if not is_in_trouble:
                is_in_trouble = True
                logger.warning("redis: waiting for %s: %s", client.redacted(settings.redis_url), error)
            await clock.sleep(backoff.next_seconds())
        else:
            return


async def _take_part(parts: Parts, settings: RouterConfig) -> bool:
    """Send a heartbeat, register the configured replicas, and read; return whether all of that met one history."""
    heartbeat = await parts.membership.heartbeat()
    await _seed(parts, settings)
    await parts.mirror.load()
    return parts.mirror.history_id == heartbeat.history_id


async def _seed(parts: Parts, settings: RouterConfig) -> None:
    """Register the configured replicas that are not registered as configured.

    This must come before the mirror loads the shared state: otherwise the view would lack these replicas for a moment.
    """
    registered = await parts.reader.records([canonical_url(endpoint.url) for endpoint in settings.replicas])
    for endpoint in settings.replicas:
        key = canonical_url(endpoint.url)
        known = registered.get(key)
        if known is None or not _is_spec_of(known.endpoint, endpoint):
            await parts.store.register(key, endpoint, mode=Source.SEED, request=new_token(), by="config")


def _is_spec_of(known: ReplicaEndpoint, configured: ReplicaEndpoint) -> bool:
    order = known.order if configured.order is None else configured.order
    return known == dataclasses.replace(configured, order=order)
