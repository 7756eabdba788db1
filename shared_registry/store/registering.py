"""The verbs that register replicas of operators and of config files, singly and many at once."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import NamedTuple

from shared_registry.errors import ConfigError, KeyConflict, RegistryError
from shared_registry.model import Event, ReplicaEndpoint, Source
from shared_registry.store.answers import BeginWrite, events_of, expect, new_token
from shared_registry.store.channel import Channel, Reply
from shared_registry.store.discovering import claimed
from shared_registry.store.replica_fields import spec_fields

AT_ONCE = 30
"""How many replicas one call registers. A larger call would keep Redis from other calls for too long."""
UNDER_WAY = 4
"""How many of these calls are under way, so that neither Redis nor this router waits for the other."""
_DONE = ("created", "updated", "unchanged", "tombstone", "overridden")
_REFUSED = ("claimed", "name_taken")
_INDEXING = "indexing"
_Entry = tuple[str, str, ReplicaEndpoint]
"""The id of the request, the canonical url, and the spec."""


class Registered(NamedTuple):
    """What became of one of many registrations.

    Attributes:
        key: The canonical url.
        is_tombstone: A config file does not register the replica, because an operator has removed it.
        error: Why it was refused, as `RegistrationCommands.register` raises it; `None` if it was not.
    """

    key: str
    is_tombstone: bool = False
    error: RegistryError | None = None


class RegistrationCommands:
    """The part of `Store` for registering."""

    _router: str
    _sessions: Channel
    _begin_write: BeginWrite

    async def register(
        self, key: str, endpoint: ReplicaEndpoint, *, mode: Source, request: str, by: str = ""
    ) -> list[Event]:
        """Register a replica or change its spec. Return the event, or an empty list if nothing changed.

        Args:
            key: The canonical url.
            endpoint: A validated spec.
            mode: The source of the spec. A seed does not override what operators have done.
            request: An id from `new_token`, the same for all repetitions of one request.
            by: The person or program that requested it.

        Raises:
            ConfigError: Another registered replica has the name. The message names both urls.
            ReplicaClaimed: The replica announces itself, or was discovered, so that nothing else changes its spec.
        """
        words = [mode.value, request, new_token(), self._router, by, key, _order(endpoint), *_spec(endpoint)]
        take = self._begin_write()
        reply = await self._sessions.run("register_replica", words)
        while reply.status == _INDEXING:  # once, after an earlier version: ends when all replicas were passed over
            take = self._begin_write()
            reply = await self._sessions.run("register_replica", words)
        expect(reply, *_DONE, *_REFUSED)
        if error := _refusal(key, endpoint, reply):
            raise error
        return events_of(reply.values, take)

    async def register_all(
        self,
        endpoints: Mapping[str, ReplicaEndpoint],
        *,
        mode: Source,
        by: str = "",
        new_request: Callable[[], str] = new_token,
    ) -> AsyncGenerator[Registered, None]:
        """Register many replicas, or change their specs, in this order. Yield what became of each.

        Each is registered as by `register`. One that is refused does not affect the others. The mirror learns of all of
        them by the event stream, or by its next full read. After an error the call may be repeated: what is registered
        already does not change.

        Args:
            endpoints: Validated specs by canonical url.
            mode: See `register`.
            by: See `register`.
            new_request: Returns the id of the next request.

        Raises:
            StoreError: Redis did not accept the calls. Some of the replicas may be registered.
        """
        calls: collections.deque[asyncio.Task[list[Registered]]] = collections.deque()
        # The calls are executed in the order in which they are sent, if one connection brings them all.
        most = UNDER_WAY if self._sessions.keeps_order else 1
        try:
            for chunk in _chunks([(new_request(), *pair) for pair in endpoints.items()]):
                calls.append(asyncio.ensure_future(self._register_chunk(chunk, mode.value, by)))
                if len(calls) >= most:
                    for one in await calls[0]:
                        yield one
                    calls.popleft()
            while calls:
                for one in await calls[0]:
                    yield one
                calls.popleft()
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _register_chunk(self, chunk: Sequence[_Entry], mode: str, by: str) -> list[Registered]:
        found: list[Registered] = []
        left = list(chunk)
        while left:
            words = [mode, new_token(), self._router, by]
            for request, key, endpoint in left:
                spec = _spec(endpoint)
                words += [request, key, _order(endpoint), str(len(spec) // 2), *spec]
            reply = await self._sessions.run("register_replicas", words)
            expect(reply, "registered")
            answers, left = list(zip(left, _replies(reply.values), strict=True)), []
            for entry, answer in answers:
                if answer.status == _INDEXING:
                    left.append(entry)
                else:
                    found.append(_registered(entry, answer))
        return found


def _order(endpoint: ReplicaEndpoint) -> str:
    return "" if endpoint.order is None else str(endpoint.order)


def _spec(endpoint: ReplicaEndpoint) -> list[str]:
    return [text for pair in spec_fields(endpoint).items() for text in pair]


def _chunks(entries: Sequence[_Entry]) -> list[Sequence[_Entry]]:
    return [entries[at : at + AT_ONCE] for at in range(0, len(entries), AT_ONCE)]


def _replies(values: Sequence[str]) -> list[Reply]:
    """Return the reply for each entry: its status, and as many values as it says."""
    replies, at = [], 0
    while at < len(values):
        after = at + 2 + int(values[at + 1])
        replies.append(Reply(values[at], list(values[at + 2 : after])))
        at = after
    return replies


def _registered(entry: _Entry, answer: Reply) -> Registered:
    _, key, endpoint = entry
    try:
        status = expect(answer, *_DONE, *_REFUSED)
    except KeyConflict as error:  # the key of this replica is not a hash
        return Registered(key, error=error)
    return Registered(key, status == "tombstone", _refusal(key, endpoint, answer))


def _refusal(key: str, endpoint: ReplicaEndpoint, reply: Reply) -> RegistryError | None:
    if reply.status == "claimed":
        return claimed(key, *reply.values)
    if reply.status == "name_taken":
        return ConfigError(
            f"{endpoint.url} cannot be named {endpoint.name!r}: {reply.values[0]} has this name; "
            "choose another one, or rename or remove that replica first"
        )
    return None
