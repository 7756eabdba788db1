"""Redis Cluster: finds the node that serves a namespace.

It asks all nodes at once and takes the answer of the majority. A dead or silent node is one vote less.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from redis import exceptions
from redis.asyncio import Connection
from redis.crc import key_slot

from shared_registry.store.failover import Failover

Address: TypeAlias = tuple[str, int]
Row: TypeAlias = Sequence[Any]

PATIENCE = 1 / 3
"""The share of a call's time in which the nodes must answer. The first answer is awaited longer if necessary."""
ASK_AGAIN_SECONDS = 0.2
_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)


class SlotOwner:
    """Finds the node that serves a hash slot.

    Attributes:
        hosts: The configured nodes. They are always asked, by name, together with the nodes that the cluster reports.
    """

    def __init__(
        self,
        hosts: Sequence[Address],
        *,
        key: str,
        connect: Callable[..., Connection],
        timeout_seconds: float,
        failover: Failover,
    ) -> None:
        """Ask no node before the first call of `address`.

        Args:
            hosts: Nodes of the cluster.
            key: A key in the hash slot; empty if a redirection will name the slot.
            connect: Makes a connection, not connected, to the node with this `host` and `port`.
            timeout_seconds: The maximum time of a call, of which asking the nodes is a part.
            failover: An answer is doubted when the generation of this failover rises.
        """
        self.hosts = hosts
        self._slot = key_slot(key.encode()) if key else None
        self._connect = connect
        self._patience_seconds = timeout_seconds * PATIENCE
        self._failover = failover
        self._known: list[Address] = []
        self._address: Address | None = None
        self._generation = failover.generation
        self._is_doubted = True
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def address(self) -> Address:
        """Return the address of the node that serves the hash slot. Ask the nodes if the known one is in doubt.

        Raises:
            RedisError: No node names the address.
        """
        async with self._lock:
            is_doubted = self._is_doubted or self._generation != self._failover.generation
            if self._address is None or (is_doubted and time.monotonic() - self._asked_at >= ASK_AGAIN_SECONDS):
                generation = self._failover.generation
                address = await self._ask()
                self._asked_at = time.monotonic()
                self._is_doubted = False
                self._generation = generation
                if self._address not in (None, address):
                    self._failover.moved()
                    self._generation = self._failover.generation
                self._address = address
            return self._address

    async def primaries(self) -> list[Address]:
        """Return the addresses of the primaries of all hash slots, as the node that serves this one reports them.

        Raises:
            RedisError: No node names the address of that node, or it does not answer.
        """
        node = await self.address()
        return sorted({_server_address(primary, node) for _, _, primary, *_ in await self._rows_of(node)})

    def doubt(self) -> None:
        """Record that the node could not be reached, so that the nodes are asked before the next connection."""
        self._is_doubted = True

    def moved(self, error: exceptions.MovedError) -> None:
        """Use the slot and the address that a node's redirection names."""
        self._slot = error.slot_id
        address = self.address_of(error)
        if address != self._address:
            self._address = address
            self._asked_at = time.monotonic()
            self._is_doubted = False
            self._failover.moved()
            self._generation = self._failover.generation

    def address_of(self, error: exceptions.AskError) -> Address:
        """Return the address that a redirection names. Without a host, it is the host that sent the redirection."""
        host = error.host or (self._address or self.hosts[0])[0]
        return host, error.port

    async def _ask(self) -> Address:
        nodes = list(dict.fromkeys([*self.hosts, *self._known]))
        asking = {asyncio.create_task(self._rows_of(node)): node for node in nodes}
        try:
            return await self._elect(asking)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _elect(self, asking: Mapping[asyncio.Task[list[Row]], Address]) -> Address:
        """Return the address that more than half of the nodes name, or that most nodes name which answer in time."""
        votes: dict[Address, list[Address]] = {}  # the nodes reported together with each owner
        counts: Counter[Address] = Counter()
        error: BaseException = exceptions.ConnectionError("no node of the cluster serves the namespace's slot")
        pending = set(asking)
        deadline = time.monotonic() + self._patience_seconds
        while pending and 2 * max(counts.values(), default=0) <= len(asking):
            patience = max(0.0, deadline - time.monotonic()) if counts else None
            done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                failure = task.exception()
                if failure is None:
                    owner, nodes = self._read(task.result(), asking[task])
                    if owner is not None:
                        counts[owner] += 1
                        votes.setdefault(owner, []).extend(nodes)
                elif not isinstance(error, _REFUSED):
                    error = failure
        if not counts:
            if isinstance(error, exceptions.ConnectionError):
                raise error
            raise exceptions.ConnectionError(f"no node of the cluster says where a slot is: {error}") from error
        owner = counts.most_common(1)[0][0]
        self._known = list(dict.fromkeys(votes[owner]))
        return owner

    def _read(self, rows: Sequence[Row], node: Address) -> tuple[Address | None, list[Address]]:
        """Return the node that serves the hash slot, if there is one, and all nodes."""
        owner = None
        nodes: list[Address] = []
        for first, last, *servers in rows:
            addresses = [_server_address(server, node) for server in servers]
            nodes += addresses
            if owner is None and (self._slot is None or first <= self._slot <= last):
                owner = addresses[0]
        return owner, nodes

    async def _rows_of(self, node: Address) -> list[Row]:
        """Ask a node which nodes serve which slots.

        Each row is [first slot, last slot, [host, port, id, …] of the primary, the same of a replica, …].
        """
        connection = self._connect(host=node[0], port=node[1])
        try:
            await connection.connect()
            await connection.send_command("CLUSTER", "SLOTS")
            rows: list[Row] = await connection.read_response()
            return rows
        finally:
            await connection.disconnect(nowait=True)


def _server_address(server: Row, node: Address) -> Address:
    """Return a server's address. A server that does not know its own host has the host at which it was asked."""
    host = server[0]
    return (node[0] if host in (None, "", "?") else host, int(server[1]))
