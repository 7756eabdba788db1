"""Logs changes of the leader, of the replicas, and of the replicas to which new sessions go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from shared_registry import happenings
from shared_registry.happenings import Happening, ReplicaHappening
from shared_registry.model import AdminState, Leader, ReplicaRecord, ReplicaStatus
from shared_registry.registry.facade import SharedReplicaRegistry

NAMED_AT_ONCE = 4
MOST_LINES = 100
"""Up to how many replicas each has a line of its own when a router starts."""
PATIENCE_LEASES = 3
"""After how many leases without a leader a router that has started logs it. An election takes about one."""
PANICKING = "no replica is healthy; in the panic, sessions that take a slot use others"
EJECTED = "ejected, because sessions fail on it"
_TEXTS: Mapping[type[Happening], str] = MappingProxyType(
    {
        happenings.ReplicaRemoved: "removed",
        happenings.ReplicaEjected: EJECTED,
        happenings.ReplicaReturned: "not ejected any more",
    }
)
logger = logging.getLogger(__name__)


class Narrator:
    """Logs what happens in a registry."""

    def __init__(self, registry: SharedReplicaRegistry, *, pool: str = "") -> None:
        """Set up; nothing is logged before `narrating`.

        Args:
            registry: The registry.
            pool: The name of the pool to which it belongs, if there are several.
        """
        self._registry = registry
        self._of_pool = f"{pool}: " if pool else ""
        self._fields = {"namespace": registry.config.namespace} | ({"pool": pool} if pool else {})
        self._shown = logging.INFO, ""
        self._selection_due: asyncio.Handle | None = None
        self._election_due: asyncio.Handle | None = None

    @contextlib.contextmanager
    def narrating(self) -> Iterator[None]:
        """Log the present state of a started registry, and within the block each change."""
        end = self._registry.subscribe(self.hear, with_sessions=False)
        try:
            self._log_state()
            if self._registry.leader is None:
                loop, patience = asyncio.get_running_loop(), PATIENCE_LEASES * self._registry.config.lease_seconds
                self._election_due = loop.call_later(patience, self._log_vacancy, patience)
            yield
        finally:
            end()
            if self._election_due is not None:
                self._election_due.cancel()
            if self._selection_due is not None:
                self._selection_due.cancel()

    def hear(self, happening: Happening) -> None:
        """Log a happening, if it is one of those that are logged. For `SharedReplicaRegistry.subscribe`."""
        if isinstance(happening, ReplicaHappening):
            if text := _text_of(happening):
                self._log_replica(happening.record, text)
            self._log_selection_soon()
        elif isinstance(happening, happenings.LeaderChanged):
            self._log_leader(happening.leader)
        elif isinstance(happening, happenings.PanicBegan):
            self._log_panic(happening.reason)
            self._log_selection_soon()
        elif isinstance(happening, happenings.PanicEnded):
            logger.info("panic: %sis over", self._of_pool, extra=self._fields)
            self._log_selection_soon()
        elif isinstance(happening, happenings.ViewStale | happenings.ViewFresh):
            self._log_selection_soon()

    def _log_state(self) -> None:
        if (leader := self._registry.leader) is not None:
            self._log_leader(leader)
        replicas = self._registry.all()
        if len(replicas) > MOST_LINES:
            self._log_counts([replica.record for replica in replicas])
        else:
            for replica in replicas:
                self._log_replica(replica.record, _text_of_all(replica.record))
        if self._registry.panic is not None:
            self._log_panic(str(self._registry.panic))
        self._log_selection()

    def _log_counts(self, records: Sequence[ReplicaRecord]) -> None:
        """Log how many replicas are in each state, in one line."""
        counts = Counter(_kind(record) for record in records)
        level = logging.WARNING if any(map(_is_down, records)) else logging.INFO
        text = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        logger.log(level, "replicas: %s%d in all: %s", self._of_pool, len(records), text, extra=self._fields)

    def _log_leader(self, leader: Leader | None) -> None:
        if leader is None:
            logger.warning("leader: %sthere is no leader", self._of_pool, extra=self._fields)
        else:
            extra = {**self._fields, "router": leader.router, "epoch": leader.epoch}
            logger.info("leader: %s%s leads in epoch %d", self._of_pool, leader.router, leader.epoch, extra=extra)

    def _log_vacancy(self, seconds: float) -> None:
        if self._registry.leader is None:
            text = "leader: %snobody was elected within %g s after the start"
            logger.warning(text, self._of_pool, seconds, extra=self._fields)

    def _log_panic(self, reason: str) -> None:
        text = "panic: %s%s: sessions that find no free slot on a healthy replica use others"
        logger.warning(text, self._of_pool, reason, extra=self._fields)

    def _log_replica(self, record: ReplicaRecord, text: str) -> None:
        level = logging.WARNING if _is_down(record) else logging.INFO
        extra = {**self._fields, "replica": record.endpoint.url}
        logger.log(level, "replica: %s%s is %s", self._of_pool, label(record), text, extra=extra)

    def _log_selection_soon(self) -> None:
        """Log it once after all that happens now: it takes a look at all replicas."""
        if self._selection_due is None:
            self._selection_due = asyncio.get_running_loop().call_soon(self._log_selection)

    def _log_selection(self) -> None:
        """Log the replicas to which new sessions go: those of the first tier that has a selectable one."""
        self._selection_due = None
        level = logging.INFO
        replicas = [replica.record for replica in self._registry.all()]
        able = [record for record in replicas if record.is_selectable]
        if self._registry.is_stale or not able:
            is_panic = self._registry.panic is not None and not self._registry.is_stale
            where = PANICKING if is_panic else "no replica can take a session"
            is_new = any(record.health.status is ReplicaStatus.UNKNOWN for record in replicas)
            level = logging.INFO if is_new and not self._registry.is_stale else logging.ERROR
        else:
            tier = [record for record in able if record.endpoint.primary] or able
            where = f"new sessions go to {', '.join(label(record) for record in tier[:NAMED_AT_ONCE])}"
            if len(tier) > NAMED_AT_ONCE:
                where += f" and {len(tier) - NAMED_AT_ONCE} more"
        if (level, where) != self._shown:
            self._shown = level, where
            logger.log(level, "select: %s%s", self._of_pool, where, extra=self._fields)


def label(record: ReplicaRecord) -> str:
    """Return the name and the url of a replica, for people."""
    endpoint = record.endpoint
    return f"{endpoint.name} ({endpoint.url})" if endpoint.name else endpoint.url


def _text_of(happening: ReplicaHappening) -> str:
    """Return what is logged of a happening; an empty text if that is nothing."""
    match happening:
        case happenings.ReplicaRegistered():
            return _text_of_all(happening.record)
        case happenings.ReplicaHealthy() | happenings.ReplicaUnhealthy() | happenings.ReplicaUnjudged():
            return _status(happening.record)
        case (
            happenings.ReplicaDrained()
            | happenings.ReplicaExpired()
            | happenings.ReplicaDisabled()
            | happenings.ReplicaEnabled()
        ):
            return _admin(happening.record)
    return _TEXTS.get(type(happening), "")


def _is_down(record: ReplicaRecord) -> bool:
    is_out = record.health.status is ReplicaStatus.UNHEALTHY or record.ejected_until is not None
    return is_out and record.admin is AdminState.ACTIVE


def _kind(record: ReplicaRecord) -> str:
    if record.admin is not AdminState.ACTIVE:
        return str(record.admin.value)
    return "ejected" if record.ejected_until is not None else str(record.health.status.value)


def _text_of_all(record: ReplicaRecord) -> str:
    admin = "" if record.admin is AdminState.ACTIVE else f", {_admin(record)}"
    return _status(record) + admin + (f", {EJECTED}" if record.ejected_until else "")


def _status(record: ReplicaRecord) -> str:
    is_down = record.health.status is ReplicaStatus.UNHEALTHY
    return record.health.status.value + (f" ({record.last_error})" if is_down and record.last_error else "")


def _admin(record: ReplicaRecord) -> str:
    return record.admin.value + (f" ({record.admin_reason})" if record.admin_reason else "")
