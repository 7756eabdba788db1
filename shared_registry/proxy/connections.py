"""HTTP connections to replicas, kept open between requests."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from urllib.parse import urlsplit

from shared_registry.aio.time_limit import time_limit
from shared_registry.config import RouterConfig
from shared_registry.http1.connection import ReplicaConnection
from shared_registry.model import Replica
from shared_registry.probing.connection import reason_of
from shared_registry.probing.own_trouble import own_trouble
from shared_registry.probing.tls import TlsContexts
from shared_registry.proxy import tcp
from shared_registry.proxy.dispatch import NotReached
from shared_registry.proxy.traffic import Traffic
from shared_registry.urls import DEFAULT_PORTS


class ReplicaConnections:
    """The idle connections of each replica.

    Attributes:
        idle_count: The number of idle connections.
        tls: The TLS settings of new connections.
    """

    def __init__(
        self,
        config: RouterConfig,
        tls: TlsContexts,
        traffic: Traffic | None = None,
        *,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Open nothing yet.

        Args:
            config: The settings of connections.
            tls: The TLS settings of new connections.
            traffic: Counts how long it takes to connect.
            make_room: Called before a connection is opened. It may close the idle connections.
        """
        self._config = config
        self._traffic = traffic or Traffic()
        self.tls = tls
        self._make_room = make_room
        self._options = tcp.liveness_options(config.peer_timeout_seconds)
        self._idle: defaultdict[str, list[ReplicaConnection]] = defaultdict(list)
        self.idle_count = 0
        self._has_idle = asyncio.Event()
        self._generation = 0

    def reload(self, config: RouterConfig) -> None:
        """Use changed settings for connections that are opened from now on."""
        if _of_connections(config) != _of_connections(self._config):
            self._generation += 1
            self.tls = TlsContexts(config)
            self.close()
        self._config = config

    async def take(self, replica: Replica) -> ReplicaConnection:
        """Return the idle connection that was used last, or a new one.

        Raises:
            NotReached: A new connection could not be opened.
        """
        return self.take_idle(replica) or await self.open(replica)

    def take_idle(self, replica: Replica) -> ReplicaConnection | None:
        """Return the idle connection that was used last; `None` if there is none."""
        idle = self._idle.get(replica.key)
        while idle:
            connection = idle.pop()
            self.idle_count -= 1
            if connection.is_fresh(self._config.replica_idle_seconds):
                return connection
            connection.abort()
        return None

    async def open(self, replica: Replica) -> ReplicaConnection:
        """Return a new connection.

        Raises:
            NotReached: It could not be opened.
        """
        self._make_room()
        parts = urlsplit(replica.url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        seconds = self._config.connect_timeout_seconds
        silence, generation, tls = self._config.response_timeout_seconds, self._generation, self.tls
        first_byte = self._config.first_byte_timeout_seconds or silence
        begun_at = time.monotonic()
        try:
            context = await tls.context() if parts.scheme == "https" else None
            async with time_limit(seconds):
                connection = await ReplicaConnection.open(
                    host,
                    port,
                    context,
                    server_name=tls.server_name(host),
                    silence_seconds=silence,
                    first_byte_seconds=first_byte,
                )
                tcp.apply(self._options, connection.socket)
                connection.generation = generation
                self._traffic.connects.add(time.monotonic() - begun_at)
                return connection
        except TimeoutError as error:
            raise NotReached(f"ConnectTimeout: not within {seconds:g} s", is_timeout=True) from error
        except Exception as error:
            if (trouble := own_trouble(error, url=replica.url)) is not None:
                raise NotReached(str(trouble), trouble=trouble) from error
            if not isinstance(error, OSError | UnicodeError):
                raise
            raise NotReached(f"ConnectError: {reason_of(error)}") from error

    def give_back(self, replica: Replica, connection: ReplicaConnection) -> None:
        """Keep a connection after an exchange if it can carry another one; otherwise abort it."""
        if connection.is_reusable and connection.generation == self._generation:
            self._idle[replica.key].append(connection)
            if not self.idle_count:
                self._has_idle.set()
            self.idle_count += 1
        else:
            connection.abort()

    async def sweep(self) -> None:
        """Close connections that have been idle for too long, periodically while there are any, until cancelled."""
        while True:
            if not self.idle_count:
                self._has_idle.clear()
                await self._has_idle.wait()
            seconds = self._config.replica_idle_seconds
            await asyncio.sleep(seconds)
            for key, connections in tuple(self._idle.items()):
                fresh = [connection for connection in connections if connection.is_fresh(seconds)]
                self.idle_count -= len(connections) - len(fresh)
                for connection in connections:
                    if connection not in fresh:
                        connection.abort()
                if fresh:
                    self._idle[key] = fresh
                else:
                    del self._idle[key]

    def close(self) -> None:
        """Close all idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        self.idle_count = 0


def _of_connections(config: RouterConfig) -> list[object]:
    """Return the settings that a connection keeps for as long as it lives."""
    names = [item.name for item in fields(config) if item.name.startswith("replica_tls_")]
    return [
        config.response_timeout_seconds,
        config.first_byte_timeout_seconds,
        *(getattr(config, name) for name in names),
    ]
