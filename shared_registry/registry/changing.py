"""What a registry changes for all routers: replicas, their admin states, and what is known of their health."""

from __future__ import annotations

from typing import Any

from shared_registry.config import validate_endpoint
from shared_registry.model import AdminState, Replica, ReplicaEndpoint, Source, Thresholds
from shared_registry.registry.state import RegistryState, unknown_replica
from shared_registry.store.answers import new_token
from shared_registry.urls import canonical_url


class RegistryChanges(RegistryState):
    """The verbs that write. This router's mirror shows a change when the call returns."""

    async def record_success(self, replica: Replica, *, recovery_threshold: int, latency_ms: float) -> None:
        """Count a success that this router saw itself. Never raises; while Redis is away it is dropped.

        Before `start` it counts on this router alone.
        """
        thresholds = Thresholds(self.config.failure_threshold, recovery_threshold)
        await self._outcomes.success(replica, thresholds, latency_ms=latency_ms)

    async def record_failure(self, replica: Replica, *, failure_threshold: int, reason: str | BaseException) -> None:
        """Count a failure that this router saw itself. Never raises; while Redis is away it is dropped.

        Before `start` it counts on this router alone. A reason that is this router's own trouble, such as
        "[Errno 24] Too many open files", says nothing about the replica and is not counted; see `report_outcome`.
        """
        thresholds = Thresholds(failure_threshold, self.config.recovery_threshold)
        await self._outcomes.failure(replica, thresholds, reason=reason)

    async def report_outcome(
        self,
        replica: Replica,
        ok: bool,  # noqa: FBT001  a claim
        reason: str | BaseException = "",
    ) -> None:
        """Tell how connecting a session to a replica went. Never raises; while Redis is away it is dropped.

        A failure puts the replica last in this router's own choices for `local_cooldown_seconds`. As evidence for all
        it counts towards `failure_threshold`, but among several live routers one alone does not bring a replica over
        it; a later success takes the own failures back.

        A router that is out of file descriptors, memory, local ports or routes has not asked the replica: such a
        failure does nothing of all that, and is logged once. It is recognized by the exception, however wrapped, or by
        its text.

        Args:
            replica: Where the session went.
            ok: Whether it could be connected.
            reason: Why not, for the operator; best the exception itself.
        """
        thresholds = Thresholds(self.config.failure_threshold, self.config.recovery_threshold)
        await self._outcomes.passive(replica, thresholds, ok=ok, reason=reason)

    async def register(self, endpoint: ReplicaEndpoint | str, *, by: str = "", **attributes: Any) -> Replica:
        """Add a replica, or change the spec of one that is there; its health and load stay.

        Args:
            endpoint: The whole spec, or a url.
            by: Who asked.
            attributes: Of the `ReplicaEndpoint`, such as `capacity=4`, instead of its own.

        Raises:
            ConfigError: The endpoint is wrong.
        """
        whole = ReplicaEndpoint(endpoint) if isinstance(endpoint, str) else endpoint
        spec = validate_endpoint(whole, changes=attributes)
        key = canonical_url(spec.url)
        await self._parts.store.register(key, spec, mode=Source.EXPLICIT, request=new_token(), by=by)
        return self._view.get(key) or self._view.handle(Replica(spec).record)

    async def deregister(
        self, replica: Replica | str, *, by: str = "", reason: str = "", when_drained: bool = False
    ) -> None:
        """Remove a replica, named by handle, url or name. Config files do not bring it back.

        Args:
            replica: Which.
            by: Who asked.
            reason: Why, for the operator.
            when_drained: Let it drain first; whatever ends the last session on it removes it. `enable` calls it off.

        Raises:
            UnknownReplica: It is not registered.
        """
        key = self._view.key_of(replica)
        record = self._mirror.record(key) or (await self._reader.records([key])).get(key)
        if record is None:
            raise unknown_replica(key)
        events = await self._parts.store.deregister(
            key, record.incarnation, by=by, reason=reason, when_drained=when_drained
        )
        if events is None:
            raise unknown_replica(key)

    async def drain(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Let a replica finish its sessions and take no new one; it is still probed.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._set_admin(replica, AdminState.DRAINING, by, reason)

    async def disable(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Take a replica out: no new sessions, no probes.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._set_admin(replica, AdminState.DISABLED, by, reason)

    async def enable(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Undo `drain` or `disable`.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._set_admin(replica, AdminState.ACTIVE, by, reason)

    async def _set_admin(self, replica: Replica | str, state: AdminState, by: str, reason: str) -> None:
        key = self._view.key_of(replica)
        if await self._parts.store.set_admin(key, state, by=by, reason=reason) is None:
            raise unknown_replica(key)
