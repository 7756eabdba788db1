"""A namespace from outside: filled with replicas before a measurement, watched and asked about during one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from shared_registry.leader.unreported import RESULTS_AT_ONCE
from shared_registry.model import ORIGIN, EventKind, ProbeResult, ReplicaEndpoint, Source, Term, Thresholds
from shared_registry.store.answers import new_token
from shared_registry.store.client import Client, Clients, connect
from shared_registry.store.codec import known_events
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.lua import Script, assemble
from shared_registry.store.replies import Elected

NAMESPACE = "default"
PATIENCE_SECONDS = 30.0
FILL_SECONDS = 120.0
"""How long the reports of a whole fleet may take on a busy machine."""
COMMANDS_AT_ONCE = 500
LOG_LENGTH = 100_000


def local_urls(count: int, port: int) -> list[str]:
    """Return that many origins on this machine."""
    return [f"http://127.0.{n // 250 + 1}.{n % 250 + 1}:{port}" for n in range(count)]


def distant_urls(count: int) -> list[str]:
    """Return that many origins where nobody answers."""
    return [f"http://10.{n >> 16}.{n >> 8 & 255}.{n & 255}:8000" for n in range(count)]


@contextlib.asynccontextmanager
async def client_of(redis_url: str) -> AsyncIterator[Client]:
    """Connect a client that makes a connection for each call under way, as a caller's own would."""
    clients = connect(redis_url, timeout_seconds=PATIENCE_SECONDS, block_seconds=1.0)
    try:
        yield clients.blocking
    finally:
        await clients.close()


class _Recorder:
    """Stands in for a client: keeps the script calls that it is given, for a pipeline to send."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def evalsha(self, *call: object) -> list[str]:
        self.calls.append(call)
        return ["created"]

    async def eval(self, text: str, *call: object) -> list[str]:
        """Keep the first call of a script, which has its text, as those that follow."""
        return await self.evalsha(Script.of(text).digest, *call)


async def fill(
    redis_url: str, count: int, namespace: str = NAMESPACE, *, primaries: int = 1, capacity: int = 0
) -> list[str]:
    """Register `distant_urls`, the first ones primary, and report them healthy; return them."""
    urls = distant_urls(count)
    endpoints = [ReplicaEndpoint(url, primary=at < primaries, capacity=capacity) for at, url in enumerate(urls)]
    async with client_of(redis_url) as client:
        results = await _register(client, endpoints, namespace)
        store = Store(Clients.of(client), Keys(namespace), router="filler", timeout_seconds=PATIENCE_SECONDS)
        await _report(store, results)
    return urls


async def _register(client: Client, endpoints: Sequence[ReplicaEndpoint], namespace: str) -> list[ProbeResult]:
    """Register many in pipelines; return a success for each."""
    recorder, results = _Recorder(), []
    store = Store(Clients.of(recorder), Keys(namespace), router="filler")
    for endpoint in endpoints:
        request = new_token()  # which becomes the incarnation
        await store.register(endpoint.url, endpoint, mode=Source.EXPLICIT, request=request, by="benchmark")
        results.append(ProbeResult(endpoint.url, request, 1.0))
    await client.script_load(assemble("register_replica"))
    for at in range(0, len(recorder.calls), COMMANDS_AT_ONCE):
        pipeline = client.pipeline(transaction=False)
        for call in recorder.calls[at : at + COMMANDS_AT_ONCE]:
            pipeline.evalsha(*call)
        await pipeline.execute()
    return results


async def _report(store: Store, results: Sequence[ProbeResult]) -> None:
    token = new_token()
    elected = await store.campaign(token, lease_seconds=FILL_SECONDS, seen_epoch=0)
    if not isinstance(elected, Elected):
        raise TypeError("somebody else leads")
    term = Term(elected.epoch, token)
    batch = 0
    while results:
        batch += 1
        report = await store.report(term, batch, results[:RESULTS_AT_ONCE], Thresholds())
        results = results[report.done :]
    await store.resign(token)


async def leader_of(client: Client, namespace: str = NAMESPACE) -> str:
    """Return the key of the router that leads, waiting for one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            router: str | None = await client.hget(Keys(namespace).leader, "router")
            if router:
                return router
            await asyncio.sleep(0.02)


async def next_election(client: Client, namespace: str = NAMESPACE) -> tuple[str, float]:
    """Return who is elected next, and when that was seen here on the monotonic clock."""
    events = Keys(namespace).events
    after = await revision_of(client, namespace)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for _, entries in await client.xread({events: after}, block=1000):
                read_at = time.monotonic()
                for event_id, fields in entries:
                    after = event_id
                    if fields["kind"] == EventKind.LEADER_ELECTED.value:
                        return fields["router"], read_at


async def revision_of(client: Client, namespace: str = NAMESPACE) -> str:
    """Return the id of the last event."""
    revision: str | None = await client.hget(Keys(namespace).meta, "revision")
    return revision or ORIGIN


async def count_events(client: Client, *, after: str = ORIGIN, kind: EventKind | None = None) -> int:
    """Return how many events, of a kind or of all, follow a revision; one about several replicas counts for each."""
    entries = await client.xrange(Keys(NAMESPACE).events, min=f"({after}")
    return sum(len(event.apart()) for event in known_events(entries) if kind in (None, event.kind))


async def longest_command(client: Client, work: Callable[[], Awaitable[object]]) -> tuple[str, float]:
    """Return which single command kept the server busy longest during some work, and for how many milliseconds."""
    await client.config_set("slowlog-max-len", LOG_LENGTH)
    await client.slowlog_reset()
    await client.config_set("slowlog-log-slower-than", 0)
    await work()
    await client.config_set("slowlog-log-slower-than", -1)
    entries: list[dict[str, Any]] = await client.slowlog_get(LOG_LENGTH)
    longest = max(entries, key=lambda entry: int(entry["duration"]))
    command = longest["command"]
    arguments = (command.decode() if isinstance(command, bytes) else command).split()
    return arguments[0], longest["duration"] / 1000
