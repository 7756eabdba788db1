"""One namespace as tests see it: the store of any router, a reader, and raw access to plant state and to look."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from redis import Redis

from shared_registry.admin.inspector import Inspector
from shared_registry.model import Event, ProbeResult, ReplicaEndpoint, RouterInfo, Source, Term, Thresholds
from shared_registry.store import client
from shared_registry.store.answers import new_token
from shared_registry.store.client import Clients
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.registering import Registered
from shared_registry.store.replies import Elected, Report

A, B, C, D, E = (f"http://10.0.0.{number}:8000" for number in range(1, 6))
THRESHOLDS = Thresholds(failure=3, recovery=2)
TIMEOUT_SECONDS = 10.0
"""Generous: a busy machine must not fail a test that is not about time."""

Dump = dict[str, object]


class Space:
    """One namespace of one server.

    `raw` is an ordinary client without any of our code. It blocks, which the server's answering from another process
    makes harmless.
    """

    def __init__(self, clients: Clients, raw: Any, namespace: str) -> None:
        self.keys = Keys(namespace)
        self.clients = clients
        self.raw = raw
        self.reader = Inspector(clients, self.keys, timeout_seconds=TIMEOUT_SECONDS)
        self.store = self.store_of("router~1")

    def store_of(self, router: str, *, timeout_seconds: float = TIMEOUT_SECONDS, **options: Any) -> Store:
        return Store(self.clients, self.keys, router=router, timeout_seconds=timeout_seconds, **options)

    def dump(self) -> Dump:
        """Return every key of the namespace with its value."""
        return {key: self._value(key) for key in sorted(self.raw.scan_iter(match=f"{self.keys.prefix}*", count=1000))}

    def _value(self, key: str) -> object:
        read: dict[str, Callable[[], object]] = {
            "hash": lambda: self.raw.hgetall(key),
            "zset": lambda: self.raw.zrange(key, 0, -1, withscores=True),
            "set": lambda: self.raw.smembers(key),
            "stream": lambda: self.raw.xrange(key),
            "string": lambda: self.raw.get(key),
        }
        return read[self.raw.type(key)]()

    def fields(self, url: str) -> dict[str, str]:
        """Return a replica's hash."""
        fields: dict[str, str] = self.raw.hgetall(self.keys.replica(url))
        return fields

    def incarnation(self, url: str) -> str:
        return self.fields(url)["incarnation"]

    def ready(self) -> tuple[set[str], set[str], set[str]]:
        """Return what is in the two ready sets and in `full`."""
        return (
            set(self.raw.zrange(self.keys.ready_primary, 0, -1)),
            set(self.raw.zrange(self.keys.ready_secondary, 0, -1)),
            set(self.raw.smembers(self.keys.full)),
        )

    def event_kinds(self) -> list[str]:
        return [fields["kind"] for _, fields in self.raw.xrange(self.keys.events)]

    def now_ms(self) -> int:
        seconds, microseconds = self.raw.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def add(
        self, url: str = A, *, mode: Source = Source.EXPLICIT, request: str | None = None, by: str = "", **spec: Any
    ) -> list[Event]:
        request = request or new_token()
        return await self.store.register(url, ReplicaEndpoint(url, **spec), mode=mode, request=request, by=by)

    async def add_all(
        self,
        endpoints: Mapping[str, ReplicaEndpoint],
        *,
        mode: Source = Source.EXPLICIT,
        by: str = "",
        store: Store | None = None,
    ) -> list[Registered]:
        return [one async for one in (store or self.store).register_all(endpoints, mode=mode, by=by)]

    async def remove(self, url: str = A) -> list[Event] | None:
        return await self.store.deregister(url, self.incarnation(url))

    async def elect(self, token: str = "token") -> int:
        elected = await self.store.campaign(token, lease_seconds=60, seen_epoch=0)
        assert isinstance(elected, Elected)
        return elected.epoch

    async def report(self, epoch: int, batch: int, *results: ProbeResult, token: str = "token") -> Report:
        return await self.store.report(Term(epoch, token), batch, results, THRESHOLDS)

    async def report_all(self, epoch: int, *results: ProbeResult) -> None:
        """Report results that change more than one call may."""
        batch = 1
        while results:
            results = results[(await self.report(epoch, batch, *results)).done :]
            batch += 1

    async def make(self, status: str, url: str = A) -> None:
        """Bring a registered replica to a status by outcomes."""
        result, times = (self.success(url), 2) if status == "healthy" else (self.failure(url), 3)
        for _ in range(times):
            await self.store.record_outcome(result, THRESHOLDS)
        if self.fields(url)["status"] != status and "suspicion" in self.fields(url):
            # Routers that probe were asked, and nobody answers.
            self.raw.hset(self.keys.replica(url), "suspected_until_ms", self.now_ms() - 1)
            await self.store.record_outcome(result, THRESHOLDS)
        assert self.fields(url)["status"] == status

    def success(self, url: str = A, latency_ms: float = 1.0) -> ProbeResult:
        return ProbeResult(url, self.incarnation(url), latency_ms)

    def failure(self, url: str = A, error: str = "refused") -> ProbeResult:
        return ProbeResult(url, self.incarnation(url), 0.0, error)

    def plant_load(self, url: str, sessions: int) -> None:
        """Let a router hold that many leases on a replica; the ready sets are not brought in the queue."""
        router = "planted~1"
        planted = self.raw.hgetall(self.keys.leases(router))
        for lease_id in [one for one, where in planted.items() if where == url]:
            self.raw.hdel(self.keys.leases(router), lease_id)
        if sessions:
            leases = {f"{number:08x}{url.encode().hex()}": url for number in range(sessions)}
            self.raw.hset(self.keys.leases(router), mapping=leases)
            self.raw.zadd(self.keys.routers, {router: self.now_ms() + 60_000})
        self.raw.hset(self.keys.replica(url), "in_flight", sessions)

    def expire_router(self, key: str) -> None:
        """Make a router one that has sent no heartbeat for long, in a cluster that has beaten all the time."""
        now = self.now_ms()
        self.raw.zadd(self.keys.routers, {key: now - 1})
        self.raw.hset(
            self.keys.meta, mapping={"heartbeat_at_ms": now, "reap_after_ms": now - 1, "reap_until_ms": now + 60_000}
        )


def info(key: str = "router~1") -> RouterInfo:
    return RouterInfo(key, "host", 1, "0.1", 1_700_000_000.5, "http://router", "fingerprint")


@contextlib.asynccontextmanager
async def on_server(
    url: str, namespace: str, *, raw_url: str | None = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> AsyncIterator[Space]:
    clients = client.connect(url, timeout_seconds=timeout_seconds, block_seconds=1.0)
    with Redis.from_url(raw_url or url, decode_responses=True) as raw:
        try:
            yield Space(clients, raw, namespace)
        finally:
            await clients.close()


@contextlib.asynccontextmanager
async def on_fake(namespace: str = "fake") -> AsyncIterator[Space]:
    server = FakeServer()
    fake = FakeAsyncRedis(server=server, decode_responses=True, protocol=2)
    with FakeRedis(server=server, decode_responses=True, protocol=2) as raw:
        try:
            yield Space(Clients(fake, fake, 1.0), raw, namespace)
        finally:
            await fake.aclose()
