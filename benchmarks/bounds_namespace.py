"""A namespace as large as the bounds are promised for, and the server's own time for each command in it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.namespace import NAMESPACE, PATIENCE_SECONDS
from shared_registry.admin.inspector import Inspector
from shared_registry.model import RouterInfo, Term
from shared_registry.store.answers import new_token
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.lua import assemble, command_names
from shared_registry.store.replies import Elected

CAPACITY = 5
SESSIONS = 4
"""How many sessions are on a replica. One of them has two leases there."""
ROUTERS = 20
LOGGED_US = 10
"""Less than the shortest script takes."""
LOG_LENGTH = 1_000_000
PREPARING = "preparing"
"""The name of the connection whose commands do not count."""


class Namespace:
    """A full namespace, and what a router and an operator use on it."""

    def __init__(self, clients: Any, raw: Any, urls: list[str]) -> None:
        self.keys = Keys(NAMESPACE)
        self.raw = raw
        self.urls = urls
        self.routers = [f"r{number}~1" for number in range(ROUTERS)]
        self.reader = Inspector(clients, self.keys, timeout_seconds=PATIENCE_SECONDS)
        self._clients = clients
        self.store = self.store_of(self.routers[0])
        self._names = {_digest(name): name for name in command_names()}

    def store_of(self, router: str) -> Store:
        return Store(self._clients, self.keys, router=router, timeout_seconds=PATIENCE_SECONDS)

    async def heartbeat(self, router: str, **more: Any) -> None:
        """Send a heartbeat of a router that can probe, and shares the probing."""
        info = RouterInfo(router, "h", 1, "1", time.time(), machine=router, probe_print="same", probing="shared")
        await self.store_of(router).heartbeat(info, expiry_seconds=600, **more)

    async def lead(self) -> Term:
        """Let the first router be the leader, whoever leads now."""
        self.raw.delete(self.keys.leader)
        token = new_token()
        elected = await self.store.campaign(token, lease_seconds=600, seen_epoch=0)
        if not isinstance(elected, Elected):
            raise TypeError("somebody else leads")
        return Term(elected.epoch, token)

    async def populate(self) -> None:
        """Let every replica be full, with leases of sessions that have names."""
        for router in self.routers:
            await self.heartbeat(router)
        pipe = self.raw.pipeline(transaction=False)
        for number, url in enumerate(self.urls):
            pipe.hset(self.keys.replica(url), "in_flight", CAPACITY)
            pipe.hset(self.keys.leases(self.router_of(number)), mapping=dict.fromkeys(lease_ids(number), url))
            for at in range(SESSIONS):
                pipe.set(self.keys.affinity_prefix + session(number, at), url)
            pipe.hset(self.keys.several_prefix + session(number, 0), url, "2")
        pipe.delete(self.keys.ready_primary, self.keys.ready_secondary)
        pipe.sadd(self.keys.full, *self.urls)
        now = self.now_ms()
        no_outage = {"reap_after_ms": now - 1, "heartbeats_resumed_at_ms": 1, "reap_until_ms": now + 10**7}
        pipe.hset(self.keys.meta, mapping=no_outage)
        pipe.execute()

    def fill_queue(self) -> None:
        """Let as many sessions wait as there are replicas."""
        waiters = {f"{self.router_of(number)}/{10**6 + number:032x}": number + 1 for number, _ in enumerate(self.urls)}
        self.raw.zadd(self.keys.queue, waiters)

    def set_each(self, urls: list[str], fields: dict[str, Any]) -> None:
        """Write fields of some replicas' hashes, as somebody else would."""
        pipe = self.raw.pipeline(transaction=False)
        for url in urls:
            pipe.hset(self.keys.replica(url), mapping=fields)
        pipe.execute()

    def router_of(self, number: int) -> str:
        """Return the router that has the leases on the replica of that number."""
        return self.routers[number % len(self.routers)]

    def now_ms(self) -> int:
        return int(time.time() * 1000)

    async def times(self, work: Callable[[], Awaitable[object]]) -> dict[str, list[float]]:
        """Return how long each call of each command kept the server busy during some work, in milliseconds."""
        self.raw.slowlog_reset()
        await work()
        took: dict[str, list[float]] = {}
        for entry in self.raw.slowlog_get(LOG_LENGTH):
            if entry["client_name"] not in (PREPARING, PREPARING.encode()):
                took.setdefault(self._name(str(entry["command"])), []).append(entry["duration"] / 1000)
        return took

    def _name(self, command: str) -> str:
        name, *words = command.replace("b'", "").replace('b"', "").split()
        if name.upper() in ("EVALSHA", "EVAL") and words:
            return self._names.get(words[0], name)
        return name.upper()


def lease_ids(number: int) -> list[str]:
    """Return the ids of the leases on the replica of that number."""
    sessions = [session(number, at % SESSIONS) for at in range(CAPACITY)]
    return [f"{number * CAPACITY + at:032x}:{sessions[at]}" for at in range(CAPACITY)]


def session(number: int, at: int) -> str:
    """Return the digest of the name of a session on the replica of that number."""
    return hashlib.sha256(f"{number} {at}".encode()).hexdigest()


def _digest(name: str) -> str:
    return hashlib.sha1(assemble(name).encode(), usedforsecurity=False).hexdigest()
