"""Connection pools of redis-py that close outdated connections after a failover. See `failover`.

They use public methods only. `ConnectionPool.disconnect` cannot be used, because it waits while it closes. A task that
takes such a connection meanwhile would lose the new connection that it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.exceptions import AuthenticationError, InvalidResponse, RedisError

from shared_registry.aio.time_limit import time_limit
from shared_registry.store.failover import Failover

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

    _Base = ConnectionPool
else:
    _Base = object


class _Renewing(_Base):
    """Mixed in before a pool class of redis-py, to close connections of an earlier generation."""

    failover: Failover
    _made_in: dict[AbstractConnection, int]
    _idle: set[AbstractConnection]

    def follow(self, failover: Failover) -> None:
        """Use the generations of this failover. Call it before the first connection is made."""
        self.failover = failover
        self._made_in = {}
        self._idle = set()
        failover.add(self.close_outdated)

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Connect. A connection of an earlier generation is closed and made anew.

        So is a connection on which something came that is no reply. redis-py before 8 would fail with it for ever.
        """
        self._idle.discard(connection)
        if self._is_outdated(connection):
            await connection.disconnect(nowait=True)
        self._made_in[connection] = self.failover.generation
        try:
            await super().ensure_connection(connection)
        except InvalidResponse:
            await connection.disconnect(nowait=True)
            await super().ensure_connection(connection)

    async def release(self, connection: AbstractConnection) -> None:
        """Return a connection to the pool, and close it if it is of an earlier generation."""
        if self._is_outdated(connection):
            await connection.disconnect(nowait=True)
        self._idle.add(connection)
        await super().release(connection)

    async def close_outdated(self) -> None:
        """Close idle connections of an earlier generation."""
        for connection in tuple(self._idle):
            if connection in self._idle and self._is_outdated(connection):
                await connection.disconnect(nowait=True)

    def _is_outdated(self, connection: AbstractConnection) -> bool:
        generation = self.failover.generation
        return self._made_in.get(connection, generation) != generation


class RenewingPool(_Renewing, BlockingConnectionPool):
    """Waits for a free connection when all are in use."""


class RenewingSentinelPool(_Renewing, SentinelConnectionPool):
    """Asks the sentinels for the address of each new connection."""

    async def get_master_address(self) -> Any:
        """Return the primary's address. If it has changed, all earlier connections become outdated."""
        address = await self.sentinel_manager.discover_master(self.service_name)
        if self.master_address not in (None, address):
            self.failover.moved()
        self.master_address = address
        return address


class PromptSentinel(Sentinel):
    """Asks one sentinel after the other. Each gets a share of the time, so that a silent one blocks no other."""

    def __init__(self, hosts: list[tuple[str, int]], *, timeout_seconds: float, **options: Any) -> None:
        """Ask no sentinel yet.

        Args:
            hosts: The addresses of the sentinels.
            timeout_seconds: The maximum time of a call, of which asking the sentinels is a part.
            options: Further options of redis-py's `Sentinel`.
        """
        super().__init__(hosts, **options)  # type: ignore[no-untyped-call]
        self.timeout_seconds = timeout_seconds

    async def discover_master(self, service_name: str) -> Any:
        """Return the primary's address.

        Raises:
            AuthenticationError: No sentinel names it, and one of them refuses the credentials.
            MasterNotFoundError: No sentinel names it.
        """
        share = self.timeout_seconds / (len(self.sentinels) + 1)  # the last is for the primary itself
        reasons: dict[str, str] = {}
        refusal: AuthenticationError | None = None
        for sentinel in tuple(self.sentinels):
            where = "{host}:{port}".format_map(sentinel.connection_pool.connection_kwargs)
            try:
                async with time_limit(share):
                    masters: Any = await sentinel.sentinel_masters()
            except AuthenticationError as error:
                refusal = error
                reasons[where] = f"{error}; the url's sentinel_password is for the sentinels"
            except TimeoutError:
                reasons[where] = f"no answer within {share:.2g} s"
            except (RedisError, OSError) as error:
                reasons[where] = str(error) or type(error).__name__
            else:
                state = masters.get(service_name)
                if state and self.check_master_state(state, service_name):
                    self.sentinels = [sentinel, *(each for each in self.sentinels if each is not sentinel)]
                    return state["ip"], state["port"]
                reasons[where] = (
                    "it counts that master as down" if state else f"it watches {', '.join(masters) or 'none'}"
                )
        told = "; ".join(f"{where}: {reason}" for where, reason in reasons.items())
        raise (AuthenticationError if refusal else MasterNotFoundError)(
            f"no sentinel names the master {service_name!r}: {told}"
        ) from refusal
