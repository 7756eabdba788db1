"""Joins the routers: waits for Redis, sends a heartbeat, registers the configured replicas, reads the shared state."""

from __future__ import annotations

import logging
import random

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreUnavailable
from shared_registry.registry.seeding import log
from shared_registry.registry.wiring import Parts
from shared_registry.store import client
from shared_registry.store.keys import Keys
from shared_registry.store.reader import Gap
from shared_registry.store.verification import verify_server

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
            log(notices)
            return


async def _take_part(parts: Parts, settings: RouterConfig) -> list[str] | None:
    """Send a heartbeat, register the configured replicas, and read.

    Return what the config asks for and does not get; `None` if not all of that met one history.
    """
    heartbeat = await parts.membership.heartbeat()
    try:
        before = await parts.reader.snapshot()
    except Gap:
        return None
    # This must come before the mirror loads the shared state, or the view would lack these replicas for a moment.
    notices = await parts.seeding.register(settings, before.records)
    await parts.mirror.load(before)
    return notices if parts.mirror.history_id == heartbeat.history_id else None
