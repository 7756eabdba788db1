"""Lets an operator change replicas and the leader from outside, without joining the routers."""

from __future__ import annotations

import asyncio
import enum
import getpass
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared_registry.admin.blast_radius import BlastRadius, blast_radius
from shared_registry.admin.check import Violation
from shared_registry.admin.connection import Outsider
from shared_registry.admin.repair import repair
from shared_registry.config import RouterConfig, validate_endpoint
from shared_registry.config.taken_names import refuse_taken_name
from shared_registry.errors import UnknownReplica
from shared_registry.model import (
    AdminState,
    Event,
    EventKind,
    LabelSelector,
    Leader,
    ReplicaEndpoint,
    ReplicaRecord,
    Source,
)
from shared_registry.store.answers import new_token
from shared_registry.store.channel import bounded
from shared_registry.store.commands import Store
from shared_registry.store.replies import Upgrade
from shared_registry.urls import canonical_url

SIT_OUT_LEASES = 3.0
POLL_SECONDS = 0.02


class Change(enum.Enum):
    """The result of an operation on one replica."""

    REGISTERED = "registered"
    UPDATED = "updated"
    DRAINING = "draining"
    DISABLED = "disabled"
    ENABLED = "enabled"
    REMOVED = "removed"
    UNCHANGED = "unchanged"
    """The replica was already as requested."""
    GONE = "gone"
    """The replica is no longer registered."""


_ADMIN_CHANGES = {
    AdminState.ACTIVE: Change.ENABLED,
    AdminState.DRAINING: Change.DRAINING,
    AdminState.DISABLED: Change.DISABLED,
}


@dataclass(frozen=True, slots=True)
class Target:
    """One replica that was found by name or url.

    Attributes:
        key: The canonical url.
        url: The url as it was registered.
        name: The replica's name, if it has one.
        incarnation: The id of this registration of the replica; empty for a replica that was already removed.
    """

    key: str
    url: str
    name: str | None = None
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class Deposition:
    """The result of asking the leader to step down.

    Attributes:
        leader: The leader at the time of the request.
        is_deposed: Whether this request ended the term. False if the term ended in another way just before.
        sit_out_seconds: How long the leader was asked not to campaign again.
    """

    leader: Leader
    is_deposed: bool
    sit_out_seconds: float


class Operator(Outsider):
    """`async with Operator(config, by="ann@desk") as operator: await operator.set_admin(...)`.

    Every change names `by` in its event. All methods may be repeated: a change that is already in force returns
    `Change.UNCHANGED`.
    """

    def __init__(self, config: RouterConfig, *, by: str = "") -> None:
        """Set up; nothing connects before `async with`.

        Args:
            config: Names the registry. Its `lease_seconds` gives the default time for which a leader that stepped down
                does not campaign again.
            by: Who operates; by default the user of this process and the host.
        """
        super().__init__(config)
        self.by = by or user_at_host()
        self._lease_seconds = config.lease_seconds
        self._store = Store(self._clients, self._keys, router="", timeout_seconds=self._timeout_seconds)

    async def find(self, names: Sequence[str], *, also_removed: bool = False) -> list[Target]:
        """Return the replicas with these names or urls, each once. Reads only, so that a typo changes nothing.

        Args:
            names: Names, and urls in any spelling.
            also_removed: Whether to find also replicas that were removed.

        Raises:
            ConfigError: A url is not valid.
            UnknownReplica: A replica is not registered, or several replicas have the same name. The message lists all
                such names and urls.
        """
        keys = [canonical_url(name) if "://" in name else None for name in names]
        targets = await self._registered()
        removed = await self._removed() if also_removed else []
        found: dict[str, Target] = {}
        problems: list[str] = []
        for name, key in zip(names, keys, strict=True):
            matches = _matching(targets, name, key) or _matching(removed, name, key)
            if len(matches) == 1:
                found.setdefault(matches[0].key, matches[0])
            elif matches:
                urls = ", ".join(target.url for target in matches)
                problems.append(f"{len(matches)} replicas are named {name!r}, give a url ({urls})")
            else:
                problems.append(f"no replica {key} is registered" if key else f"no replica is named {name!r}")
        if problems:
            raise UnknownReplica("; ".join(problems) + "; nothing was changed")
        return list(found.values())

    async def select(self, labels: LabelSelector) -> list[Target]:
        """Return the registered replicas with these labels, in order of their urls' registration."""
        records = await self._reader.records(await self._reader.urls())
        return [_target(key, one) for key, one in records.items() if labels.matches(one.endpoint.labels)]

    async def blast_radius(self, targets: Sequence[Target]) -> BlastRadius:
        """Return what it would cost if these replicas took no new sessions. Other changes may come before it."""
        records = await self._reader.records(await self._reader.urls())
        return blast_radius(records.values(), {target.key for target in targets})

    async def plan(
        self, urls: Sequence[str], change: Callable[[ReplicaEndpoint], Mapping[str, object]]
    ) -> list[ReplicaEndpoint]:
        """Return the new specs of these replicas.

        A change replaces the attribute of the registered spec, or the default if the replica is not registered.

        Args:
            urls: The urls of the replicas, in any spelling.
            change: Returns the attributes that replace those of a spec.

        Raises:
            ConfigError: A url or a change is wrong.
        """
        keys = dict.fromkeys(canonical_url(url) for url in urls)
        spelled = {canonical_url(url): url for url in reversed(urls)}
        known = await self._reader.records(list(keys))
        plain = {key: known[key].endpoint if key in known else ReplicaEndpoint(spelled[key]) for key in keys}
        return [validate_endpoint(endpoint, "replica", change(endpoint)) for endpoint in plain.values()]

    async def register(self, endpoint: ReplicaEndpoint) -> Change:
        """Register a replica, or change the spec of a registered one. Its health and load stay.

        Another operator or router that gives the same name to another replica at this very moment is not seen.

        Raises:
            ConfigError: Another replica has this name.
        """
        key = canonical_url(endpoint.url)
        records = await self._reader.records(await self._reader.urls()) if endpoint.name else {}
        refuse_taken_name(key, endpoint, ((other, record.endpoint) for other, record in records.items()))
        events = await self._store.register(key, endpoint, mode=Source.EXPLICIT, request=new_token(), by=self.by)
        if not events:
            return Change.UNCHANGED
        return Change.REGISTERED if events[0].kind is EventKind.REPLICA_REGISTERED else Change.UPDATED

    async def set_admin(self, target: Target, state: AdminState, *, reason: str = "") -> Change:
        """Drain, disable or enable a replica."""
        events = await self._store.set_admin(target.key, state, by=self.by, reason=reason)
        if events is None:
            return Change.GONE
        return _ADMIN_CHANGES[state] if events else Change.UNCHANGED

    async def remove(self, target: Target, *, reason: str = "", when_drained: bool = False) -> Change:
        """Remove a replica that was found. If the same url was registered again since then, the new replica stays.

        Args:
            target: The replica.
            reason: The reason, for the event.
            when_drained: Whether to drain the replica first if it has sessions. The end of the last session removes it.
        """
        if not target.incarnation:
            return Change.UNCHANGED
        events = await self._store.deregister(
            target.key, target.incarnation, by=self.by, reason=reason, when_drained=when_drained
        )
        if events is None:
            return Change.GONE
        if not events:
            return Change.UNCHANGED
        return Change.REMOVED if events[0].kind is EventKind.REPLICA_DEREGISTERED else Change.DRAINING

    async def sessions_left(self, targets: Sequence[Target]) -> int:
        """Return how many sessions these replicas have in all, including replicas that were removed meanwhile."""
        return sum([await self._reader.in_flight(target.key) or 0 for target in targets])

    async def revision(self) -> str:
        """Return the id of the last event."""
        return (await self._reader.head()).revision

    async def wait_events(self, *, after: str, seconds: float) -> list[Event]:
        """Return the events after a revision. Wait up to `seconds` for the first."""
        return await self._reader.wait_events(after=after, seconds=seconds)

    async def repair(self) -> list[Violation]:
        """Repair all data that can be derived from other data; return the violations that remain."""
        found = await self.check()
        if await repair(self._store, found, by=self.by):
            found = await self.check()
        return found

    async def upgrade(self, *, is_dry_run: bool = False) -> Upgrade:
        """Give the namespace the newest schema of this version, unless a router of an older version lives."""
        return await self._store.upgrade(by=self.by, is_dry_run=is_dry_run)

    async def step_down(self, *, sit_out_seconds: float | None = None, reason: str = "") -> Deposition | None:
        """End the term of the present leader; return `None` if there is no leader.

        Args:
            sit_out_seconds: How long that router is not to campaign again; by default three leases.
            reason: The reason, for the event.
        """
        leader = await self._reader.leader()
        if leader is None:
            return None
        seconds = SIT_OUT_LEASES * self._lease_seconds if sit_out_seconds is None else sit_out_seconds
        router = await self._store.step_down(leader.epoch, sit_out_seconds=seconds, by=self.by, reason=reason)
        return Deposition(leader, router is not None, seconds)

    async def leader_after(self, epoch: int, *, within_seconds: float) -> Leader | None:
        """Return the leader of a later epoch as soon as there is one; `None` if there is none in time."""
        deadline = time.monotonic() + within_seconds
        while True:
            leader = await self._reader.leader()
            if leader is not None and leader.epoch > epoch:
                return leader
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(POLL_SECONDS)

    async def _registered(self) -> list[Target]:
        records = await self._reader.records(await self._reader.urls())
        return [_target(key, one) for key, one in records.items()]

    async def _removed(self) -> list[Target]:
        found = []
        for key in await self._reader.removed():
            async with bounded(self._timeout_seconds, failover=self._clients.failover):
                url, name = await self._clients.commands.hmget(self._keys.replica(key), "url", "name")
            found.append(Target(key, url or key, name or None))
        return found


def user_at_host() -> str:
    """Return the user of this process and the host, for `by` in events."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _target(key: str, record: ReplicaRecord) -> Target:
    return Target(key, record.endpoint.url, record.endpoint.name, record.incarnation)


def _matching(targets: Sequence[Target], name: str, key: str | None) -> list[Target]:
    return [target for target in targets if (target.key == key if key else target.name == name)]
