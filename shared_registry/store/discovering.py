"""The verbs by which the leader writes what it has discovered."""

from __future__ import annotations

from typing import Literal

from shared_registry.aio.completion import completed
from shared_registry.errors import Fenced, ReplicaClaimed
from shared_registry.model import Event, ReplicaEndpoint, Source, Term
from shared_registry.store.answers import BeginWrite, events_of, expect, new_token
from shared_registry.store.channel import Channel
from shared_registry.store.replica_fields import spec_fields

WantedState = Literal["active", "draining", "gone", "missing", "found"]


class DiscoveryCommands:
    """The part of `Store` for discovery. Its calls use the lane of the heartbeats, and are completed if cancelled."""

    _router: str
    _control: Channel
    _begin_write: BeginWrite

    async def register_discovered(self, term: Term, source: str, key: str, endpoint: ReplicaEndpoint) -> bool:
        """Register a replica of a source of discovery, or change its spec.

        Args:
            term: The leader's term.
            source: The source, such as `dns:pods`.
            key: The canonical url.
            endpoint: A validated spec.

        Returns:
            Whether the replica is registered; `False` if an operator has removed it.

        Raises:
            Fenced: The term is over; nothing was written.
            ReplicaClaimed: The replica came by another way; nothing was written.
        """
        order = "" if endpoint.order is None else str(endpoint.order)
        spec = [text for pair in spec_fields(endpoint).items() for text in pair]
        mode = f"{source} {term.token} {term.epoch}"
        take = self._begin_write()
        reply = await completed(
            self._control.run(
                "register_replica", [mode, new_token(), new_token(), self._router, source, key, order, *spec]
            )
        )
        status = expect(reply, "created", "updated", "unchanged", "tombstone", "fenced", "claimed")
        if status == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; its registration of {key} was refused")
        if status == "claimed":
            raise claimed(key, *reply.values)
        events_of(reply.values, take)
        return status != "tombstone"

    async def govern(
        self, term: Term, source: str, key: str, state: WantedState, *, reason: str = ""
    ) -> list[Event] | None:
        """Put a discovered replica in service, drain it, or withdraw it. An operator's word wins.

        Args:
            term: The leader's term.
            source: The source that the replica belongs to.
            key: The canonical url.
            state: What its source says. A replica that is `gone` is removed with its last session. `missing` and
                `found` only note since when the source does not have it.
            reason: Why.

        Returns:
            The event, an empty list if nothing changed, or `None` if no such replica belongs to the source.

        Raises:
            Fenced: The term is over; nothing was written.
        """
        take = self._begin_write()
        words = [term.token, str(term.epoch), source, key, state, self._router, reason]
        reply = await completed(self._control.run("govern_replica", words))
        status = expect(reply, "set", "draining", "removed", "unchanged", "noted", "not_found", "fenced")
        if status == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; its change of {key} was refused")
        return None if status == "not_found" else events_of(reply.values, take)


def claimed(key: str, source: str, owner: str = "") -> ReplicaClaimed:
    """Return the error for a replica that came by another way."""
    if source == Source.ANNOUNCED:
        return ReplicaClaimed(f"{key} is announced by {owner or 'another program'}, which alone changes it")
    return ReplicaClaimed(f"{key} came by another way ({source}), by which alone it is changed")
