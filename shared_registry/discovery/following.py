"""Brings the registry to what one source of discovery answers."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from shared_registry.aio.clock import Clock
from shared_registry.discovery.answer import Found, SourceAnswer
from shared_registry.discovery.vanishing import Vanishing
from shared_registry.errors import Fenced, KeyConflict, ReplicaClaimed, StoreError
from shared_registry.model import AdminState, Event, ReplicaEndpoint, ReplicaRecord, Term
from shared_registry.selection.view import View
from shared_registry.store.discovering import WantedState, claimed
from shared_registry.urls import canonical_url

REMOVED = "removed"
logger = logging.getLogger(__name__)


class DiscoveryStore(Protocol):
    """The part of the store for discovery."""

    async def register_discovered(self, term: Term, source: str, key: str, endpoint: ReplicaEndpoint) -> bool:
        """See `DiscoveryCommands`."""

    async def govern(
        self, term: Term, source: str, key: str, state: WantedState, *, reason: str = ""
    ) -> list[Event] | None:
        """See `DiscoveryCommands`."""


@dataclass(slots=True)
class FollowedSource:
    """What is known of a source in one term of the leader, for operators.

    Attributes:
        clock: Tells the age.
        answered_at: When it last gave an answer that could be believed, by the monotonic clock; `None` if it has not.
        failures: How many answers were failures.
        failure: Why the last answer was one; empty if it was none.
        held: How many replicas are missing in the answers and stay in the registry.
    """

    clock: Clock
    answered_at: float | None = None
    failures: int = 0
    failure: str = ""
    held: int = 0

    @property
    def age_seconds(self) -> float | None:
        """How long ago it last gave an answer that could be believed; `None` if it has not."""
        return None if self.answered_at is None else self.clock.monotonic() - self.answered_at


class Following:
    """Follows one source for one term of the leader."""

    def __init__(self, store: DiscoveryStore, view: View, source: str, *, confirm_seconds: float, clock: Clock) -> None:
        """Set up.

        Args:
            store: Writes what was discovered.
            view: Shows what the registry has.
            source: The source, such as `dns:pods`.
            confirm_seconds: See `Vanishing`.
            clock: The monotonic clock.
        """
        self.state = FollowedSource(clock)
        self._store = store
        self._view = view
        self._source = source
        self._clock = clock
        self._vanishing = Vanishing(confirm_seconds)
        self._was_said: dict[str, str] = {}
        self._were_told: dict[str, WantedState] = {}
        self._noted: set[str] = set()
        self._cleared: set[str] = set()

    async def take(self, term: Term, answer: SourceAnswer) -> None:
        """Write what an answer changes. If Redis fails, the next answer continues.

        Args:
            term: The leader's term.
            answer: The answer.

        Raises:
            Fenced: The term is over.
        """
        if answer.failure:
            self._note_failure(answer.failure)
            return
        if self.state.failure:
            logger.info("discovery: %s answers again", self._source)
        self.state.failure, self.state.answered_at = "", self._clock.monotonic()
        found = {canonical_url(one.endpoint.url): one for one in answer.found}
        self._forget_said(found)
        try:
            await self._take_found(term, found)
            if not answer.is_partial:
                await self._take_missing(term, found)
        except Fenced:
            raise
        except StoreError as error:
            if self._is_news("redis", "failing"):
                logger.warning("discovery: what %s has cannot be written yet: %s", self._source, error)
        else:
            self._was_said.pop("redis", None)

    async def _take_found(self, term: Term, found: Mapping[str, Found]) -> None:
        for key, one in found.items():
            replica = self._view.get(key)
            record = replica.record if replica is not None else None
            try:
                await self._take_one(term, key, one, record)
            except ReplicaClaimed as error:
                if self._is_news(key, str(error)):
                    logger.warning("discovery: %s has a replica that stays as it is: %s", self._source, error)
            except KeyConflict as error:
                if self._is_news(key, str(error)):
                    logger.warning("discovery: %s: replica %s cannot be registered: %s", self._source, key, error)

    async def _take_one(self, term: Term, key: str, one: Found, record: ReplicaRecord | None) -> None:
        if record is None:
            removal = self._view.removed.get(key)
            stays_removed = removal is not None and removal.is_lasting and self._was_said.get(key) == REMOVED
            if one.is_new_welcome and not stays_removed:
                await self._register(term, key, one.endpoint)
                await self._serve(term, key, None, one)
            return
        if record.source != self._source:
            raise claimed(key, record.source)
        endpoint = one.endpoint
        if one.keeps_capacity:
            endpoint = dataclasses.replace(endpoint, capacity=record.endpoint.capacity)
        if _differs(record.endpoint, endpoint):
            await self._register(term, key, endpoint)
        if not one.keeps_state or record.withdrawn_at is not None:
            await self._serve(term, key, record, one)

    async def _register(self, term: Term, key: str, endpoint: ReplicaEndpoint) -> None:
        is_there = await self._store.register_discovered(term, self._source, key, endpoint)
        if not is_there and self._is_news(key, REMOVED):
            logger.warning(
                "discovery: %s has replica %s, which an operator removed and which stays removed; "
                "bring it back with shared-registry add",
                self._source,
                key,
            )

    async def _serve(self, term: Term, key: str, record: ReplicaRecord | None, one: Found) -> None:
        """Drain a replica, or put it in service, if its source says so now and an operator says nothing else."""
        wanted: WantedState = "draining" if one.draining else "active"
        if not self._is_served(key, record, wanted):
            await self._store.govern(term, self._source, key, wanted, reason=one.draining)
        self._were_told[key] = wanted

    def _is_served(self, key: str, record: ReplicaRecord | None, wanted: WantedState) -> bool:
        if record is None:
            return wanted == "active"
        if record.withdrawn_at is not None:
            return False
        if wanted == "active":
            return record.admin is AdminState.ACTIVE or record.admin_by != self._source
        is_operators = record.admin_by not in ("", self._source)
        return record.admin is not AdminState.ACTIVE or (is_operators and self._were_told.get(key) == wanted)

    async def _take_missing(self, term: Term, found: Mapping[str, Found]) -> None:
        owned = [
            replica.key
            for replica in self._view.all()
            if replica.record.source == self._source and not replica.record.removes_when_drained
        ]
        now = self._clock.monotonic()
        gone = self._vanishing.judge(owned, found, now)
        held = self._vanishing.held
        if held:
            if self._is_news("held", str(len(held))):
                logger.warning(
                    "discovery: %d of %d replicas are missing in the answers of %s, and stay until confirmed",
                    len(held),
                    len(owned),
                    self._source,
                )
        elif self.state.held:
            self._was_said.pop("held", None)
        self.state.held = len(held)
        for key in gone:
            logger.info("discovery: %s does not have replica %s any more; it is removed", self._source, key)
            await self._store.govern(term, self._source, key, "gone", reason=f"not in {self._source} any more")
            self._were_told.pop(key, None)
            self._vanishing.went([key], now)
        for key in sorted(set(owned) - set(gone)):
            with contextlib.suppress(KeyConflict):  # what is registered of it cannot be read by `status` either
                await self._note_held(term, key, is_held=key in held)

    async def _note_held(self, term: Term, key: str, *, is_held: bool) -> None:
        """Note in the registry that a replica is missing and stays, or that it does not any more, for `status`.

        An earlier leader may have noted it; what this router has read of that may be old, so it is cleared once.
        """
        replica = self._view.get(key)
        is_left_over = replica is not None and replica.record.missing_since is not None and key not in self._cleared
        if is_held and key not in self._noted:
            await self._store.govern(term, self._source, key, "missing")
            self._noted.add(key)
        elif not is_held and (key in self._noted or is_left_over):
            await self._store.govern(term, self._source, key, "found")
            self._noted.discard(key)
            self._cleared.add(key)

    def _note_failure(self, failure: str) -> None:
        self.state.failures += 1
        if failure != self.state.failure:
            logger.warning("discovery: %s: %s; the replicas stay as they are", self._source, failure)
        self.state.failure = failure

    def _is_news(self, about: str, text: str) -> bool:
        """Return whether a warning was not logged yet, or has changed since, and note it as logged."""
        is_news = self._was_said.get(about) != text
        self._was_said[about] = text
        return is_news

    def _forget_said(self, found: Mapping[str, Found]) -> None:
        for about in [about for about in self._was_said if "://" in about and about not in found]:
            del self._was_said[about]


def _differs(known: ReplicaEndpoint, wanted: ReplicaEndpoint) -> bool:
    """Return whether a spec is another one; without an order, the replica keeps the order that it has."""
    return known != (wanted if wanted.order is not None else dataclasses.replace(wanted, order=known.order))
