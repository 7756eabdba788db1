"""Builds the redis-py clients of a registry.

A registry has three clients, so that neither a blocking read nor the commands of sessions delay the heartbeats. Each
has one connection: calls share it (see `multiplexer`), but for blocking reads.
No client retries by itself, because redis-py would repeat a command whose reply was lost. `bounded` and `Multiplexer`
limit the time of calls, not redis-py's socket timeout. With a socket timeout, redis-py sends through
`asyncio.wait_for`, which on Python 3.11 can drop a cancellation.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from shared_registry.errors import ConfigError
from shared_registry.store.connections import check_files, connection_class, naming, over_tls
from shared_registry.store.failover import Failover
from shared_registry.store.multiplexed import MultiplexedClient
from shared_registry.store.multiplexer import Multiplexer
from shared_registry.store.packing import pack_in_c
from shared_registry.store.pools import PromptSentinel, RenewingPool, RenewingSentinelPool
from shared_registry.store.redis_url import RedisAddress, RedisKind, mask_redis_url, parse_redis_url
from shared_registry.store.slot_client import MultiplexedSlotClient, SlotClient, connect_to_owner
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


_NO_INFO: dict[str, None] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(Redis).parameters
    else {"lib_name": None, "lib_version": None}
)
"""Connections do not send CLIENT SETINFO, a right that servers before 7.2 do not know. Its option was renamed."""


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
        max_connections: The maximum number of connections, of which each call uses one; `None` if calls share one.
        failover: Replaces their connections after the primary is lost.
        ask_address: Asks the sentinels for the primary's address; `None` without sentinels. See `watch_address`.
    """

    commands: Client
    blocking: Client
    longest_block_seconds: float
    is_owned: bool = True
    upkeep: Client | None = None
    max_connections: int | None = None
    failover: Failover = field(default_factory=Failover)
    ask_address: Callable[[], Awaitable[object]] | None = None

    @classmethod
    def of(cls, client: Client) -> Self:
        """Return clients that all are this one. It is not closed with the registry."""
        return cls(client, client, math.inf, is_owned=False, max_connections=MAX_CONNECTIONS)

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


def connect(url: str, *, timeout_seconds: float, block_seconds: float, key: str = "", name: str = "") -> Clients:
    """Build the clients for a url. No connection is made before the first command.

    Args:
        url: See `redis_url`.
        timeout_seconds: For connecting, and for the reply to a command.
        block_seconds: The longest wait that a blocking read asks of the server.
        key: One of the keys that will be used, which determines the cluster node to connect to. Without it, a
            redirection from a node determines it.
        name: The router's name, for `CLIENT LIST`.

    Raises:
        ConfigError: The url, or a file that it names, cannot be used. The message does not show its password.
    """
    address = parse_redis_url(url)
    check_files(address)
    failover = Failover()
    options = {**_options(timeout_seconds), "redis_connect_func": naming(name)}
    make = _maker(address, options, key, timeout_seconds, failover)

    def multiplexed() -> Client:
        client = make(is_multiplexed=True)
        client.multiplexer = Multiplexer(client.connection_pool, seconds=timeout_seconds, failover=failover)
        return client

    try:
        commands = multiplexed()
        pool = commands.connection_pool
        return Clients(
            commands=commands,
            blocking=make(is_multiplexed=False),
            longest_block_seconds=block_seconds,
            upkeep=multiplexed(),
            failover=failover,
            ask_address=pool.get_master_address if isinstance(pool, SentinelConnectionPool) else None,
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
        **_NO_INFO,
        "decode_responses": True,
        "encoding_errors": "replace",
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_PATIENCE * timeout_seconds,
    }


def _maker(
    address: RedisAddress, options: dict[str, Any], key: str, timeout_seconds: float, failover: Failover
) -> Callable[..., Client]:
    """Return a function that builds a client for an address at each call, with or without one shared connection."""
    credentials = {"username": address.username, "password": address.password}
    match address.kind:
        case RedisKind.SENTINEL:
            return functools.partial(_sentinel, address, options, credentials, timeout_seconds, failover)
        case RedisKind.CLUSTER:
            return _cluster_maker(address, {**options, **credentials}, key, timeout_seconds, failover)
        case _:
            return functools.partial(_standalone, address, {**options, **credentials}, timeout_seconds, failover)


def _standalone(
    address: RedisAddress,
    options: Mapping[str, Any],
    timeout_seconds: float,
    failover: Failover,
    *,
    is_multiplexed: bool,
) -> Client:
    where: dict[str, Any] = {"path": address.path}
    if address.hosts:
        ((host, port),) = address.hosts
        where = {"host": host, "port": port, "socket_keepalive": True}
    pool = RenewingPool(
        max_connections=MAX_CONNECTIONS,
        timeout=None,
        connection_class=connection_class(address, timeout_seconds=timeout_seconds),
        **{**where, **options, "db": address.database},
    )
    return (MultiplexedClient if is_multiplexed else Redis).from_pool(_prepared(pool, failover))


def _prepared(pool: Any, failover: Failover) -> Any:
    pool.follow(failover)
    pack_in_c(pool)
    return pool


def _cluster_maker(
    address: RedisAddress, options: Mapping[str, Any], key: str, timeout_seconds: float, failover: Failover
) -> Callable[..., Client]:
    options = {**options, "socket_keepalive": True}
    base = connection_class(address, timeout_seconds=timeout_seconds)
    owner = SlotOwner(
        address.hosts,
        key=key,
        connect=lambda **where: base(**where, **options),
        timeout_seconds=timeout_seconds,
        failover=failover,
    )

    def make(*, is_multiplexed: bool) -> Client:
        client_class = MultiplexedSlotClient if is_multiplexed else SlotClient
        client = connect_to_owner(client_class, owner, base, options, max_connections=MAX_CONNECTIONS)
        _prepared(client.connection_pool, failover)
        return client

    return make


def _sentinel(
    address: RedisAddress,
    options: Mapping[str, Any],
    credentials: Mapping[str, Any],
    timeout_seconds: float,
    failover: Failover,
    *,
    is_multiplexed: bool,
) -> Client:
    tls = {"ssl": True} if address.is_tls else {}
    at_sentinels = {"username": address.sentinel_username, "password": address.sentinel_password}
    sentinel = PromptSentinel(
        list(address.hosts),
        timeout_seconds=timeout_seconds,
        sentinel_kwargs={**options, **at_sentinels, **tls},
        max_connections=MAX_CONNECTIONS_PER_NODE,
        socket_keepalive=True,
        **credentials,
        **options,
        **tls,
    )
    client = sentinel.master_for(
        address.master,
        redis_class=MultiplexedClient if is_multiplexed else Redis,
        connection_pool_class=RenewingSentinelPool,
        db=address.database,
    )
    client.connection_pool.connection_class = over_tls(client.connection_pool.connection_class, address.tls)
    share = timeout_seconds / (len(address.hosts) + 1)
    for each in sentinel.sentinels:
        pool = each.connection_pool
        pool.connection_class = over_tls(pool.connection_class, address.tls, timeout_seconds=share)
    _prepared(client.connection_pool, failover)
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
