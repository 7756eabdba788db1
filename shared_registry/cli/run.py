"""`shared-registry run`: one router's part in the registry, without a proxy, told in log lines."""

from __future__ import annotations

import asyncio
import logging

from shared_registry.config import RouterConfig
from shared_registry.model import AdminState, ReplicaRecord, ReplicaStatus
from shared_registry.redis_urls import mask_redis_url
from shared_registry.registry import SharedReplicaRegistry

LOOK_SECONDS = 0.1
logger = logging.getLogger(__name__)


async def run_router(config: RouterConfig, *, wait_seconds: float | None) -> None:
    """Join, stand for leader, probe while leading, and tell what changes, until cancelled; then resign and leave.

    Args:
        config: The router's settings.
        wait_seconds: How long to wait for Redis at the start; `None` waits for ever.

    Raises:
        StoreUnavailable: Redis could not be reached in that time.
        StoreError: Redis refuses, or holds something that is not ours.
    """
    registry = SharedReplicaRegistry(config)
    await registry.start(timeout_seconds=wait_seconds)
    try:
        where = mask_redis_url(config.redis_url)
        logger.info("router: %s has joined namespace %s at %s", registry.router_key, config.namespace, where)
        narrator = Narrator(registry)
        while True:
            narrator.look()
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await registry.stop()
        logger.info("router: %s has stopped", registry.router_key)


class Narrator:
    """Logs what has changed in a registry since the last look."""

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        self._registry = registry
        self._seen: tuple[str | None, str] | None = None
        self._leader: tuple[str, int] | None = None
        self._records: dict[str, ReplicaRecord] = {}
        self._selected: str | None = None

    def look(self) -> None:
        """Compare, and log the differences. Cheap where nothing has happened."""
        self._look_at_leader()
        seen = self._registry.birth, self._registry.revision
        if seen != self._seen:
            self._seen = seen
            self._look_at_replicas()
        self._look_at_selection()

    def _look_at_leader(self) -> None:
        leader = self._registry.leader
        known = (leader.router, leader.epoch) if leader else None
        if known == self._leader:
            return
        self._leader = known
        if leader is None:
            logger.info("leader: nobody leads")
        else:
            logger.info("leader: %s leads in epoch %d", leader.router, leader.epoch)

    def _look_at_replicas(self) -> None:
        before, self._records = self._records, {replica.key: replica.record for replica in self._registry.all()}
        for key, record in self._records.items():
            if text := _difference(before.get(key), record):
                logger.info("replica: %s is %s", label(record), text)
        for key in before.keys() - self._records.keys():
            logger.info("replica: %s is removed", label(before[key]))

    def _look_at_selection(self) -> None:
        replica = self._registry.select()
        selected = replica.key if replica else None
        if selected != self._selected:
            self._selected = selected
            where = f"new sessions go to {label(replica.record)}" if replica else "no replica can take a session"
            logger.info("select: %s", where)


def label(record: ReplicaRecord) -> str:
    """Name a replica to people."""
    endpoint = record.endpoint
    return f"{endpoint.name} ({endpoint.url})" if endpoint.name else endpoint.url


def _difference(before: ReplicaRecord | None, now: ReplicaRecord) -> str:
    """Say what a replica has become; nothing where neither its status nor the operator's word has changed."""
    words = []
    if before is None or before.health.status is not now.health.status:
        reason = f" ({now.last_error})" if now.health.status is ReplicaStatus.UNHEALTHY and now.last_error else ""
        words.append(now.health.status.value + reason)
    admin_before = AdminState.ACTIVE if before is None else before.admin
    if admin_before is not now.admin:
        words.append(now.admin.value + (f" ({now.admin_reason})" if now.admin_reason else ""))
    return ", ".join(words)
