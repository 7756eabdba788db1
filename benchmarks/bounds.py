"""How long Redis is busy with one command, at 10,000 replicas, 50,000 leases, 10,000 waiters and 500 changes at once.

All replicas are full, so that the waiters wait. Every command of routers, and every read of a mirror and of `check`, is
called as its users call it. The server's slow log has its own time for each call.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis import Redis

from benchmarks.namespace import NAMESPACE, PATIENCE_SECONDS, RESULTS_AT_ONCE, distant_urls, fill
from benchmarks.rows import Row, Target
from shared_registry.admin.check import Violation, find_violations
from shared_registry.admin.inspector import Inspector
from shared_registry.admin.repair import repair
from shared_registry.embedded import EmbeddedServer
from shared_registry.leases.reconciliation import RESTORED_AT_ONCE
from shared_registry.model import (
    AdminState,
    Opinion,
    OpinionKind,
    ProbeResult,
    ReplicaEndpoint,
    RouterInfo,
    Source,
    Term,
    Thresholds,
)
from shared_registry.store.answers import new_token
from shared_registry.store.client import connect
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.lua import assemble, command_names
from shared_registry.store.replies import Departure, Elected

TITLE = "The longest command at 10,000 replicas, 50,000 leases, 10,000 waiters, 500 changes at once"
SERVER_MS = Target(5.0)
LOGGED_US = 200
LOG_LENGTH = 100_000
CAPACITY = 5
ROUTERS = 20
CHANGES = 500
LIMITS = Thresholds(failure=3, recovery=2, interval_seconds=5.0, timeout_seconds=2.0)


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

    async def populate(self) -> None:
        """Let every replica be full, and as many sessions wait."""
        for router in self.routers:
            info = RouterInfo(router, "h", 1, "1", time.time(), machine=router, probe_print="same")
            await self.store_of(router).heartbeat(info, expiry_seconds=600)
        pipe = self.raw.pipeline(transaction=False)
        for number, url in enumerate(self.urls):
            pipe.hset(self.keys.replica(url), "in_flight", CAPACITY)
            leases = {f"{number * CAPACITY + at:032x}": url for at in range(CAPACITY)}
            pipe.hset(self.keys.leases(self.routers[number % ROUTERS]), mapping=leases)
        pipe.delete(self.keys.ready_primary, self.keys.ready_secondary)
        pipe.sadd(self.keys.full, *self.urls)
        for number, _ in enumerate(self.urls):
            pipe.zadd(self.keys.queue, {f"{self.routers[number % ROUTERS]}/{10**6 + number:032x}": number + 1})
        now = int(time.time() * 1000)
        no_outage = {"reap_after_ms": now - 1, "heartbeats_resumed_at_ms": 1, "reap_until_ms": now + 10**7}
        pipe.hset(self.keys.meta, mapping=no_outage)
        pipe.execute()

    async def measure(self, what: str, work: Callable[[], Awaitable[object]]) -> list[Row]:
        """Return the longest call of each command during some work, if it is long enough to be logged."""
        self.raw.slowlog_reset()
        await work()
        took: dict[str, list[float]] = {}
        for entry in self.raw.slowlog_get(LOG_LENGTH):
            took.setdefault(self._name(str(entry["command"])), []).append(entry["duration"] / 1000)
        rows = []
        for name, times in sorted(took.items()):
            times.sort()
            note = f"the longest of {len(times)} over {LOGGED_US / 1000:g} ms; median {times[len(times) // 2]:.1f} ms"
            rows.append(Row(f"{what}: {name}", times[-1], "ms", target=SERVER_MS, note=note))
        return rows

    def _name(self, command: str) -> str:
        name, *words = command.replace("b'", "").split()
        if name.upper() in ("EVALSHA", "EVAL") and words:
            return self._names.get(words[0], name)
        return " ".join([name.upper(), *(word.removeprefix(self.keys.prefix) for word in words[:1])])[:40]


def _digest(name: str) -> str:
    return hashlib.sha1(assemble(name).encode(), usedforsecurity=False).hexdigest()


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the longest call of each command."""
    replicas = 1_000 if is_quick else 10_000
    log = {"slowlog-log-slower-than": LOGGED_US, "slowlog-max-len": LOG_LENGTH}
    with EmbeddedServer(config=log) as server:
        await fill(server.url, replicas, capacity=CAPACITY)
        clients = connect(server.url, timeout_seconds=PATIENCE_SECONDS, block_seconds=1.0)
        with Redis.from_url(server.url, decode_responses=True) as raw:
            try:
                for name in command_names():
                    raw.script_load(assemble(name))
                namespace = Namespace(clients, raw, distant_urls(replicas))
                await namespace.populate()
                rows = []
                for what, work in _works(namespace).items():
                    rows += await namespace.measure(what, work)
                return rows
            finally:
                await clients.close()


def _works(space: Namespace) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "reading": lambda: _read(space),
        "sessions": lambda: _sessions(space),
        "verdicts": lambda: _verdicts(space),
        "operators": lambda: _operators(space),
        "putting back": lambda: _put_back(space),
        "check": lambda: find_violations(space.reader, space.keys),
        "repair": lambda: _repair(space),
        "reaping": lambda: _reap(space),
    }


async def _read(space: Namespace) -> None:
    reader = space.reader
    snapshot = await reader.snapshot()
    await reader.loads({url: record.endpoint for url, record in snapshot.records.items()})
    async for _ in reader.waiters():
        pass
    async for _ in reader.leases(space.routers[0]):
        pass
    await reader.last_events(10_000)
    await reader.poll(after="0-0")


async def _sessions(space: Namespace) -> None:
    for number in range(100):
        await space.store.acquire(f"{2 * 10**6 + number:032x}", max_queue=10**6)
        await space.store.acquire(f"{3 * 10**6 + number:032x}", excluded=space.urls[:20])
        await space.store.release(f"{number * CAPACITY * ROUTERS:032x}")
    for router in space.routers:
        info = RouterInfo(router, "h", 1, "1", time.time(), machine=router, probe_print="same")
        await space.store_of(router).heartbeat(info, expiry_seconds=600)


async def _verdicts(space: Namespace) -> None:
    token = new_token()
    elected = await space.store.campaign(token, lease_seconds=600, seen_epoch=0)
    if not isinstance(elected, Elected):
        raise TypeError("somebody else leads")
    term, batch = Term(elected.epoch, token), 0
    urls = space.urls[:CHANGES]
    results = [ProbeResult(url, space.raw.hget(space.keys.replica(url), "incarnation"), 1.0, "down") for url in urls]
    for round_ in range(6):
        rest = results if round_ < 4 else [ProbeResult(one.key, one.incarnation, 1.0) for one in results]
        for one in results if round_ == 3 else ():
            space.raw.hset(space.keys.replica(one.key), "suspected_until_ms", 1)
        while rest:
            batch += 1
            rest = rest[(await space.store.report(term, batch, rest[:RESULTS_AT_ONCE], LIMITS)).done :]
    opinions = [Opinion(OpinionKind.APPEAL, "1", result) for result in results[:RESULTS_AT_ONCE]]
    while opinions:
        opinions = opinions[(await space.store_of(space.routers[1]).give_opinions(opinions, LIMITS)).done :]
    await space.store.advance_ramps(term, urls[:200], slow_start_seconds=1)
    await space.store.participants(term)


async def _operators(space: Namespace) -> None:
    for url in space.urls[:50]:
        await space.store.set_admin(url, AdminState.DISABLED)
        await space.store.set_admin(url, AdminState.ACTIVE)
        await space.store.register(
            url, ReplicaEndpoint(url, capacity=2 * CAPACITY), mode=Source.EXPLICIT, request=new_token()
        )


async def _put_back(space: Namespace) -> None:
    leases = {f"{4 * 10**6 + at:032x}": url for at, url in enumerate(space.urls[:RESTORED_AT_ONCE])}
    await space.store.restore_leases(leases)


async def _repair(space: Namespace) -> None:
    """Many replicas are wrong, and sessions of a router that nobody knows have leases."""
    for url in space.urls[1000:2000]:
        space.raw.hset(space.keys.replica(url), "in_flight", 9)
    space.raw.hset(space.keys.leases("unlisted~1"), mapping={f"{at:032x}": space.urls[0] for at in range(2500)})
    violations: list[Violation] = await find_violations(space.reader, space.keys)
    await repair(space.store, violations, by="benchmark")


async def _reap(space: Namespace) -> None:
    gone = space.routers[-1]
    space.raw.zadd(space.keys.routers, {gone: 1})
    while await space.store.reap(gone, affinity_seconds=60) is Departure.PARTIAL:
        pass
    while await space.store_of(space.routers[-2]).leave(affinity_seconds=60) is Departure.PARTIAL:
        pass
