"""The verbs of programs that announce a replica: announce, beat, withdraw. Their callers need not be routers."""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.errors import StoreError
from shared_registry.model import ReplicaEndpoint, Source
from shared_registry.store.answers import BeginWrite, events_of, expect, flag, new_token
from shared_registry.store.channel import Channel
from shared_registry.store.codec import milliseconds
from shared_registry.store.replica_fields import spec_fields
from shared_registry.store.replies import Announced, AnnouncedAs, Beat, BeatWord, Withdrawal, Withdrawn


class AnnouncementCommands:
    """The part of `Store` for announced replicas. Its calls use the lane of sessions and operators."""

    _router: str
    _sessions: Channel
    _begin_write: BeginWrite

    async def announce(
        self,
        key: str,
        endpoint: ReplicaEndpoint,
        *,
        owner: str,
        instance: str,
        ttl_seconds: float,
        request: str = "",
        by: str = "",
    ) -> Announced:
        """Register a replica for an instance, or change its spec, and count as its heartbeat.

        Repeating the call is safe. An instance whose replica has expired gets it back; the admin state that an
        operator gave to a replica of this name or url is kept.

        Args:
            key: The canonical url.
            endpoint: A validated spec.
            owner: The name of the instance for people, such as that of its pod or machine.
            instance: The id of the instance, new at each start; see `new_token`.
            ttl_seconds: How long the replica stays in service without a heartbeat.
            request: An id from `new_token`, the same for all repetitions of one request; by default a new one.
            by: The person or program that requested it; by default the owner.

        Raises:
            StoreError: Redis did not accept the call.
        """
        order = "" if endpoint.order is None else str(endpoint.order)
        held_by = {"owner": owner, "instance": instance, "ttl_ms": milliseconds(ttl_seconds)}
        spec = [text for pair in (spec_fields(endpoint) | held_by).items() for text in pair]
        head = [Source.ANNOUNCED.value, request or new_token(), new_token(), self._router, by or owner, key, order]
        take = self._begin_write()
        reply = await self._sessions.run("register_replica", [*head, *spec])
        word = expect(reply, *_ANNOUNCED)
        if word == "taken":
            return Announced(AnnouncedAs.TAKEN, holder=reply.values[0])
        if word == "claimed":
            return Announced(AnnouncedAs.CLAIMED, source=reply.values[0])
        return Announced(_ANNOUNCED[word], events=events_of(reply.values, take))

    async def beat(self, key: str, instance: str) -> Beat:
        """Send the heartbeat of an instance for its replica. See `beats`."""
        return (await self.beats([(key, instance)]))[0]

    async def beats(self, held: Sequence[tuple[str, str]]) -> list[Beat]:
        """Send the heartbeats of instances for their replicas, in one call.

        Args:
            held: Canonical url and instance of each replica; at most about 100.

        Raises:
            StoreError: Redis did not accept the call.
        """
        reply = await self._sessions.run("beat_replicas", [text for pair in held for text in pair])
        expect(reply, "beaten")
        if len(reply.values) != 2 * len(held):
            raise StoreError("a command answered for another number of replicas")
        pairs = zip(reply.values[::2], reply.values[1::2], strict=True)
        return [_beat(BeatWord(word), detail) for word, detail in pairs]

    async def withdraw(
        self, key: str, instance: str, *, by: str = "", reason: str = "", when_drained: bool = False
    ) -> Withdrawal:
        """Remove a replica, or let it drain first, if it still belongs to that instance. Repeating the call is safe.

        Args:
            key: The canonical url.
            instance: The instance that announced it.
            by: The person or program that requested it.
            reason: The reason, for the event.
            when_drained: Whether to drain the replica first if it has sessions. The end of the last one removes it.

        Raises:
            StoreError: Redis did not accept the call.
        """
        take = self._begin_write()
        args = [key, instance, self._router, by, reason, flag(when_drained)]
        reply = await self._sessions.run("withdraw_replica", args)
        word = Withdrawn(expect(reply, *(one.value for one in Withdrawn)))
        if word is Withdrawn.TAKEN:
            return Withdrawal(word, holder=reply.values[0])
        return Withdrawal(word, events=events_of(reply.values, take))


def _beat(word: BeatWord, detail: str) -> Beat:
    if word in (BeatWord.HELD, BeatWord.DRAINING):
        return Beat(word, in_flight=int(detail))
    return Beat(word, holder=detail) if word is BeatWord.TAKEN else Beat(word, source=detail)


_ANNOUNCED = {
    "created": AnnouncedAs.CREATED,
    "updated": AnnouncedAs.UPDATED,
    "unchanged": AnnouncedAs.UNCHANGED,
    "tombstone": AnnouncedAs.REMOVED,
    "withdrawn": AnnouncedAs.WITHDRAWN,
    "taken": AnnouncedAs.TAKEN,
    "claimed": AnnouncedAs.CLAIMED,
}
