"""Redis Cluster: a client of the one node that serves a namespace.

All keys of a namespace are in one hash slot, so a registry needs only one node. redis-py's own cluster client depends
on other nodes too: it asks one node which keys an XREAD names, and asks no other node if that one is dead.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis

from shared_registry.store.multiplexed import MultiplexedClient
from shared_registry.store.pools import RenewingPool
from shared_registry.store.slot_owner import Address, SlotOwner

REDIRECTS = 5
RETRIES = 8
RETRY_SECONDS = 0.05
SCRIPT_COMMANDS = ("EVAL", "EVALSHA")
"""They are not sent after a key that has moved while its hash slot is being migrated. The other keys of the namespace
may not have moved yet: the script would find them missing, and make them anew, so that they could not move any more."""


class SlotClient(Redis):
    """A client of the node that serves the hash slot.

    It follows redirections, which is safe because a redirected command was not executed. While the hash slot is being
    migrated, scripts are not redirected: `AskError` is raised.
    """

    owner: SlotOwner
    make_pool: Callable[..., ConnectionPool]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute a command at the node that serves the hash slot, and follow redirections."""
        execute = functools.partial(super().execute_command, *args, **options)
        try:
            return await self._redirected(execute)
        except exceptions.AskError as error:
            if isinstance(error, exceptions.MovedError) or args[0] in SCRIPT_COMMANDS:
                raise
            return await self._execute_at(self.owner.address_of(error), args, options)

    async def _redirected(self, execute: Callable[[], Awaitable[Any]]) -> Any:
        """Execute, and again at the right node after a redirection other than ASK."""
        for redirect in range(REDIRECTS + RETRIES):
            try:
                return await execute()
            except exceptions.AskError as error:
                if not isinstance(error, exceptions.MovedError) or redirect >= REDIRECTS:
                    raise
                self.owner.moved(error)
            except exceptions.TryAgainError:
                if redirect + 1 >= RETRIES:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
        raise exceptions.ClusterError("the nodes of the cluster do not agree on who serves the namespace's slot")

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:  # noqa: FBT001, FBT002  redis-py's
        """Return a pipeline. Commands of it that are redirected are executed one by one at the right node."""
        pipeline: Any = super().pipeline(transaction, shard_hint)
        execute = pipeline.execute

        async def execute_redirected(raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002  redis-py's
            return await self._execute_all(list(pipeline.command_stack), execute, raise_on_error=raise_on_error)

        pipeline.execute = execute_redirected
        return pipeline

    async def _execute_all(
        self,
        commands: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]],
        execute: Callable[..., Awaitable[list[Any]]],
        *,
        raise_on_error: bool,
    ) -> list[Any]:
        replies = await execute(raise_on_error=False)
        for at, (args, options) in enumerate(commands):
            if isinstance(replies[at], exceptions.AskError | exceptions.TryAgainError):
                try:
                    replies[at] = await self.execute_command(*args, **options)
                except exceptions.ResponseError as error:
                    replies[at] = error
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    async def _execute_at(self, address: Address, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Execute a command at the node to which its key has moved while the hash slot is being migrated."""
        async with Redis.from_pool(self.make_pool(host=address[0], port=address[1])) as node:
            pipeline = node.pipeline(transaction=False)
            pipeline.execute_command("ASKING")
            pipeline.execute_command(*args, **options)
            _, reply = await pipeline.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        return reply


class MultiplexedSlotClient(SlotClient, MultiplexedClient):  # type: ignore[misc]  # redis-py's
    """A `SlotClient` over one connection."""

    def call_script(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Execute a script at the node that serves the hash slot."""
        return self._redirected(functools.partial(super().call_script, *args, **options))


def connect_to_owner(
    client_class: type[SlotClient],
    owner: SlotOwner,
    base: type[Any],
    options: Mapping[str, Any],
    *,
    max_connections: int,
) -> Any:
    """Return a client whose connections lead to the node that serves a hash slot.

    Args:
        client_class: The class of the client.
        owner: Finds the node.
        base: The class of connections.
        options: Options of a connection to any node.
        max_connections: The maximum number of connections.
    """

    class OwnerConnection(base):  # type: ignore[misc]
        async def connect(self) -> None:
            if self.is_connected:
                return
            self.host, self.port = await owner.address()
            try:
                await super().connect()
            except BaseException:
                owner.doubt()
                raise

    pool = RenewingPool(connection_class=OwnerConnection, max_connections=max_connections, timeout=None, **options)
    client: Any = client_class.from_pool(pool)
    client.owner = owner
    client.make_pool = functools.partial(ConnectionPool, connection_class=base, **options)
    return client
