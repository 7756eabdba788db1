"""Calls of the Lua commands: in their turn, bounded, by digest, answered by a status word and values."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from redis.exceptions import NoScriptError

from shared_registry.store.client import Client, bounded
from shared_registry.store.failover import Failover
from shared_registry.store.keys import Keys
from shared_registry.store.lane import Lane
from shared_registry.store.lua import assemble, command_names


class Reply(NamedTuple):
    """What a command answered."""

    status: str
    values: list[str]


class Script(NamedTuple):
    """A command's text, and its digest."""

    text: str
    digest: str


@functools.cache
def scripts() -> Mapping[str, Script]:
    """Return all commands by name, as read from disk once."""
    texts = {name: assemble(name) for name in command_names()}
    return MappingProxyType(
        {
            name: Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
            for name, text in texts.items()
        }
    )


class Channel:
    """A client, and the lane in which its calls wait for their turn. Safe for concurrent use within an event loop.

    Attributes:
        lane: Who waits.
    """

    def __init__(
        self, client: Client, keys: Keys, lane: Lane, *, timeout_seconds: float, failover: Failover | None = None
    ) -> None:
        """Set up.

        Args:
            client: See `client.connect`.
            keys: The namespace.
            lane: Its calls may take as long as the timeout.
            timeout_seconds: The longest that a call may take, from its turn on.
            failover: What becomes of the connections when the primary is lost.
        """
        self.lane = lane
        self._client = client
        self._key = keys.meta
        self._timeout_seconds = timeout_seconds
        self._failover = failover
        self._scripts = scripts()

    def bounded(self, *, patience_seconds: float | None = None) -> bounded:
        """Bound a block of calls to the client; see `client.bounded`."""
        return bounded(
            self._timeout_seconds, lane=self.lane, patience_seconds=patience_seconds, failover=self._failover
        )

    async def run(
        self,
        name: str,
        args: Sequence[str],
        *,
        patience_seconds: float | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> Reply:
        """Call a command by its digest, and by its text where the server does not know it (a restart, a failover).

        Cancelled it may or may not have been executed.

        Args:
            name: Of the file in `lua/`.
            args: As its header lists them.
            patience_seconds: How long to wait for the turn; `None` for as long as Redis answers.
            on_sent: Called when the turn has come. What it raises ends the call before anything is sent.

        Raises:
            StoreError: See `client.bounded`.
        """
        script = self._scripts[name]
        async with self.bounded(patience_seconds=patience_seconds):
            if on_sent is not None:
                on_sent()
            try:
                reply = await self._client.evalsha(script.digest, 1, self._key, *args)
            except NoScriptError:
                reply = await self._client.eval(script.text, 1, self._key, *args)
        return Reply(reply[0], reply[1:])
