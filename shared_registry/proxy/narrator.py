"""Logs changes of the leader, of the replicas, and of the replicas to which new sessions go."""

from __future__ import annotations

import logging

from shared_registry.model import AdminState, ReplicaRecord, ReplicaStatus
from shared_registry.registry.facade import SharedReplicaRegistry

NAMED_AT_ONCE = 4
logger = logging.getLogger(__name__)


class Narrator:
    """Logs the changes in a registry since the last call of `log_changes()`."""

    def __init__(self, registry: SharedReplicaRegistry, *, pool: str = "") -> None:
        """Log all of the registry's present state at the first call.

        Args:
            registry: The registry.
            pool: The name of the pool to which it belongs, if there are several.
        """
        self._registry = registry
        self._of_pool = f"{pool}: " if pool else ""
        self._revision: tuple[str | None, str] | None = None
        self._leader: tuple[str, int] | None = None
        self._records: dict[str, ReplicaRecord] = {}
        self._where = ""

    def log_changes(self) -> None:
        """Compare the registry with the last call, and log the differences. Cheap if nothing has changed."""
        self._log_leader()
        revision = self._registry.history_id, self._registry.revision
        if revision != self._revision:
            self._revision = revision
            self._log_replicas()
        self._log_selection()

    def _log_leader(self) -> None:
        leader = self._registry.leader
        known = (leader.router, leader.epoch) if leader else None
        if known == self._leader:
            return
        self._leader = known
        if leader is None:
            logger.info("leader: %sthere is no leader", self._of_pool)
        else:
            logger.info("leader: %s%s leads in epoch %d", self._of_pool, leader.router, leader.epoch)

    def _log_replicas(self) -> None:
        before, self._records = self._records, {replica.key: replica.record for replica in self._registry.all()}
        for key, record in self._records.items():
            if text := _difference(before.get(key), record):
                logger.info("replica: %s%s is %s", self._of_pool, label(record), text)
        for key in before.keys() - self._records.keys():
            logger.info("replica: %s%s is removed", self._of_pool, label(before[key]))

    def _log_selection(self) -> None:
        """Log the replicas to which new sessions go: those of the first tier that has a selectable one."""
        able = [record for record in self._records.values() if record.is_selectable]
        if self._registry.is_stale or not able:
            where = "no replica can take a session"
        else:
            tier = [record for record in able if record.endpoint.primary] or able
            where = f"new sessions go to {', '.join(label(record) for record in tier[:NAMED_AT_ONCE])}"
            if len(tier) > NAMED_AT_ONCE:
                where += f" and {len(tier) - NAMED_AT_ONCE} more"
        if where != self._where:
            self._where = where
            logger.info("select: %s%s", self._of_pool, where)


def label(record: ReplicaRecord) -> str:
    """Return the name and the url of a replica, for people."""
    endpoint = record.endpoint
    return f"{endpoint.name} ({endpoint.url})" if endpoint.name else endpoint.url


def _difference(before: ReplicaRecord | None, now: ReplicaRecord) -> str:
    """Return the new status, the new admin state and an ejection, if they have changed; otherwise an empty text."""
    changes = []
    if before is None or before.health.status is not now.health.status:
        reason = f" ({now.last_error})" if now.health.status is ReplicaStatus.UNHEALTHY and now.last_error else ""
        changes.append(now.health.status.value + reason)
    admin_before = AdminState.ACTIVE if before is None else before.admin
    if admin_before is not now.admin:
        changes.append(now.admin.value + (f" ({now.admin_reason})" if now.admin_reason else ""))
    until_before = None if before is None else before.ejected_until
    if until_before != now.ejected_until:
        changes.append("not ejected any more" if now.ejected_until is None else "ejected, because sessions fail on it")
    return ", ".join(changes)
