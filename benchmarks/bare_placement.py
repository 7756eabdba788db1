"""The commands that any script must run to place a session, without a check, a name, a queue or a capacity.

What they cost is what a placement costs on the machine at hand whoever makes it; what is above them is the registry's.
"""

from __future__ import annotations

from shared_registry.leases.ledger import new_lease_id
from shared_registry.model import RouterInfo
from shared_registry.store.client import Client, Clients
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys

_COMMANDS = """
local ready, routers, replica_prefix, leases = unpack(KEYS)
local router, lease_id = unpack(ARGV)
if not redis.call('ZSCORE', routers, router) then
  return {'not_registered'}
end
local first = redis.call('ZRANGE', ready, 0, 0, 'WITHSCORES')
local tied = redis.call('ZCOUNT', ready, '-inf', first[2])
local place = tonumber(string.sub(lease_id, 1, 8), 16) % tied
local url = redis.call('ZRANGE', ready, place, place)[1]
local state = redis.call('HMGET', replica_prefix .. url, 'in_flight', 'weight', 'revision')
redis.call('HSET', leases, lease_id, url)
redis.call('HSET', replica_prefix .. url, 'in_flight', state[1] + 1)
redis.call('ZADD', ready, (state[1] + 1) / state[2], url)
return {'granted', url, state[3]}
"""


class BarePlacement:
    """Places sessions of a router of its own, beside the registries of a namespace."""

    def __init__(self, client: Client, keys: Keys, info: RouterInfo, *, timeout_seconds: float) -> None:
        self._client = client
        self._info = info
        self._keys = [keys.ready_primary, keys.routers, keys.replica_prefix, keys.leases(info.key)]
        self._store = Store(Clients.of(client), keys, router=info.key, timeout_seconds=timeout_seconds)
        self._digest = ""

    async def start(self, *, expiry_seconds: float) -> None:
        """Make its router one of the live ones for that long."""
        self._digest = await self._client.script_load(_COMMANDS)
        await self._store.heartbeat(self._info, expiry_seconds=expiry_seconds)

    async def place(self) -> str:
        """Place a session; return its lease id. One round trip, straight through redis-py."""
        lease_id = new_lease_id(None)
        reply = await self._client.evalsha(self._digest, len(self._keys), *self._keys, self._info.key, lease_id)
        if reply[0] != "granted":
            raise RuntimeError(f"a session was not placed: {reply[0]}")
        return lease_id

    async def end(self, lease_id: str) -> None:
        """End it."""
        await self._store.release(lease_id)
