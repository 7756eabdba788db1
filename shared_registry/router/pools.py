"""Connections to replicas for HTTP: a pool for each replica, kept alive between requests.

One pool for all would look through the connections of all replicas at every request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from httpcore import AsyncConnectionPool

from shared_registry.model import Replica
from shared_registry.router import tcp
from shared_registry.router.tls import TlsSettings

IDLE_SECONDS = 2.0
"""How long a connection is kept for the next request. Less than the 5 s after which many servers close an idle one, so
that a request hardly ever meets a connection that is being closed."""
SWEEP_SECONDS = 5.0


class ReplicaPools:
    """The pools, by replica."""

    def __init__(
        self, registered: Callable[[], Collection[Replica]], tls: TlsSettings, options: list[tcp.SocketOption]
    ) -> None:
        self._registered = registered
        self._tls = tls
        self._options = options
        self._pools: dict[str, AsyncConnectionPool] = {}

    async def of(self, replica: Replica) -> AsyncConnectionPool:
        """Return a replica's pool."""
        context = await self._tls.context() if urlsplit(replica.url).scheme == "https" else None
        pool = self._pools.get(replica.key)
        if pool is None:
            pool = self._pools[replica.key] = AsyncConnectionPool(
                ssl_context=context,
                max_connections=None,
                keepalive_expiry=IDLE_SECONDS,
                socket_options=self._options,
            )
        return pool

    async def sweep(self) -> None:
        """Close connections that idle, and pools of replicas that are gone, now and then until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            registered = {replica.key for replica in self._registered()}
            for key, pool in tuple(self._pools.items()):
                connections = pool.connections
                is_unused = all(connection.has_expired() or connection.is_closed() for connection in connections)
                is_gone = key not in registered and all(connection.is_idle() for connection in connections)
                if is_unused or is_gone:
                    del self._pools[key]
                    await pool.aclose()

    async def close(self) -> None:
        """Close all connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()
