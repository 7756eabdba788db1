"""A router's view of the replicas: the live handles, and the order in which `select()` prefers them.

Pure state, no I/O. It changes in steps: each ends with preference and policies prepared, so that selecting by the
default policy reads one attribute.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from weakref import WeakValueDictionary

from shared_registry.errors import UnknownReplica
from shared_registry.model import (
    ORIGIN,
    AdminState,
    Removal,
    Replica,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    is_later,
)
from shared_registry.selection import Panic, Selection, find_panic
from shared_registry.urls import canonical_url

_NOT_REMOVED = Removal(ORIGIN)
Preferring = Callable[[Iterable[Replica]], tuple[Replica, ...]]


class View:
    """The handles of all replicas, one per url for as long as anybody holds it.

    Attributes:
        selection: The policies, prepared for what may be selected; also `choose` of the one in force where that is
            another than taking the `first`.
        first: The best replica; `None` with no selectable replica, or while withheld.
        preference: All selectable replicas, best first; empty while withheld.
        panic: Why sessions are spread over all active replicas, if they are.
        cooling: Canonical urls of replicas that come last for some time.
        ramping: Canonical urls of replicas whose ready score says more than their load, or did so lately.
        removed: What is known of replicas that were removed, by canonical url.
    """

    def __init__(self, policy: Preferring, selection: Selection | None = None, *, panic_percent: float = 0.0) -> None:
        """Show nothing yet.

        Args:
            policy: Which replicas may be selected, best first.
            selection: Chooses among them; by default the first.
            panic_percent: Below which share of healthy ones sessions are spread over all active replicas.
        """
        self.selection = selection or Selection()
        self.choose = self.selection.choose
        self.panic: Panic | None = None
        self.ramping: Collection[str] = ()
        self._shares: Mapping[str, float] = {}
        self._panic_percent = panic_percent
        self.first: Replica | None = None
        self.preference: tuple[Replica, ...] = ()
        self.removed: dict[str, Removal] = {}
        self._policy = policy
        self._replicas: dict[str, Replica] = {}
        self._ordered: tuple[Replica, ...] = ()
        self._handles: WeakValueDictionary[str, Replica] = WeakValueDictionary()
        self._is_withheld = False
        self.cooling: frozenset[str] = frozenset()
        self._is_sorted = True

    def all(self) -> tuple[Replica, ...]:
        """Return the registered replicas in order."""
        return self._ordered

    def key_of(self, target: Replica | str) -> str:
        """Return the canonical url of a replica given by handle, url in any spelling, or name.

        Raises:
            ConfigError: A url that is none.
            UnknownReplica: No replica has that name, or several have. The text names the nearest.
        """
        if isinstance(target, Replica):
            return target.key
        if "://" in target:
            return canonical_url(target)
        named = [replica.key for replica in self._ordered if replica.name == target]
        if len(named) > 1:
            raise UnknownReplica(f"several replicas have the name {target!r}; give the url of one")
        if not named:
            raise UnknownReplica(f"no replica has the name {target!r}{self._nearest_to(target)}")
        return named[0]

    def known_keys_of(self, targets: Iterable[Replica | str]) -> set[str]:
        """Return the canonical urls of replicas as `key_of` does, which are or were some of this view.

        Raises:
            ConfigError: As `key_of`.
            UnknownReplica: As `key_of`; or no replica has one of the urls.
        """
        keys: set[str] = set()
        for target in targets:
            key = self.key_of(target)
            is_known = key in self._replicas or key in self.removed or key in self._handles
            if isinstance(target, str) and not is_known:
                raise UnknownReplica(f"no replica has the url {key}{self._nearest_to(key)}")
            keys.add(key)
        return keys

    def _nearest_to(self, text: str) -> str:
        words = [word for replica in self._ordered for word in (replica.key, replica.name) if word]
        near = difflib.get_close_matches(text, words, 1)
        return f"; did you mean {near[0]!r}?" if near else "; see `shared-registry status` for those that there are"

    def get(self, key: str) -> Replica | None:
        """Return the handle of the replica with this canonical url."""
        return self._replicas.get(key)

    def handle(self, record: ReplicaRecord) -> Replica:
        """Return the handle of a replica that may not be shown (yet), with this record where there was none."""
        replica = self._handles.get(record.key)
        if replica is None:
            replica = self._handles[record.key] = Replica.of(record)
        return replica

    def show_configured(self, endpoints: Iterable[ReplicaEndpoint]) -> None:
        """Show these endpoints, all unknown, in the order that registering them one by one would give."""
        records: dict[str, ReplicaRecord] = {}
        next_order = 0
        for endpoint in endpoints:
            order = next_order if endpoint.order is None else endpoint.order
            next_order = max(next_order, order + 1)
            record = Replica(replace(endpoint, order=order)).record
            records[record.key] = record
        self.replace_all(records)

    def set_health(self, replica: Replica, health: ReplicaHealth) -> None:
        """Show this health of a replica."""
        replica.record = replace(replica.record, health=health)
        self._prepare()

    def replace_all(self, records: Mapping[str, ReplicaRecord], removed: Mapping[str, Removal] | None = None) -> None:
        """Show exactly these records, as read anew."""
        self.removed = dict(removed or {})
        for key in self._replicas.keys() - records.keys():
            self._drop(key)
        for key, record in records.items():
            self._show(key, record)
        self._prepare()

    def read(self, records: Iterable[ReplicaRecord]) -> None:
        """Take over what was read of known replicas; older revisions and unknown replicas are ignored."""
        for record in records:
            if replica := self._replicas.get(record.key):
                self._set(replica, replica.record.after_read(record))
        self._prepare()

    def apply(self, records: Iterable[ReplicaRecord]) -> None:
        """Take over what events carried, in their order; older revisions are ignored."""
        for record in records:
            replica = self._replicas.get(record.key)
            if record.admin is AdminState.REMOVED:
                self._remove(replica, record)
            elif replica is not None:
                self._set(replica, replica.record.after_event(record))
            elif is_later(record.revision, self.removed.get(record.key, _NOT_REMOVED).revision):
                self._show(record.key, record)
        self._prepare()

    def withhold(self, is_withheld: bool) -> None:  # noqa: FBT001  a claim, like the attribute
        """Let nothing be selected, or let it again."""
        self._is_withheld = is_withheld
        self._prepare()

    def cool(self, keys: Iterable[str]) -> None:
        """Let these replicas, and no others, come last: they are selected only where there is nothing else."""
        self.cooling = frozenset(keys)
        self._prepare()

    def ramp(self, shares: Mapping[str, float], ramping: Collection[str]) -> None:
        """Let replicas have only a part of their weights for now.

        Args:
            shares: Canonical url to part, of those that do not have all of it yet.
            ramping: See the attribute.
        """
        self.ramping = ramping
        if shares or self._shares:
            self._shares = shares
            self._prepare()

    def _show(self, key: str, record: ReplicaRecord) -> None:
        replica = self.handle(record)
        replica.record = record
        self._replicas[key] = replica
        self._is_sorted = False
        self.removed.pop(key, None)

    def _drop(self, key: str) -> None:
        replica = self._replicas.pop(key)
        self.selection.loads.forget(replica)
        self._is_sorted = False
        replica.record = replace(replica.record, admin=AdminState.REMOVED)

    def _remove(self, replica: Replica | None, record: ReplicaRecord) -> None:
        if replica is None:
            if is_later(record.revision, self.removed.get(record.key, _NOT_REMOVED).revision):
                self.removed[record.key] = Removal(record.revision, record.restored_from)
        elif is_later(record.revision, replica.record.revision):
            self._drop(record.key)
            replica.record = record
            self.removed[record.key] = Removal(record.revision, record.restored_from)

    def _set(self, replica: Replica, record: ReplicaRecord) -> None:
        self._is_sorted = self._is_sorted and record.endpoint.order == replica.record.endpoint.order
        replica.record = record

    def _prepare(self) -> None:
        """Bring order and preference in line with the records; sort only where that can have changed."""
        if not self._is_sorted:
            self._ordered = tuple(sorted(self._replicas.values(), key=_position))
            self._is_sorted = True
        preference = () if self._is_withheld else self._policy(self._ordered)
        if self.cooling:
            preference = tuple(sorted(preference, key=lambda replica: replica.key in self.cooling))
        self.preference = preference
        self.first = self.preference[0] if self.preference else None
        self.panic = None if self._is_withheld else find_panic(self._ordered, self._panic_percent)
        self.selection.prepare(
            self.panic.replicas if self.panic else preference,
            cooling=self.cooling,
            shares=self._shares,
            is_spread=self.panic is not None,
        )
        self.choose = self.selection.choose


def _position(replica: Replica) -> tuple[int, str]:
    return replica.record.endpoint.order or 0, replica.key
