"""What health verdicts by several routers hold to, at default settings: blind routers, and dead replicas.

All routers of a row are registries of one process. Their probes are stand-ins that reach what the row lets them reach:
it is the routers' own times that are measured, not those of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import statistics
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from redis import Redis

from benchmarks.rows import Row, Target
from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ORIGIN
from shared_registry.store.keys import Keys
from shared_registry.store.lua import assemble

TITLE = "Health verdicts by several routers"
TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.01
STEADY_SECONDS = 10.0
LOGGED_US = 100
NOTHING = Target(0)
LEADS = Target(12.0)
OUT = Target(30.0)
SERVER_MS = Target(5.0)
STEADY_EVENTS = Target(0)


class Paths:
    """What each router's probes reach.

    Attributes:
        cut: Pairs of router and url.
        dead: Urls that nobody reaches.
        is_hanging: Whether what is not reached hangs until the timeout, in place of being refused.
    """

    def __init__(self) -> None:
        self.cut: set[tuple[str, str]] = set()
        self.dead: set[str] = set()
        self.is_hanging = False

    def probe_of(self, router: str) -> Callable[..., Any]:
        async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
            key = url.removesuffix("/health")
            if key not in self.dead and (router, key) not in self.cut:
                await asyncio.sleep(0.001)
                return 1.0, None
            await asyncio.sleep(timeout if self.is_hanging else 0.0005)
            return 0.5, "timed out" if self.is_hanging else "refused"

        return probe


class Cluster:
    """Started routers, all replicas healthy."""

    def __init__(self, server: EmbeddedServer, namespace: str, urls: list[str]) -> None:
        self.server = server
        self.urls = urls
        self.keys = Keys(namespace)
        self.paths = Paths()
        self.routers: dict[str, SharedReplicaRegistry] = {}

    @property
    def leader(self) -> str:
        return next((name for name, one in self.routers.items() if one.is_leader), "")

    def out(self, name: str) -> set[str]:
        return {replica.key for replica in self.routers[name].all() if not replica.is_healthy}

    async def until(self, holds: Callable[[], bool]) -> float:
        """Return after how many seconds it holds."""
        began = time.monotonic()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not holds():  # noqa: ASYNC110  a registry has no event for it
                await asyncio.sleep(POLL_SECONDS)
        return time.monotonic() - began


@contextlib.asynccontextmanager
async def cluster(server: EmbeddedServer, *, routers: int, replicas: int) -> AsyncIterator[Cluster]:
    urls = [f"http://127.0.{1 + n // 250}.{1 + n % 250}:8000" for n in range(replicas)]
    started = Cluster(server, f"verdicts-{time.monotonic_ns()}", urls)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(routers):
            name = f"r{number}"
            config = RouterConfig(
                replicas=[ReplicaEndpoint(url) for url in urls],
                redis_url=server.url,
                namespace=started.keys.namespace,
                router_id=name,
            )
            registry = SharedReplicaRegistry(config, http_get=started.paths.probe_of(name))
            started.routers[name] = await stack.enter_async_context(registry)
        await started.until(lambda: bool(started.leader) and not any(started.out(name) for name in started.routers))
        await asyncio.sleep(RouterConfig().health_check_interval_seconds)  # until every replica is in its slot
        yield started


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the rows."""
    rows: list[Row] = []
    with EmbeddedServer(config={"slowlog-log-slower-than": LOGGED_US, "slowlog-max-len": 4096}) as server:
        rows += await _blind_leader(server)
        rows += await _half_blind(server)
        for replicas, dead in [(12, 1), (12, 9)] if is_quick else [(12, 1), (12, 9), (1000, 1000)]:
            for is_hanging in (False, True):
                _forget_server_times(server)
                rows.append(await _dead(server, replicas, dead, is_hanging=is_hanging))
        rows.append(_server_times(server))
        rows += await _steady(server)
    return rows


async def _blind_leader(server: EmbeddedServer) -> list[Row]:
    async with cluster(server, routers=4, replicas=12) as four:
        blind = four.leader
        four.paths.cut |= {(blind, url) for url in four.urls}
        began, led_after, nothing, refused, acquired = time.monotonic(), 0.0, 0, 0, 0
        while time.monotonic() - began < 2 * LEADS.limit:
            nothing += sum(one.select() is None for one in four.routers.values())
            for name, one in four.routers.items():
                if name != blind:
                    try:
                        await (await one.acquire()).release()
                        acquired += 1
                    except Exception:  # noqa: BLE001  whatever keeps a session from being placed
                        refused += 1
            if not led_after and four.leader not in ("", blind):
                led_after = time.monotonic() - began
            await asyncio.sleep(0.05)
    where = "the leader of 4 routers reaches none of 12 replicas: "
    return [
        Row(f"{where}selects of nothing", nothing, "", target=NOTHING),
        Row(f"{where}refused acquires of the others", refused, "", target=NOTHING, note=f"of {acquired + refused}"),
        Row(f"{where}another leads after", led_after or TIMEOUT_SECONDS, "s", target=LEADS),
    ]


async def _half_blind(server: EmbeddedServer) -> list[Row]:
    async with cluster(server, routers=8, replicas=100) as eight:
        eight.paths.cut |= {(f"r{number}", url) for number in range(4) for url in eight.urls[:25]}
        began, since, longest, ever = time.monotonic(), dict[str, float](), 0.0, set[str]()
        while time.monotonic() - began < 2 * OUT.limit:
            out = eight.out("r7")
            ever |= out
            since = {url: since.get(url, time.monotonic()) for url in out}
            longest = max([longest, *(time.monotonic() - at for at in since.values())])
            await asyncio.sleep(POLL_SECONDS)
    what = "4 of 8 routers do not reach 25 of 100 replicas: longest time out"
    return [Row(what, longest, "s", target=OUT, note=f"{len(ever)} were out at all")]


async def _dead(server: EmbeddedServer, replicas: int, dead: int, *, is_hanging: bool) -> Row:
    """Return the median time to unhealthy, with the longest call of `report_probes` as a note."""
    async with cluster(server, routers=3, replicas=replicas) as three:
        three.paths.is_hanging = is_hanging
        three.paths.dead = set(three.urls[:dead])
        some = three.routers["r1"]
        await some.refresh()
        began = time.monotonic()
        took: dict[str, float] = {}
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(took) < dead:
                took |= {url: time.monotonic() - began for url in three.out("r1") - took.keys()}
                await asyncio.sleep(POLL_SECONDS)
    how = "hang" if is_hanging else "refuse"
    return Row(
        f"{dead} of {replicas} replicas {how} at once: median time to unhealthy",
        statistics.median(took.values()),
        "s",
        note=f"the last after {max(took.values()):.2f} s",
    )


def _forget_server_times(server: EmbeddedServer) -> None:
    with Redis.from_url(server.url) as client:
        client.slowlog_reset()


def _server_times(server: EmbeddedServer) -> Row:
    """Return the longest run of `report_probes` in the row before, on the server's own clock."""
    sha = hashlib.sha1(assemble("report_probes").encode(), usedforsecurity=False).hexdigest()
    with Redis.from_url(server.url, decode_responses=True) as client:
        slow: Any = client.slowlog_get(4096)
    took = sorted(entry["duration"] / 1000 for entry in slow if sha in str(entry["command"]))
    p99 = took[max(0, round(len(took) * 0.99) - 1)] if took else 0.0
    note = f"99th percentile of {len(took)} longer than {LOGGED_US / 1000:g} ms: {p99:.1f} ms"
    return Row(
        "the longest report of the row before, on the server",
        took[-1] if took else 0.0,
        "ms",
        target=SERVER_MS,
        note=note,
    )


async def _steady(server: EmbeddedServer) -> list[Row]:
    async with cluster(server, routers=3, replicas=12) as three:
        await asyncio.sleep(RouterConfig().health_check_interval_seconds)
        before = _counts(three)
        await asyncio.sleep(STEADY_SECONDS)
        after = _counts(three)
    commands, events, keys = (new - old for old, new in zip(before, after, strict=True))
    where = "3 routers and 12 replicas that are well: "
    return [
        Row(f"{where}commands", commands / STEADY_SECONDS, "/s"),
        Row(f"{where}events", events, "", target=STEADY_EVENTS),
        Row(f"{where}new keys", keys, "", target=NOTHING),
    ]


def _counts(started: Cluster) -> tuple[int, int, int]:
    """Return how many commands, events and keys there have been."""
    with Redis.from_url(started.server.url, decode_responses=True) as client:
        info: dict[str, Any] = client.info("stats")
        keys = sum(1 for _ in client.scan_iter(match=f"{started.keys.prefix}*", count=1000))
        events: Any = client.xrange(started.keys.events, min=f"({ORIGIN}")
        return int(info["total_commands_processed"]), len(events), keys
