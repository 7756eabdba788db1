"""Eight processes compete for forty slots, in three ways: leases, and two that are common elsewhere.

One rival reads all loads, picks the least and counts itself there: between the two, others do the same. The other one
counts itself with INCR and takes that back where it is one too many, on counters that expire: never too many, but what
a killed process had counted stays until the counter expires, and every other session there puts that off. Its time to
live is `router_expiry_seconds` here; to outlast the longest session, it would have to be hours.

In the last two ways a process is killed half-way. Leaked is what counts and nobody uses any more, in slots times
seconds, from the kill on. See `placing_process` for what the processes do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.namespace import PATIENCE_SECONDS, client_of, fill
from benchmarks.placing_process import CAPACITY, counter, presence
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.store.client import Client
from shared_registry.store.keys import Keys

PROCESSES = 8
TASKS = 6
REPLICAS = 10
NAMESPACE = "load"
EXPIRY_SECONDS, EXPIRY_SECONDS_QUICK = 5.0, 0.6
HEARTBEATS_PER_EXPIRY = 5
GRACE_SECONDS = 1.0
"""What reaping may take beyond the expiry."""
WATCH_SECONDS = 0.01
READ_THEN_COUNT = "read loads, then INCR"
EXPIRING_COUNTER = "expiring counter"


@dataclass(frozen=True)
class Outcome:
    """What the processes saw together."""

    sessions: int
    beyond: int
    most: int

    @property
    def percent_beyond(self) -> float:
        """How many of the sessions were one too many where they went."""
        return 100 * self.beyond / self.sessions


@dataclass(frozen=True)
class Leak:
    """What a killed process left behind, and for how long."""

    slots: int
    slot_seconds: float
    seconds: float


async def measure_load(redis_url: str, *, is_quick: bool) -> list[Row]:
    """Return what each way admits beyond capacity, and what it leaks."""
    expiry = EXPIRY_SECONDS_QUICK if is_quick else EXPIRY_SECONDS
    urls = await fill(redis_url, REPLICAS, NAMESPACE, primaries=REPLICAS, capacity=CAPACITY)
    settings = {
        "config": {
            "redis_url": redis_url,
            "namespace": NAMESPACE,
            "router_expiry_seconds": expiry,
            "heartbeat_seconds": expiry / HEARTBEATS_PER_EXPIRY,
        },
        "urls": urls,
        "tasks": TASKS,
        "seconds": {"read_then_count": expiry, "expiring_counter": 2 * expiry, "leases": 2 * expiry},
    }
    # Each way has eight; two of them lose one.
    children = [Child("placing_process", settings) for _ in range(PROCESSES + 1)]
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_of(redis_url))
        await asyncio.gather(*(stack.enter_async_context(child) for child in children))
        read_then_count = await _run_all("read_then_count", children[:PROCESSES])
        await client.delete(*(counter(url) for url in urls))

        async def leased() -> int:
            return int(await client.hlen(Keys(NAMESPACE).leases(children[0].ready["router"])))

        async def counted() -> int:
            return sum(int(count or 0) for count in await client.mget([counter(url) for url in urls]))

        running = asyncio.create_task(_run_all("leases", children[:PROCESSES]))
        killed_at = await _crash(children[0], client, urls, after_seconds=expiry)
        leak = await _watch(leased, killed_at)
        leases = await running

        running = asyncio.create_task(_run_all("expiring_counter", children[1:]))
        killed_at = await _crash(children[1], client, urls, after_seconds=expiry)
        expiring_counter = await running  # only now does the count tell what the victim left
        their_leak = await _watch(counted, killed_at)
    return [*_admission_rows(leases, read_then_count, expiring_counter), *_leak_rows(leak, their_leak, expiry)]


async def _run_all(way: str, children: Sequence[Child]) -> Outcome:
    """Let all place in a way; one that is killed meanwhile has nothing to say."""
    answers = await asyncio.gather(*(child.ask(way) for child in children), return_exceptions=True)
    answered = [answer for answer in answers if not isinstance(answer, BaseException)]
    if len(answered) < PROCESSES - 1:
        raise RuntimeError(f"processes have ended that nobody killed: {answers}")
    return Outcome(
        sum(answer["sessions"] for answer in answered),
        sum(answer["beyond"] for answer in answered),
        max(answer["most"] for answer in answered),
    )


async def _crash(victim: Child, client: Client, urls: Sequence[str], *, after_seconds: float) -> float:
    """Kill a process, whose sessions end with it; return when."""
    await asyncio.sleep(after_seconds)
    victim.kill()
    killed_at = time.monotonic()
    for url in urls:
        await client.hdel(presence(url), victim.ready["router"])
    return killed_at


async def _watch(leaked: Callable[[], Awaitable[int]], killed_at: float) -> Leak:
    """Add up until nothing is left; what is there at the first look has been there since the kill."""
    slots = there = await leaked()
    slot_seconds, read_at = 0.0, killed_at
    async with asyncio.timeout(PATIENCE_SECONDS):
        while there:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            slot_seconds += there * (now - read_at)
            read_at, there = now, await leaked()
    return Leak(slots, slot_seconds, read_at - killed_at)


def _admission_rows(ours: Outcome, read_then_count: Outcome, expiring_counter: Outcome) -> list[Row]:
    beyond = f"{PROCESSES} processes at capacity: sessions beyond it"
    most = f"most at once on a replica of capacity {CAPACITY}"
    return [
        Row(beyond, ours.percent_beyond, "%", read_then_count.percent_beyond, READ_THEN_COUNT, Target(0)),
        Row("the same", ours.percent_beyond, "%", expiring_counter.percent_beyond, EXPIRING_COUNTER, Target(0)),
        Row(most, ours.most, "sessions", read_then_count.most, READ_THEN_COUNT, Target(CAPACITY)),
    ]


def _leak_rows(ours: Leak, theirs: Leak, expiry: float) -> list[Row]:
    what = f"a killed process leaks ({ours.slots} slots here, {theirs.slots} there)"
    note = (
        f"router_expiry_seconds and the counter's time to live are {expiry:g} s; {expiry:g} s of load followed the kill"
    )
    bound = Target(expiry + GRACE_SECONDS)
    return [
        Row(what, ours.slot_seconds, "slot s", theirs.slot_seconds, EXPIRING_COUNTER, note=note),
        Row("until the last of them is free", ours.seconds, "s", theirs.seconds, EXPIRING_COUNTER, bound),
    ]
