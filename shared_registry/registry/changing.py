"""The methods of a registry that write the shared state: replicas, their admin states, and outcomes."""

from __future__ import annotations

import hashlib
from typing import Any

from shared_registry.admin.replica_changes import ReplicaChanges
from shared_registry.config import validate_endpoint
from shared_registry.model import AdminState, Replica, ReplicaEndpoint, Source
from shared_registry.registry.state import RegistryState, unknown_replica
from shared_registry.store.announcing import AnnouncementCommands
from shared_registry.store.answers import new_token
from shared_registry.urls import canonical_url


class RegistryChanges(RegistryState):
    """The methods that write. This router's mirror shows a change when the call returns."""

    async def record_success(self, replica: Replica, *, recovery_threshold: int, latency_ms: float) -> None:
        """Count a success that this router experienced itself. Never raises; while Redis is away it is dropped.

        Before `start` the success counts on this router alone.
        """
        thresholds = self.config.thresholds(recovery=recovery_threshold)
        await self._outcomes.success(replica, thresholds, latency_ms=latency_ms)

    async def record_failure(self, replica: Replica, *, failure_threshold: int, reason: str | BaseException) -> None:
        """Count a failure that this router experienced itself. Never raises; while Redis is away it is dropped.

        Before `start` the failure counts on this router alone. A reason that is this router's own trouble, such as
        "[Errno 24] Too many open files", says nothing about the replica and is not counted; see `report_outcome`.
        """
        thresholds = self.config.thresholds(failure=failure_threshold)
        await self._outcomes.failure(replica, thresholds, reason=reason)

    async def report_outcome(
        self,
        replica: Replica,
        ok: bool,  # noqa: FBT001  part of the public API
        reason: str | BaseException = "",
        *,
        is_connected: bool = False,
        client: str = "",
    ) -> None:
        """Report how connecting a session to a replica went, or how a connected session ended.

        Never raises; while Redis is away the report is dropped.

        After a failure this router chooses the replica last for `local_cooldown_seconds`. Among routers that probe, a
        failure changes no status; the replica's prober and this router probe at once. Where no router probes, the
        failure counts towards `failure_threshold` for all routers. Among several live routers, the failures of one
        router alone do not reach that threshold. A later success takes this router's own failures back.

        A router that is out of file descriptors, memory, local ports or routes has not reached the replica. Such a
        failure starts no cooldown and is not counted; it is logged once. It is recognized by the exception, however
        wrapped, or by its text.

        The end of a connected session changes no status and starts no cooldown. Among routers that probe, failures may
        eject the replica: sessions of two machines that could not be connected, on routers whose own probes have
        reached the replica since, or `ejection_failures` connected sessions in a row that failed, over all routers. See
        `max_ejection_percent`.

        Args:
            replica: The replica that the session was sent to.
            ok: Whether the session could be connected; with `is_connected`, whether it ended well.
            reason: Why not, for the operator; best the exception itself.
            is_connected: The session was connected before. Report only failures of the replica, such as a response with
                status 500 or a broken connection. A busy replica has not failed.
            client: Any text that names the session's client. Connected sessions of one client alone do not eject a
                replica. By default all sessions of this router count as those of one client.
        """
        thresholds = self.config.thresholds()
        if is_connected:
            await self._outcomes.connected(replica, thresholds, ok=ok, reason=reason, client=_digest(client))
        else:
            await self._outcomes.passive(replica, thresholds, ok=ok, reason=reason)

    def counts_success(self, replica: Replica) -> bool:
        """Return whether it would change anything to report that a session was connected, or ended well.

        For callers that report outcomes of many sessions. A success counts only after a failure.
        """
        return self._outcomes.counts_success(replica.record.key)

    async def register(self, endpoint: ReplicaEndpoint | str, *, by: str = "", **attributes: Any) -> Replica:
        """Register a replica, or change the spec of a registered one. Its health and load stay.

        Args:
            endpoint: The whole spec, or a url.
            by: Who asked for the change.
            attributes: Attributes of the `ReplicaEndpoint`, such as `capacity=4`. They replace those of `endpoint`.

        Raises:
            ConfigError: The endpoint is wrong, or another replica has its name.
        """
        whole = ReplicaEndpoint(endpoint) if isinstance(endpoint, str) else endpoint
        spec = validate_endpoint(whole, changes=attributes)
        key = canonical_url(spec.url)
        await self._parts.store.register(key, spec, mode=Source.EXPLICIT, request=new_token(), by=by)
        return self._view.get(key) or self._view.handle(Replica(spec).record)

    async def deregister(
        self, replica: Replica | str, *, by: str = "", reason: str = "", when_drained: bool = False
    ) -> None:
        """Remove a replica, named by handle, url or name. Config files do not register it again.

        Args:
            replica: The replica.
            by: Who asked for the change.
            reason: The reason, for the operator.
            when_drained: Whether to drain the replica first. The end of its last session then removes it. `enable`
                cancels the removal.

        Raises:
            UnknownReplica: The replica is not registered.
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
        """Let a replica finish its sessions and take no new ones. It is still probed.

        Raises:
            UnknownReplica: The replica is not registered.
        """
        await self._set_admin(replica, AdminState.DRAINING, by, reason)

    async def disable(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Let a replica take no new sessions, and stop probing it.

        Raises:
            UnknownReplica: The replica is not registered.
        """
        await self._set_admin(replica, AdminState.DISABLED, by, reason)

    async def enable(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Undo `drain` or `disable`.

        Raises:
            UnknownReplica: The replica is not registered.
        """
        await self._set_admin(replica, AdminState.ACTIVE, by, reason)

    def changes(self, *, by: str) -> ReplicaChanges:
        """Return the changes of somebody else, such as a client of this router, which say what they did.

        Args:
            by: Who asks for them.

        Raises:
            UsageError: The registry is not started.
        """
        self._expect_started()
        return ReplicaChanges(self._reader, self._parts.store, by=by)

    @property
    def announcements(self) -> AnnouncementCommands:
        """The commands for replicas that announce themselves through this router.

        Raises:
            UsageError: The registry is not started.
        """
        self._expect_started()
        return self._parts.store

    async def _set_admin(self, replica: Replica | str, state: AdminState, by: str, reason: str) -> None:
        key = self._view.key_of(replica)
        if await self._parts.store.set_admin(key, state, by=by, reason=reason) is None:
            raise unknown_replica(key)


def _digest(client: str) -> str:
    """Return a short name for a client, so that Redis does not hold its address."""
    return hashlib.blake2b(client.encode(), digest_size=6).hexdigest() if client else ""
