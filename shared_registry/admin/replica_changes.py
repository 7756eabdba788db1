"""Changes replicas for somebody: registers, drains, disables, enables and removes them, and says what that costs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared_registry.admin.blast_radius import BlastRadius, blast_radius
from shared_registry.config import validate_endpoint
from shared_registry.errors import UnknownReplica
from shared_registry.model import AdminState, EventKind, LabelSelector, ReplicaEndpoint, ReplicaRecord, Source
from shared_registry.store.answers import new_token
from shared_registry.store.commands import Store
from shared_registry.store.reader import Reader
from shared_registry.urls import canonical_url


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


class ReplicaChanges:
    """The changes of one operator or program, whom every event names.

    All methods may be repeated: a change that is already in force returns `Change.UNCHANGED`.

    Attributes:
        by: Who operates.
    """

    _reader: Reader
    _store: Store

    def __init__(self, reader: Reader, store: Store, *, by: str) -> None:
        """Set up."""
        self._reader = reader
        self._store = store
        self.by = by

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

        Raises:
            ConfigError: Another replica has this name.
        """
        key = canonical_url(endpoint.url)
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

    async def _registered(self) -> list[Target]:
        records = await self._reader.records(await self._reader.urls())
        return [_target(key, one) for key, one in records.items()]

    async def _removed(self) -> list[Target]:
        tombstones = await self._reader.tombstones(await self._reader.removed())
        return [Target(one.key, one.url, one.name or None) for one in tombstones]


def _target(key: str, record: ReplicaRecord) -> Target:
    return Target(key, record.endpoint.url, record.endpoint.name, record.incarnation)


def _matching(targets: Sequence[Target], name: str, key: str | None) -> list[Target]:
    return [target for target in targets if (target.key == key if key else target.name == name)]
