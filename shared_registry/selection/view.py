"""A router's view of the replicas: the live handles, and the order in which `select()` prefers them.

Pure state, no I/O. Every change ends with the policies prepared, so that a selection by the default policy reads one
attribute. Only the replicas that a change touches are moved. Lists of all replicas are made when they are asked for.
"""

from __future__ import annotations

import asyncio
import collections
import difflib
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from weakref import WeakValueDictionary

from shared_registry.aio.breath import Breath
from shared_registry.errors import UnknownReplica, UsageError
from shared_registry.model import (
    ORIGIN,
    AdminState,
    Event,
    Removal,
    Replica,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    is_later,
)
from shared_registry.selection import Panic, Selection
from shared_registry.selection.levels import Levels, Ordered, position_of
from shared_registry.selection.panic import ANSWERED_SECONDS, Spares
from shared_registry.selection.targets import FormerNames, each_of
from shared_registry.urls import canonical_url

_NOT_REMOVED = Removal(ORIGIN)
MOST_TOUCHED = 4
"""If more than one in so many replicas is touched at once, all are put in order anew."""
AT_ONCE = 100
"""How many replicas are moved in one go where the event loop is to run in between."""
DEPARTED_AT_MOST = 1000
"""How many removals of announced replicas that left by themselves are remembered."""


class View:
    """The handles of all replicas. There is one handle per url for as long as any code holds it.

    Attributes:
        selection: The policies, prepared for the selectable replicas.
        choose: The router's own policy, prepared; `None` if that policy takes `first`.
        first: The best replica; `None` if no replica is selectable, or while the view is withheld.
        panic: Whether so few replicas are healthy that sessions may use others; `None` if not.
        cooling: Canonical urls of replicas in a cooldown, which come last.
        ramping: Canonical urls of replicas whose ready score is above their load, or was lately, because of a ramp.
        removed: The known removals of replicas, by canonical url.
        to_be_removed: The replicas that drain in order to be removed, by canonical url.
    """

    def __init__(
        self,
        selection: Selection | None = None,
        *,
        panic_percent: float = 0.0,
        spreads_in_panic: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Set up, without replicas.

        Args:
            selection: Chooses among the selectable replicas; by default the first of them.
            panic_percent: The share of healthy replicas, in percent, below which there is panic.
            spreads_in_panic: Whether selections are spread over all active replicas in a panic.
            now: Returns the time in seconds since the Unix epoch, to find the replicas that answered within an hour.
        """
        self.selection = selection or Selection()
        self.choose = self.selection.choose
        self.panic: Panic | None = None
        self.ramping: Collection[str] = ()
        self._shares: Mapping[str, float] = {}
        self._panic_percent = panic_percent
        self._now = now
        self.first: Replica | None = None
        self.removed: dict[str, Removal] = {}
        self.to_be_removed: dict[str, Replica] = {}
        self._departed: collections.deque[str] = collections.deque()
        self._former_names = FormerNames()
        self._replicas: dict[str, Replica] = {}
        self._everyone = Ordered()
        self._levels = Levels()
        self._spares = Spares()
        self._spread = Levels(is_spread=True) if spreads_in_panic and panic_percent > 0 else None
        self._spread_since = -math.inf
        self._touched: dict[Replica, None] = {}
        self._moved: set[Replica] = set()  # those of the touched ones that came, left, or have another order
        self._is_rebuilt = True
        self._preference: tuple[Replica, ...] | None = ()
        self._handles: WeakValueDictionary[str, Replica] = WeakValueDictionary()  # of those that are not shown
        self._is_withheld = False
        self._is_settled = True
        self._ended: Mapping[str, float] = {}
        self.cooling: frozenset[str] = frozenset()

    def all(self) -> tuple[Replica, ...]:
        """Return the registered replicas in order."""
        return self._everyone.copy()

    @property
    def preference(self) -> tuple[Replica, ...]:
        """All selectable replicas, best first; empty while the view is withheld."""
        if self._preference is None:
            self._preference = () if self._is_withheld else tuple(self._levels)
        return self._preference

    def key_of(self, target: Replica | str) -> str:
        """Return the canonical url of a replica given by handle, url in any spelling, or name.

        Raises:
            ConfigError: The url is not valid.
            UnknownReplica: No replica has that name, or several replicas have it. The message suggests the nearest
                name.
            UsageError: It is none of these.
        """
        if isinstance(target, Replica):
            return target.key
        if not isinstance(target, str):
            raise UsageError(f"a replica is given by its handle, url or name, got {target!r}")
        if "://" in target:
            return canonical_url(target)
        named = [replica.key for replica in self._everyone.replicas if replica.name == target]
        if len(named) > 1:
            raise UnknownReplica(f"several replicas have the name {target!r}; give the url of one")
        if not named:
            raise UnknownReplica(f"no replica has the name {target!r}{self._nearest_to(target)}")
        return named[0]

    def known_keys_of(self, targets: Iterable[Replica | str]) -> set[str]:
        """Return the canonical urls of replicas that this view shows or has shown, as `key_of` does.

        Raises:
            ConfigError: As `key_of`.
            UnknownReplica: As `key_of`; or no replica has one of the urls.
            UsageError: As `key_of`; or this is one text in place of several replicas.
        """
        keys: set[str] = set()
        for target in each_of(targets):
            former = self._former_names.key_of(target)
            key = former if former and not self._has_name(target) else self.key_of(target)
            is_known = key == former or key in self._replicas or key in self.removed or key in self._handles
            if isinstance(target, str) and not is_known:
                raise UnknownReplica(f"no replica has the url {key}{self._nearest_to(key)}")
            keys.add(key)
        return keys

    def _has_name(self, name: Replica | str) -> bool:
        return any(replica.name == name for replica in self._everyone.replicas)

    def _nearest_to(self, text: str) -> str:
        texts = [text for replica in self._everyone.replicas for text in (replica.key, replica.name) if text]
        near = difflib.get_close_matches(text, texts, 1)
        return f"; did you mean {near[0]!r}?" if near else "; see `shared-registry status` for all replicas"

    def get(self, key: str) -> Replica | None:
        """Return the handle of the replica with this canonical url."""
        return self._replicas.get(key)

    def handle(self, record: ReplicaRecord) -> Replica:
        """Return the handle of a replica that the view may not show. A new handle gets this record."""
        replica = self._replicas.get(record.key) or self._handles.get(record.key)
        if replica is None:
            replica = self._handles[record.key] = Replica.of(record)
        return replica

    def show_configured(self, endpoints: Iterable[ReplicaEndpoint]) -> None:
        """Show these endpoints with status unknown, in the order that registering them one by one would give."""
        records: dict[str, ReplicaRecord] = {}
        next_order = 0
        for endpoint in endpoints:
            order = next_order if endpoint.order is None else endpoint.order
            next_order = max(next_order, order + 1)
            record = Replica(replace(endpoint, order=order)).record
            records[record.key] = record
        self.replace_all(records)

    def set_health(self, replica: Replica, health: ReplicaHealth) -> None:
        """Set the health that the view shows of a replica."""
        self._set(replica, replace(replica.record, health=health))
        self._prepare()

    def replace_all(self, records: Mapping[str, ReplicaRecord], removed: Mapping[str, Removal] | None = None) -> None:
        """Show exactly these records, after all state was read anew."""
        self.removed = dict(removed or {})
        for key in self._replicas.keys() - records.keys():
            self._drop(key)
        for key, record in records.items():
            replica = self._replicas.get(key)
            if replica is None:
                self._show(key, record)
            elif replica.record is not record:
                self._set(replica, record)
        self._prepare()

    async def load(self, records: Mapping[str, ReplicaRecord], removed: Mapping[str, Removal]) -> None:
        """Do as `replace_all`, and let the event loop run in between.

        Until the end the view shows a part of the replicas as they were read and a part as they were before.
        """
        breath, present, later = Breath(), self._replicas, self.selection.later
        with later.in_pieces():
            for key, record in records.items():
                replica = present.get(key)
                if replica is not None:
                    if not is_later(replica.record.revision, record.revision):
                        self._set(replica, record)
                elif is_later(record.revision, self.removed.get(key, _NOT_REMOVED).revision):
                    self._show(key, record)
                if len(self._touched) >= AT_ONCE or breath.is_over:
                    self._prepare()
                    await breath.pause()
            while not later.is_done:
                later.do_piece()
                await asyncio.sleep(0)
            self.replace_all(records, removed)

    def read(self, records: Iterable[ReplicaRecord]) -> None:
        """Take over records that were read. Older revisions and unknown replicas are ignored."""
        for record in records:
            if replica := self._replicas.get(record.key):
                self._set(replica, replica.record.after_read(record))
        self._prepare()

    def apply(self, records: Iterable[ReplicaRecord]) -> None:
        """Take over the records of events, in the order of the events. Older revisions are ignored."""
        self._take(records)
        self._prepare()

    def follow(self, events: Iterable[Event]) -> tuple[list[Event], bool]:
        """Take over events, in their order. Older revisions are ignored.

        Returns:
            The events for listeners, those of several replicas by `Event.with_changed` and without those about removed
            replicas only; and whether the view had all replicas of `changes` as they were before.
        """
        told: list[Event] = []
        has_all = True
        for event in events:
            if event.changes:
                changed: list[ReplicaRecord] = []
                has_all = self._take_changes(event, changed) and has_all
                if changed:
                    told.append(event.with_changed(changed))
            else:
                told.append(event)
                self._take(event.records(self._record))
        self._prepare()
        return told, has_all

    def _record(self, key: str) -> ReplicaRecord | None:
        replica = self._replicas.get(key)
        return None if replica is None else replica.record

    def _take(self, records: Iterable[ReplicaRecord]) -> None:
        for record in records:
            replica = self._replicas.get(record.key)
            if record.admin is AdminState.REMOVED:
                self._remove(replica, record)
            elif replica is not None:
                self._set(replica, replica.record.after_event(record))
            elif is_later(record.revision, self.removed.get(record.key, _NOT_REMOVED).revision):
                self._show(record.key, record)

    def _take_changes(self, event: Event, changed: list[ReplicaRecord]) -> bool:
        """Take over the changes of an event, and list its replicas. Return whether all were here as before the event.

        A burst has thousands of changes, and each router takes over all of them. So this does less than `_set`: a
        change of status leaves endpoints, names and drains as they are, and ends ejections.
        """
        has_all, find, after = True, self._replicas.get, event.after
        for change in event.changes:
            replica = find(change.key)
            if replica is None:
                removed = self.removed.get(change.key, _NOT_REMOVED)
                has_all = has_all and not is_later(event.id, removed.revision)
                continue
            known = replica.record
            if known.revision != event.id:
                record = after(change, known)
                if known.revision == change.before:
                    replica.record = record
                    self._note_status(replica, known, record)
                elif is_later(event.id, known.revision):
                    has_all = False
                changed.append(record)
            else:
                changed.append(known)  # the reply to a command of this router has brought the event before
        return has_all

    def _note_status(self, replica: Replica, former: ReplicaRecord, present: ReplicaRecord) -> None:
        is_selectable = present.is_selectable
        if former.is_selectable is not is_selectable:
            self._touched[replica] = None
        elif not is_selectable and self._panic_percent > 0:
            self._put_spares((replica,))

    def look_at_clock(self) -> None:
        """Find anew whether there is panic, if a replica has not answered for an hour since the last change."""
        if self.panic is not None and self._now() > self.panic.until:
            self._prepare()

    @property
    def spares(self) -> tuple[Replica, ...]:
        """The replicas that are not healthy and may take sessions for which no healthy one has room; empty if none."""
        return self.panic.spares if self.panic else ()

    @property
    def is_spread(self) -> bool:
        """Whether selections are spread over all active replicas that answered lately, because of a panic."""
        return self.panic is not None and self._spread is not None

    @property
    def ejected(self) -> dict[str, float]:
        """The end of each ejection by canonical url, in seconds since the Unix epoch on the Redis server's clock."""
        return {
            replica.key: replica.record.ejected_until
            for replica in self._everyone.replicas
            if replica.record.ejected_until is not None
        }

    def end_ejections(self, ended: Mapping[str, float]) -> None:
        """End these ejections in this view, also if records are read again that show them.

        Args:
            ended: The end of each ejection by canonical url, as the records have it. They replace those of the last
                call.
        """
        self._ended = ended
        for key in ended:
            if (replica := self._replicas.get(key)) and replica.record.ejected_until == ended[key]:
                self._set(replica, replace(replica.record, ejected_until=None))
        self._prepare()

    def withhold(self, is_withheld: bool) -> None:  # noqa: FBT001  the state to set
        """Stop offering replicas for selection, or offer them again."""
        self._is_withheld = is_withheld
        self._preference = None
        self._prepare()

    def cool(self, keys: Iterable[str]) -> None:
        """Put these replicas, and no others, last. They are selected only if no other replica can be."""
        before, self.cooling = self.cooling, frozenset(keys)
        for key in before ^ self.cooling:
            if replica := self._replicas.get(key):
                self._touched[replica] = None
        self._prepare()

    def ramp(self, shares: Mapping[str, float], ramping: Collection[str]) -> None:
        """Give replicas that ramp up only a part of their weights.

        Args:
            shares: The part of the weight by canonical url, for replicas that do not have their full weight yet.
            ramping: See the attribute.
        """
        self.ramping = ramping
        if shares == self._shares:
            return
        before, self._shares = self._shares, shares
        keys = [key for key, share in shares.items() if before.get(key) != share]
        keys += [key for key in before if key not in shares]
        replicas = [replica for key in keys if (replica := self._replicas.get(key))]
        for levels in self._all_levels():
            levels.ramp(shares, replicas)
        self._prepare()

    def settle(self) -> bool:
        """Give some more replicas the weights that they should have by now. Return whether all have them.

        After `ramp` in a large view some replicas have their former weights until this has been called often enough.
        """
        self._prepare()
        return self._is_settled

    def _show(self, key: str, record: ReplicaRecord) -> None:
        replica = self._replicas.get(key) or self._handles.pop(key, None) or Replica.of(record)
        if replica.name != record.endpoint.name:
            self._former_names.note(replica)
        self._change(replica, self._without_ended(record))
        self._replicas[key] = replica
        self._touched[replica] = None
        self._moved.add(replica)
        self._note_drain(replica)
        self.removed.pop(key, None)

    def _drop(self, key: str) -> None:
        replica = self._handles[key] = self._replicas.pop(key)
        self.to_be_removed.pop(key, None)
        self.selection.loads.forget(replica)
        self._former_names.note(replica)
        self._touched[replica] = None
        self._moved.add(replica)
        replica.record = replace(replica.record, admin=AdminState.REMOVED)

    def _remove(self, replica: Replica | None, record: ReplicaRecord) -> None:
        if replica is None:
            if is_later(record.revision, self.removed.get(record.key, _NOT_REMOVED).revision):
                self._note_removal(record)
        elif is_later(record.revision, replica.record.revision):
            self._drop(record.key)
            self._change(replica, record)
            self._note_removal(record)

    def _note_removal(self, record: ReplicaRecord) -> None:
        """Remember a removal. Of those that do not last only the latest are remembered: pods come and go."""
        removal = self.removed[record.key] = Removal.of(record)
        if not removal.is_lasting:
            self._departed.append(record.key)
            if len(self._departed) > DEPARTED_AT_MOST:
                oldest = self._departed.popleft()
                if oldest in self.removed and not self.removed[oldest].is_lasting and oldest not in self._departed:
                    del self.removed[oldest]

    def _set(self, replica: Replica, record: ReplicaRecord) -> None:
        if record.endpoint.name != replica.name:
            self._former_names.note(replica)
        former, present = replica.record, self._without_ended(record)
        self._change(replica, present)
        if present.removes_when_drained or former.removes_when_drained:
            self._note_drain(replica)
        if former.endpoint != present.endpoint:
            self._touched[replica] = None
        else:
            self._note_status(replica, former, present)

    def _change(self, replica: Replica, record: ReplicaRecord) -> None:
        if record.endpoint.order != replica.record.endpoint.order:
            self._moved.add(replica)
            self._everyone.hold(replica)
            for levels in self._all_levels():
                levels.hold(replica)
        replica.record = record

    def _note_drain(self, replica: Replica) -> None:
        if replica.record.removes_when_drained:
            self.to_be_removed[replica.record.key] = replica
        else:
            self.to_be_removed.pop(replica.record.key, None)

    def _without_ended(self, record: ReplicaRecord) -> ReplicaRecord:
        if record.ejected_until is None or self._ended.get(record.key) != record.ejected_until:
            return record
        return replace(record, ejected_until=None)

    def _all_levels(self) -> tuple[Levels, ...]:
        return (self._levels,) if self._spread is None else (self._levels, self._spread)

    def _prepare(self) -> None:
        """Take over what was touched, and prepare the policies for it."""
        is_rebuilt = self._is_rebuilt or len(self._touched) * MOST_TOUCHED > len(self._replicas)
        if is_rebuilt:
            self._rebuild()
        else:
            self._place(self._touched)
        if self._touched or is_rebuilt:
            self._preference = None
        self._touched, self._is_rebuilt = {}, False
        self._moved.clear()
        self._is_settled = True
        for levels in self._all_levels():
            self._is_settled = levels.settle(AT_ONCE) and self._is_settled
        self.first = None if self._is_withheld else self._levels.first
        self.panic = self._find_panic()
        if self.panic is not None and self._spread is not None:
            self.selection.prepare(self._spread, is_spread=True, is_withheld=self._is_withheld)
        else:
            self.selection.prepare(self._levels, is_withheld=self._is_withheld)
        self.choose = self.selection.choose

    def _rebuild(self) -> None:
        """Put all replicas in order anew."""
        self._everyone.replace(sorted(self._replicas.values(), key=position_of))
        replicas = self._everyone.replicas
        able = [one for one in replicas if one.record.is_selectable]
        self._levels.fill(able, self.cooling)
        if self._panic_percent > 0:
            self._spares.fill(one for one in replicas if not one.record.is_selectable)
        if self._spread is not None:
            self._spread_since = self._now() - ANSWERED_SECONDS
            spares = self._spares.answered_between(self._spread_since, math.inf)
            self._spread.fill(sorted([*able, *spares], key=position_of), self.cooling)

    def _place(self, touched: Collection[Replica]) -> None:
        """Move replicas to where they belong now."""
        gone = {one for one in self._moved if self._replicas.get(one.key) is not one}
        if self._moved:
            self._everyone.drop(gone)
            self._everyone.put(self._moved - gone)
        able = [one for one in touched if one.record.is_selectable and one not in gone]
        unable = [one for one in touched if one in gone or not one.record.is_selectable]
        self._levels.drop(unable)
        self._levels.place(able, self.cooling)
        if self._panic_percent > 0:
            self._spares.drop(able)
            if gone:
                self._spares.drop(gone)
                unable = [one for one in unable if one not in gone]
            self._put_spares(unable)
            if self._spread is not None:
                self._spread.drop(gone)
                self._spread.place(able, self.cooling)

    def _put_spares(self, replicas: Collection[Replica]) -> None:
        """Take over replicas of the view that are not selectable."""
        late = self._spares.put(replicas, since=self._spread_since)
        if self._spread is not None:
            self._spread.drop(late)
            self._spread.place([one for one in replicas if one not in late], self.cooling)

    def _find_panic(self) -> Panic | None:
        if self._is_withheld:
            return None
        panic = self._spares.find_panic(len(self._levels), self._panic_percent, now=self._now)
        if panic is not None and self._spread is not None:
            before, self._spread_since = self._spread_since, panic.since
            self._spread.drop(self._spares.answered_between(before, panic.since))
            self._spread.place(self._spares.answered_between(panic.since, before), self.cooling)
        return panic
