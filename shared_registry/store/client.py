"""redis-py clients as the registry needs them, and what their failures mean.

Three clients per registry: neither a blocking read nor the sessions' commands hold up what keeps the router alive.
None retries by itself: redis-py would execute a command again whose reply was lost. Time is bounded here, by
`bounded`, and not by redis-py's socket timeout: with one, it sends through `asyncio.wait_for`, which on Python 3.11
swallows a cancellation that comes at the wrong moment.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from shared_registry.errors import ConfigError, KeyConflict, StoreError, StoreRefused, StoreUnavailable
from shared_registry.store.deadlines import SharedAlarm
from shared_registry.store.failover import Failover, is_read_only
from shared_registry.store.lane import Lane
from shared_registry.store.packing import pack_in_c
from shared_registry.store.pools import PromptSentinel, RenewingPool, RenewingSentinelPool
from shared_registry.store.redis_url import check_redis_url, mask_redis_url
from shared_registry.store.slot_client import connect_to_owner
from shared_registry.store.slot_owner import SlotOwner

Client: TypeAlias = Any
"""`redis.asyncio.Redis` or `RedisCluster`, with `decode_responses=True`; their type hints differ between versions."""

MAX_CONNECTIONS = 72
"""More than all lanes of one client together, so that no call waits inside redis-py, where it would pass for slow."""
MAX_CONNECTIONS_PER_NODE = 64
"""Where redis-py has no pool that blocks: high enough never to be reached, since lanes bound the calls."""
CONNECT_PATIENCE = 5
"""`bounded` ends an attempt to connect after the timeout; redis-py also counts time in which our loop is held up."""
OLDEST_VERSION = (6, 2)
_FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
_REFUSALS = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_REFUSED_REPLY = re.compile(
    "WRONGPASS|NOAUTH|NOPERM|unauthenticated|unknown command|ACL failure|user executing the script can't", re.IGNORECASE
)
# What passes, as a reply begins or, before Redis 7, within the text of an error in a script.
_PASSING_REPLY = re.compile(
    r"(?:^|: -)(?:BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNBLOCKED)\b"
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clients:
    """The clients of a registry.

    Attributes:
        commands: For what sessions ask.
        blocking: For reads that wait.
        longest_block_seconds: How long a blocking read may ask the server to wait.
        is_owned: Built here and closed with the registry; a client that the caller passed in stays theirs.
        upkeep: For what keeps the router alive and current; `None` where that goes by `commands`.
        max_connections: What a client that the caller passed in allows itself, where that is less than all lanes want.
        failover: What becomes of their connections when the primary is lost.
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
        """Return clients that are one, which stays its maker's."""
        return cls(client, client, math.inf, is_owned=False)

    @property
    def control(self) -> Client:
        """For heartbeats, leases of leadership, reports, and all reads that do not wait."""
        return self.commands if self.upkeep is None else self.upkeep

    def are_connected(self) -> bool:
        """Whether any connection is open, or may be: redis-py shows its pools by private names only."""
        return any(_may_be_connected(each) for each in (self.commands, self.blocking, self.control))

    async def close(self) -> None:
        """Close the connections of clients that were built here."""
        if self.is_owned:
            for each in (self.commands, self.blocking, self.control):
                await each.aclose()
                for sentinel in _sentinels_of(each):
                    await sentinel.aclose()


def connect(url: str, *, timeout_seconds: float, block_seconds: float, key: str = "") -> Clients:
    """Build the clients for a url; nothing connects before the first command.

    Args:
        url: `redis://`, `rediss://`, `unix://`, `redis+sentinel://h1:p,h2:p/master/0` or `redis+cluster://h1:p,h2:p`.
        timeout_seconds: For connecting, and for the reply to a command.
        block_seconds: The longest that a blocking read asks the server to wait.
        key: One of those that will be used: says which node of a cluster to connect to. Else a node's reply does.

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

    When the primary is lost, its idle connections are closed, so that they are made anew; those that the caller uses
    are left alone.

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
    """Return what builds one client after the other for a url."""
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
    pool.connection_class(**pool.connection_kwargs)  # an option in the url that does not exist shows now
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
        return not getattr(client, "_initialize", False)  # a cluster's client that was not used
    try:
        connections = [*pool._available_connections, *pool._in_use_connections]  # noqa: SLF001  there is no other way
    except (AttributeError, TypeError):
        return True
    return any(connection.is_connected for connection in connections)


def _sentinels_of(client: Client) -> list[Client]:
    """Return the clients for the sentinels behind a client, which redis-py leaves open."""
    pool = getattr(client, "connection_pool", None)
    return list(pool.sentinel_manager.sentinels) if isinstance(pool, SentinelConnectionPool) else []


class _Addresses:
    """The parts of a checked url that names several hosts."""

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


class bounded:  # noqa: N801  reads as a statement: `async with bounded(1.0): …`
    """Bounds what is done with Redis in its block, and turns failures into the error tree.

    It stands in for `asyncio.timeout` and keeps its rules: a deadline that comes first cancels the block, and a
    cancellation from elsewhere stays one. One object for all of it, since every call pays for it. Time in which the
    event loop was held up does not count, nor does waiting for one's turn in a lane.

    Raises:
        StoreUnavailable: No connection, no answer in time, or a server that is loading, failing over or out of
            memory.
        Busy: No turn in the lane in time.
        StoreRefused: Wrong credentials or missing rights.
        KeyConflict: A key holds another type.
        StoreError: Any other error reply.
    """

    __slots__ = (
        "_alarm",
        "_answers",
        "_cancels",
        "_failover",
        "_is_late",
        "_lane",
        "_patience_seconds",
        "_replies",
        "_seconds",
        "_sweeps",
        "_task",
    )

    def __init__(
        self,
        seconds: float,
        *,
        lane: Lane | None = None,
        patience_seconds: float | None = None,
        failover: Failover | None = None,
    ) -> None:
        """Set up for one use.

        Args:
            seconds: The longest that the block may take.
            lane: Where it waits for its turn; its calls may take as long.
            patience_seconds: How long it may wait for that; `None` for as long as Redis answers.
            failover: Is told how the block ended, and renews connections before it, if need be.
        """
        self._seconds = seconds
        self._lane = lane
        self._patience_seconds = patience_seconds
        self._alarm = SharedAlarm(seconds) if lane is None else lane.alarm
        self._is_late = False
        self._failover = failover
        self._answers = self._sweeps = 0

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("`bounded` should be used inside a task")
        self._task = task
        self._cancels = task.cancelling()
        lane = self._lane
        if lane is not None:
            if not lane.enter():
                await lane.wait(self._patience_seconds)
            self._replies = lane.replies
        self._alarm.set(self._ring)
        failover = self._failover
        if failover is not None:
            self._answers = failover.answers
            self._sweeps = failover.sweeps
            if failover.is_due:
                await self._renew(failover)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.call_off(self._ring)
        lane = self._lane
        if lane is not None:
            if error is None:
                lane.heard()
            else:
                self._tell(lane, error)
            lane.leave()
        self._end(error)

    def _ring(self) -> None:
        self._is_late = True
        self._task.cancel()

    async def _renew(self, failover: Failover) -> None:
        try:
            await failover.renew()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        self._sweeps = failover.sweeps

    def _tell(self, lane: Lane, error: BaseException) -> None:
        """Let those who wait in the lane know how it went."""
        if isinstance(error, asyncio.CancelledError):
            if self._is_late:
                lane.unanswered(self._replies, self._lateness)
        elif isinstance(error, exceptions.ResponseError):
            lane.heard()
        elif isinstance(error, _FAILURES):
            lane.failed(str(meaning_of(error)))

    def _end(self, error: BaseException | None) -> None:
        if self._failover is not None:
            self._failover.ended(error, is_late=self._is_late, answers=self._answers, sweeps=self._sweeps)
        cancels = self._task.uncancel() if self._is_late else self._task.cancelling()
        if cancels > self._cancels:
            if not isinstance(error, asyncio.CancelledError):
                # `asyncio.wait_for` of Python 3.11, which redis-py uses, drops a cancellation that meets the result.
                raise asyncio.CancelledError
        elif self._is_late and isinstance(error, asyncio.CancelledError):
            raise StoreUnavailable(self._lateness) from error
        if isinstance(error, _FAILURES):
            raise meaning_of(error) from error

    @property
    def _lateness(self) -> str:
        return f"Redis did not answer within {self._seconds:g} s"


def meaning_of(error: Exception) -> StoreError:
    """Return what a failure of redis-py means to the registry."""
    text = str(error) or type(error).__name__
    # A cluster's client wraps what its nodes answered.
    if isinstance(error, _REFUSALS) or isinstance(error.__cause__, _REFUSALS) or _REFUSED_REPLY.search(text):
        return StoreRefused(f"Redis refused: {text}; check the user and password in redis_url, and the user's rights")
    passing = (
        exceptions.ConnectionError,
        exceptions.TimeoutError,
        exceptions.ReadOnlyError,
        exceptions.ClusterError,
        exceptions.RedisClusterException,
        exceptions.TryAgainError,
        exceptions.OutOfMemoryError,
        OSError,
    )
    if is_read_only(error):
        return StoreUnavailable(f"Redis is unavailable: the server is a replica, not the primary: {text}")
    if isinstance(error, passing) or _PASSING_REPLY.search(text):
        return StoreUnavailable(f"Redis is unavailable: {text}")
    if text.startswith("WRONGTYPE"):
        return KeyConflict(
            f"a key of this namespace is not of the registry's type: {text}; run `shared-registry check`"
        )
    return StoreError(f"Redis answered with an error: {text}")


def was_refused(error: StoreError) -> bool:
    """Whether the server itself answered that it will not: nothing was done, and others are told the same."""
    return isinstance(error.__cause__, exceptions.ResponseError)


async def verify_server(client: Client, *, timeout_seconds: float) -> None:
    """Refuse a server that the registry cannot work on, and warn of one that may lose keys.

    Raises:
        StoreRefused: Older than Redis 6.2, or wrong credentials.
        StoreUnavailable: No answer.
    """
    async with bounded(timeout_seconds):
        options = {"target_nodes": RedisCluster.RANDOM} if isinstance(client, RedisCluster) else {}  # the caller's
        server = await client.info("server", **options)
        memory = await client.info("memory", **options)
    version = str(server.get("redis_version", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_VERSION:
        raise StoreRefused(f"Redis {version} is too old; the registry needs Redis 6.2 or newer, or Valkey")
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        logger.warning(
            "redis: maxmemory-policy is %s, under which Redis may drop registry keys; set it to noeviction", policy
        )
