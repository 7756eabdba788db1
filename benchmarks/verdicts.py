"""What health verdicts by several routers hold to, at default settings: blind routers, and dead replicas.

All routers of a row are registries of one process. Their probes are stand-ins that reach what the row lets them reach:
it is the routers' own times that are measured, not those of HTTP. Each part runs alone, too:

    python -m benchmarks.verdicts [blind-leader] [half-blind] [dead] [scripts] [reports] [steady]
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from redis import Redis
from rich.console import Console

from benchmarks.rows import Row, Target, machine_facts, show
from benchmarks.verdict_scripts import report_times
from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import RegistryError
from shared_registry.model import ORIGIN
from shared_registry.store.keys import Keys
from shared_registry.store.lua import assemble

TITLE = "Health verdicts by several routers"
TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.01
STEADY_SECONDS = 60.0
TRIES = 3
REPORT_WIDTH = 130
LOGGED_US = 100
NOTHING = Target(0)
LEADS = Target(12.0)
OUT = Target(30.0)
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
    """Return the rows of all parts."""
    rows: list[Row] = []
    for part in PARTS.values():
        rows += await part(is_quick=is_quick)
    return rows


@contextlib.contextmanager
def _server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(config={"slowlog-log-slower-than": LOGGED_US, "slowlog-max-len": 20_000}) as server:
        yield server


async def _blind_leader(*, is_quick: bool) -> list[Row]:
    with _server() as server:
        async with cluster(server, routers=4, replicas=12) as four:
            blind = four.leader
            four.paths.cut |= {(blind, url) for url in four.urls}
            began, led_after, nothing, refused, acquired = time.monotonic(), 0.0, 0, 0, 0
            while time.monotonic() - began < LEADS.limit * (1.2 if is_quick else 2):
                nothing += sum(one.select() is None for one in four.routers.values())
                for name, one in four.routers.items():
                    if name != blind:
                        try:
                            await (await one.acquire()).release()
                            acquired += 1
                        except RegistryError:
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


async def _half_blind(*, is_quick: bool) -> list[Row]:
    with _server() as server:
        async with cluster(server, routers=8, replicas=100) as eight:
            eight.paths.cut |= {(f"r{number}", url) for number in range(4) for url in eight.urls[:25]}
            began, since, longest, ever = time.monotonic(), dict[str, float](), 0.0, set[str]()
            visits = asyncio.create_task(_visit(eight))
            while time.monotonic() - began < (15.0 if is_quick else 1.5 * OUT.limit):
                out = eight.out("r7")
                ever |= out
                since = {url: since.get(url, time.monotonic()) for url in out}
                longest = max([longest, *(time.monotonic() - at for at in since.values())])
                await asyncio.sleep(POLL_SECONDS)
            visits.cancel()
            refused, tries = await visits
    where = "4 of 8 routers do not reach 25 of 100 replicas: "
    return [
        Row(f"{where}longest time out", longest, "s", target=OUT, note=f"{len(ever)} were out at all"),
        Row(f"{where}sessions that connected nowhere", refused, "", target=NOTHING, note=f"of {len(tries)}"),
        Row(f"{where}replicas tried by a session", statistics.mean(tries), "", note=f"at most {max(tries)}"),
    ]


async def _visit(started: Cluster) -> tuple[int, list[int]]:
    """Let every router begin sessions until cancelled. Return how many connected nowhere, and the tries of each."""
    refused, tries = 0, list[int]()
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            for name, router in started.routers.items():
                tried: list[str] = []
                while len(tried) < TRIES:
                    lease = await router.acquire(exclude=tried)
                    key = lease.replica.key
                    tried.append(key)
                    is_reached = (name, key) not in started.paths.cut
                    await router.report_outcome(lease.replica, is_reached, "" if is_reached else "refused")
                    await lease.release()
                    if is_reached:
                        break
                else:
                    refused += 1
                tries.append(len(tried))
            await asyncio.sleep(0.1)
    return refused, tries


async def _dead(*, is_quick: bool) -> list[Row]:
    """Return the median times to unhealthy."""
    rows = []
    for replicas, dead in [(12, 1), (12, 9)] if is_quick else [(12, 1), (12, 9), (1000, 1000)]:
        for is_hanging in (False, True):
            how = "hang" if is_hanging else "refuse"
            took: list[float] = []
            for _ in range(1 if is_quick or replicas > 12 else 2):
                with _server() as server:
                    took += await _times_to_unhealthy(server, replicas, dead, is_hanging=is_hanging)
            rows.append(
                Row(
                    f"{dead} of {replicas} replicas {how} at once: median time to unhealthy",
                    statistics.median(took),
                    "s",
                    note=f"the last after {max(took):.2f} s",
                )
            )
    return rows


async def _times_to_unhealthy(server: EmbeddedServer, replicas: int, dead: int, *, is_hanging: bool) -> list[float]:
    async with cluster(server, routers=3, replicas=replicas) as three:
        three.paths.is_hanging = is_hanging
        three.paths.dead = set(three.urls[:dead])
        began = time.monotonic()
        took: dict[str, float] = {}
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(took) < dead:
                took |= {url: time.monotonic() - began for url in three.out("r1") - took.keys()}
                await asyncio.sleep(POLL_SECONDS)
    return list(took.values())


async def _reports(*, is_quick: bool) -> list[Row]:
    """Return the longest runs of the scripts that apply results, on the server's own clock, while much changes.

    The server shares the cores with the routers, which are busy then. `verdict_scripts` measures the scripts alone.
    """
    rows = []
    replicas, patience = (300, 10.0) if is_quick else (1000, 20.0)
    with _server() as server:
        async with cluster(server, routers=4, replicas=replicas) as four:
            some = next(name for name in four.routers if name != four.leader)
            half = set(four.urls[: replicas // 2])

            async def phase(what: str, holds: Callable[[], bool]) -> None:
                _forget_server_times(server)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await four.until(holds)
                rows.extend(_server_times(server, f"{replicas} replicas, {what}"))

            four.paths.dead = set(four.urls)
            await phase("all die at once", lambda: len(four.out(some)) == replicas)
            four.paths.dead = set()
            await phase("all return", lambda: not four.out(some))
            four.paths.cut = {(four.leader, url) for url in four.urls[: replicas // 5]}
            await phase("the leader is blind to a fifth, which is handed over", lambda: _handed_over(four, some))
            some = next(name for name in four.routers if name != four.leader)
            await four.routers.pop(some).stop()
            some = next(name for name in four.routers if name != four.leader)
            await phase("a router to which some were handed over leaves", lambda: False)
            four.paths.cut = {(name, url) for name in four.routers for url in half}
            await phase("half die for all routers but one that left", lambda: len(four.out(some)) == len(half))
    return rows


def _handed_over(started: Cluster, name: str) -> bool:
    wanted = {url for _, url in started.paths.cut}
    return wanted == {one.key for one in started.routers[name].all() if one.record.doubt.prober}


def _forget_server_times(server: EmbeddedServer) -> None:
    with Redis.from_url(server.url) as client:
        client.slowlog_reset()


def _server_times(server: EmbeddedServer, what: str) -> list[Row]:
    rows = []
    with Redis.from_url(server.url, decode_responses=True) as client:
        slow: Any = client.slowlog_get(20_000)
    for script in ("report_probes", "give_opinions"):
        sha = hashlib.sha1(assemble(script).encode(), usedforsecurity=False).hexdigest()
        took = sorted(entry["duration"] / 1000 for entry in slow if sha in str(entry["command"]))
        p99 = took[max(0, round(len(took) * 0.99) - 1)] if took else 0.0
        note = f"99th percentile of {len(took)} longer than {LOGGED_US / 1000:g} ms: {p99:.1f} ms"
        longest = took[-1] if took else 0.0
        rows.append(Row(f"{what}: longest {script}", longest, "ms", note=note))
    return rows


async def _steady(*, is_quick: bool) -> list[Row]:
    seconds = 10.0 if is_quick else STEADY_SECONDS
    with _server() as server:
        async with cluster(server, routers=3, replicas=12) as three:
            await asyncio.sleep(2 * RouterConfig().router_expiry_seconds)
            before = _counts(three)
            await asyncio.sleep(seconds)
            after = _counts(three)
    commands, events, keys = (new - old for old, new in zip(before, after, strict=True))
    where = "3 routers and 12 replicas that are well: "
    return [
        Row(f"{where}commands", commands / seconds, "/s"),
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


PARTS: dict[str, Callable[..., Awaitable[list[Row]]]] = {
    "blind-leader": _blind_leader,
    "half-blind": _half_blind,
    "dead": _dead,
    "scripts": report_times,
    "reports": _reports,
    "steady": _steady,
}


async def main(names: Sequence[str]) -> None:
    """Measure and print some parts."""
    console = Console(width=REPORT_WIDTH)
    for name in names or PARTS:
        show(console, {f"{TITLE}: {name}": await PARTS[name](is_quick=False)}, machine_facts())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
