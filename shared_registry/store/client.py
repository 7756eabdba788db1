"""Builds the redis-py clients of a registry.

A registry has three clients, so that neither a blocking read nor the commands of sessions delay the heartbeats.
No client retries by itself, because redis-py would repeat a command whose reply was lost. `bounded` limits the time of
calls, not redis-py's socket timeout. With a socket timeout, redis-py sends through `asyncio.wait_for`, which on Python
3.11 can drop a cancellation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from shared_registry.errors import ConfigError
from shared_registry.store.failover import Failover
from shared_registry.store.packing import pack_in_c
from shared_registry.store.pools import PromptSentinel, RenewingPool, RenewingSentinelPool
from shared_registry.store.redis_url import check_redis_url, mask_redis_url
from shared_registry.store.slot_client import connect_to_owner
from shared_registry.store.slot_owner import SlotOwner

Client: TypeAlias = Any
"""`redis.asyncio.Redis` or `RedisCluster`, with `decode_responses=True`; their type hints differ between versions."""

MAX_CONNECTIONS = 72
"""More than all lanes of one client together, so that no call waits inside redis-py, where the wait would count as
time of the call."""
MAX_CONNECTIONS_PER_NODE = 64
"""For clients for which redis-py has no blocking pool. Lanes limit the calls, so that this number is never reached."""
CONNECT_PATIENCE = 5
"""How many timeouts redis-py allows for connecting. `bounded` ends an attempt after one timeout; redis-py's limit is
longer because it also counts time during which the event loop is blocked."""


@dataclass(frozen=True)
class Clients:
    """The clients of a registry.

    Attributes:
        commands: For the commands of sessions and operators.
        blocking: For blocking reads.
        longest_block_seconds: The longest wait that a blocking read may ask of the server.
        is_owned: The clients were built here and are closed with the registry. A client that the caller passed in is
            not closed.
        upkeep: For heartbeats, leadership, reports and other reads; `None` if `commands` is used for these.
        max_connections: The maximum number of connections. It is lower if a client that the caller passed in allows
            fewer.
        failover: Replaces their connections after the primary is lost.
    """

    commands: Client
    blocking: Client
    longest_block_seconds: float
    is_owned: bool = True
    upkeep: Client | None = None
    max_connections: int = MAX_CONNECTIONS
    failover: Failover = field(default_factory=Failover)

    @classmethod
    def of(cls, client: Client) -> Self:
        """Return clients that all are this one. It is not closed with the registry."""
        return cls(client, client, math.inf, is_owned=False)

    @property
    def control(self) -> Client:
        """The client for heartbeats, leadership, reports, and all reads that do not block."""
        return self.commands if self.upkeep is None else self.upkeep

    def are_connected(self) -> bool:
        """Return whether any connection is open, or may be open if that cannot be determined.

        redis-py shows the connections of a pool only by private names.
        """
        return any(_may_be_connected(each) for each in (self.commands, self.blocking, self.control))

    async def close(self) -> None:
        """Close the connections of clients that were built here."""
        if self.is_owned:
            for each in (self.commands, self.blocking, self.control):
                await each.aclose()
                for sentinel in _sentinels_of(each):
                    await sentinel.aclose()


def connect(url: str, *, timeout_seconds: float, block_seconds: float, key: str = "") -> Clients:
    """Build the clients for a url. No connection is made before the first command.

    Args:
        url: `redis://`, `rediss://`, `unix://`, `redis+sentinel://h1:p,h2:p/master/0` or `redis+cluster://h1:p,h2:p`.
        timeout_seconds: For connecting, and for the reply to a command.
        block_seconds: The longest wait that a blocking read asks of the server.
        key: One of the keys that will be used, which determines the cluster node to connect to. Without it, a
            redirection from a node determines it.

    Raises:
        ConfigError: The url cannot be used. The message does not show its password.
    """
    check_redis_url(url)
    failover = Failover()
    options = _options(timeout_seconds)
    make = _maker(url, options, key, timeout_seconds, failover)
    try:
        return Clients(
            commands=make(),
            blocking=make(),
            longest_block_seconds=block_seconds,
            upkeep=make(),
            failover=failover,
        )
    except (TypeError, ValueError, exceptions.RedisError) as error:
        raise ConfigError(f"redis_url: {redacted(url)} cannot be used: {error}") from None


def adopt(client: Client) -> Clients:
    """Use a client that the caller made, for commands and for blocking reads.

    After the primary is lost, idle connections of the client are closed, so that new ones are made. Connections that
    are in use are left alone.

    Raises:
        ConfigError: The client returns bytes.
    """
    pool = getattr(client, "connection_pool", None)
    options = pool.connection_kwargs if pool is not None else client.connection_kwargs
    if not options.get("decode_responses"):
        raise ConfigError("redis: the client must be built with decode_responses=True")
    socket_timeout = options.get("socket_timeout")
    longest_block = math.inf if socket_timeout is None else socket_timeout / 2
    allowed = getattr(pool, "max_connections", None) or MAX_CONNECTIONS
    failover = Failover()
    if pool is None:
        failover.asks_after_errors = True
        failover.add(client.nodes_manager.initialize)
    else:
        failover.add(functools.partial(pool.disconnect, inuse_connections=False))
    return Clients(
        client,
        client,
        longest_block,
        is_owned=False,
        max_connections=min(allowed, MAX_CONNECTIONS),
        failover=failover,
    )


def redacted(url: str) -> str:
    """Return the url for people to read, without its secrets."""
    return mask_redis_url(url)


def _options(timeout_seconds: float) -> dict[str, Any]:
    return {
        "decode_responses": True,
        "encoding_errors": "replace",
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_PATIENCE * timeout_seconds,
    }


def _maker(
    url: str, options: dict[str, Any], key: str, timeout_seconds: float, failover: Failover
) -> Callable[[], Client]:
    """Return a function that builds a client for a url at each call."""
    scheme = urlsplit(url).scheme
    if scheme == "redis+sentinel":
        return functools.partial(_sentinel, url, options, timeout_seconds, failover)
    if scheme == "redis+cluster":
        return _cluster_maker(url, options, key, timeout_seconds, failover)
    return functools.partial(_standalone, url, options, failover)


def _standalone(url: str, options: Mapping[str, Any], failover: Failover) -> Client:
    keepalive = {} if url.startswith("unix:") else {"socket_keepalive": True}
    pool: Any = RenewingPool.from_url(url, max_connections=MAX_CONNECTIONS, timeout=None, **options, **keepalive)
    pool.follow(failover)
    pack_in_c(pool)
    pool.connection_class(**pool.connection_kwargs)  # raises now if the url has an unknown option
    return Redis.from_pool(pool)


def _cluster_maker(
    url: str, options: Mapping[str, Any], key: str, timeout_seconds: float, failover: Failover
) -> Callable[[], Client]:
    address = _Addresses(url)
    options = {**options, **address.credentials, "socket_keepalive": True}
    owner = SlotOwner(address.hosts, key=key, options=options, timeout_seconds=timeout_seconds, failover=failover)

    def make() -> Client:
        client = connect_to_owner(owner, options, max_connections=MAX_CONNECTIONS)
        client.connection_pool.follow(failover)
        pack_in_c(client.connection_pool)
        return client

    return make


def _sentinel(url: str, options: Mapping[str, Any], timeout_seconds: float, failover: Failover) -> Client:
    address = _Addresses(url)
    master, _, database = address.path.partition("/")
    sentinel = PromptSentinel(
        address.hosts,
        timeout_seconds=timeout_seconds,
        sentinel_kwargs=options,
        max_connections=MAX_CONNECTIONS_PER_NODE,
        socket_keepalive=True,
        **address.credentials,
        **options,
    )
    client = sentinel.master_for(master, connection_pool_class=RenewingSentinelPool, db=int(database or 0))
    client.connection_pool.follow(failover)
    pack_in_c(client.connection_pool)
    return client


def _may_be_connected(client: Client) -> bool:
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        return not getattr(client, "_initialize", False)  # false for a cluster client that was not used
    try:
        connections = [*pool._available_connections, *pool._in_use_connections]  # noqa: SLF001  there is no other way
    except (AttributeError, TypeError):
        return True
    return any(connection.is_connected for connection in connections)


def _sentinels_of(client: Client) -> list[Client]:
    """Return the clients of the sentinels that a client asks. redis-py does not close them with the client."""
    pool = getattr(client, "connection_pool", None)
    return list(pool.sentinel_manager.sentinels) if isinstance(pool, SentinelConnectionPool) else []


class _Addresses:
    """The parts of a validated url that may name several hosts."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        user_part, _, host_part = parts.netloc.rpartition("@")
        username, _, password = user_part.partition(":")
        self.credentials = {"username": unquote(username) or None, "password": unquote(password) or None}
        self.path = parts.path.strip("/")
        default = 26379 if parts.scheme == "redis+sentinel" else 6379
        self.hosts = [self._host(part, default) for part in host_part.split(",")]

    @staticmethod
    def _host(text: str, default_port: int) -> tuple[str, int]:
        parts = urlsplit(f"//{text}")
        return parts.hostname or "", parts.port or default_port
