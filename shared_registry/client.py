"""redis-py clients as the registry needs them, and what their failures mean.

Three clients per registry: neither a blocking read nor the sessions' commands hold up what keeps the router alive.
None retries by itself: redis-py would execute a command again whose reply was lost. Time is bounded here, by
`bounded`, and not by redis-py's socket timeout: with one, it sends through `asyncio.wait_for`, which on Python 3.11
swallows a cancellation that comes at the wrong moment.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from shared_registry.alarm import SharedAlarm
from shared_registry.errors import ConfigError, KeyConflict, StoreError, StoreRefused, StoreUnavailable
from shared_registry.lane import Lane
from shared_registry.packing import pack_in_c
from shared_registry.redis_urls import check_redis_url, mask_redis_url

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
    """

    commands: Client
    blocking: Client
    longest_block_seconds: float
    is_owned: bool = True
    upkeep: Client | None = None
    max_connections: int = MAX_CONNECTIONS

    @property
    def control(self) -> Client:
        """For heartbeats, leases of leadership, reports, and all reads that do not wait."""
        return self.commands if self.upkeep is None else self.upkeep

    async def close(self) -> None:
        """Close the connections of clients that were built here."""
        if self.is_owned:
            for each in (self.commands, self.blocking, self.control):
                await each.aclose()
                for sentinel in _sentinels_of(each):
                    await sentinel.aclose()


def connect(url: str, *, timeout_seconds: float, block_seconds: float) -> Clients:
    """Build the clients for a url; nothing connects before the first command.

    Args:
        url: `redis://`, `rediss://`, `unix://`, `redis+sentinel://h1:p,h2:p/master/0` or `redis+cluster://h1:p,h2:p`.
        timeout_seconds: For connecting, and for the reply to a command.
        block_seconds: The longest that a blocking read asks the server to wait.

    Raises:
        ConfigError: The url cannot be used. The message does not show its password.
    """
    check_redis_url(url)
    scheme = urlsplit(url).scheme
    build = {"redis+sentinel": _sentinel, "redis+cluster": _cluster}.get(scheme, _standalone)
    try:
        return Clients(
            commands=build(url, _options(timeout_seconds)),
            blocking=build(url, _options(timeout_seconds)),
            longest_block_seconds=block_seconds,
            upkeep=build(url, _options(timeout_seconds)),
        )
    except (TypeError, ValueError, exceptions.RedisError) as error:
        raise ConfigError(f"redis_url: {redacted(url)} cannot be used: {error}") from None


def adopt(client: Client) -> Clients:
    """Use a client that the caller made, for commands and for blocking reads.

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
    return Clients(client, client, longest_block, is_owned=False, max_connections=min(allowed, MAX_CONNECTIONS))


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


def _standalone(url: str, options: Mapping[str, Any]) -> Client:
    keepalive = {} if url.startswith("unix:") else {"socket_keepalive": True}
    pool = BlockingConnectionPool.from_url(url, max_connections=MAX_CONNECTIONS, timeout=None, **options, **keepalive)
    pack_in_c(pool)
    pool.connection_class(**pool.connection_kwargs)  # an option in the url that does not exist shows now
    return Redis.from_pool(pool)


def _cluster(url: str, options: Mapping[str, Any]) -> Client:
    from redis.asyncio.cluster import ClusterNode  # noqa: PLC0415  imported where it is needed: it is large

    address = _Addresses(url)
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
        username=address.username,
        password=address.password,
        max_connections=MAX_CONNECTIONS_PER_NODE,
        socket_keepalive=True,
        **options,
    )


def _sentinel(url: str, options: Mapping[str, Any]) -> Client:
    address = _Addresses(url)
    master, _, database = address.path.partition("/")
    sentinel = Sentinel(
        address.hosts,
        sentinel_kwargs=options,
        username=address.username,
        password=address.password,
        max_connections=MAX_CONNECTIONS_PER_NODE,
        socket_keepalive=True,
        **options,
    )
    client = sentinel.master_for(master, db=int(database or 0))
    pack_in_c(client.connection_pool)
    return client


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
        self.username = unquote(username) or None
        self.password = unquote(password) or None
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

    __slots__ = ("_alarm", "_cancels", "_is_late", "_lane", "_patience_seconds", "_replies", "_seconds", "_task")

    def __init__(self, seconds: float, *, lane: Lane | None = None, patience_seconds: float | None = None) -> None:
        """Set up for one use.

        Args:
            seconds: The longest that the block may take.
            lane: Where it waits for its turn; its calls may take as long.
            patience_seconds: How long it may wait for that; `None` for as long as Redis answers.
        """
        self._seconds = seconds
        self._lane = lane
        self._patience_seconds = patience_seconds
        self._alarm = SharedAlarm(seconds) if lane is None else lane.alarm
        self._is_late = False

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
    if isinstance(error, passing) or _PASSING_REPLY.search(text):
        return StoreUnavailable(f"Redis is unavailable: {text}")
    if text.startswith("WRONGTYPE"):
        return KeyConflict(
            f"a key of this namespace is not of the registry's type: {text}; run `shared-registry check`"
        )
    return StoreError(f"Redis answered with an error: {text}")


async def verify_server(client: Client, *, timeout_seconds: float) -> None:
    """Refuse a server that the registry cannot work on, and warn of one that may lose keys.

    Raises:
        StoreRefused: Older than Redis 6.2, or wrong credentials.
        StoreUnavailable: No answer.
    """
    async with bounded(timeout_seconds):
        options = {"target_nodes": RedisCluster.RANDOM} if isinstance(client, RedisCluster) else {}
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
