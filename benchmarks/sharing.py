"""A thousand replicas that two routers share, beside a leader that probes a thousand alone; and one of the two killed.

Both fleets run at once, with default settings: three routers, each a process of its own, on two namespaces, and two
processes of replicas on 127.0.x.y. A window of whole intervals shows the CPU of each router (`time.process_time`) and
how many probes it made. Then one of the two that share is killed. From then on each replica's own times say for how
long nobody probed it, until the other router has probed all replicas for three intervals.
"""

from __future__ import annotations

import asyncio
import contextlib

from benchmarks.namespace import local_urls
from benchmarks.processes import Answer, Child
from benchmarks.rows import Row, Target
from shared_registry import RouterConfig
from shared_registry.embedded import EmbeddedServer

REPLICAS = 1_000
TITLE = f"{REPLICAS:,} replicas, `probing: shared` (2 routers)"
SETTLING_INTERVALS = 2.5
ABOUT_HALF = Target(0.65, of="ratio")
"""Half of the probes, and what each router needs for its mirror, heartbeats and loads however few it probes."""
UNEVEN_PERCENT = Target(5.0)
IN_TIME = Target(1.0, of="ratio")


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the shares and the CPU of two routers beside that of one, and what happens when one of them is killed."""
    default = RouterConfig()
    interval = default.health_check_interval_seconds
    limit = default.router_expiry_seconds + default.heartbeat_seconds + interval
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())

        async def fleet(routers: int, probing: str) -> tuple[Child, list[Child]]:
            replicas = await stack.enter_async_context(Child("replica_process", {"is_watched": True}))
            config = {"redis_url": server.url, "namespace": probing, "probing": probing}
            urls = local_urls(REPLICAS, replicas.ready["port"])
            settings = {"config": config, "replicas": urls, "is_counting": True}
            started = [Child("router_process", settings) for _ in range(routers)]
            await asyncio.gather(*(stack.enter_async_context(router) for router in started))
            await asyncio.gather(*(router.ask("all_healthy") for router in started))
            return replicas, started

        _, (alone,) = await fleet(1, "leader")
        replicas, sharing = await fleet(2, "shared")
        await asyncio.sleep(SETTLING_INTERVALS * interval)
        routers = [alone, *sharing]
        before = [await router.ask("usage") for router in routers]
        await asyncio.sleep(interval * (2 if is_quick else 12))
        after = [await router.ask("usage") for router in routers]
        await replicas.ask("longest_gap")
        sharing[0].kill()
        await asyncio.sleep(limit + 3 * interval)
        gap = (await replicas.ask("longest_gap"))["seconds"]
    return _rows(before, after, gap, limit)


def _rows(before: list[Answer], after: list[Answer], gap: float, limit: float) -> list[Row]:
    cpu = [100 * (b["cpu"] - a["cpu"]) / (b["at"] - a["at"]) for a, b in zip(before, after, strict=True)]
    probes = [b["probes"] - a["probes"] for a, b in zip(before, after, strict=True)]
    half = sum(probes[1:]) / 2
    return [
        Row(
            "largest distance of a share from half",
            100 * max(abs(count - half) for count in probes[1:]) / half,
            "%",
            target=UNEVEN_PERCENT,
            note=f"probes in the window: {probes[1]:,} and {probes[2]:,}, those of the lone leader {probes[0]:,}",
        ),
        *(
            Row(f"CPU of router {number}", share, "%", cpu[0], "a lone leader", ABOUT_HALF)
            for number, share in enumerate(cpu[1:], 1)
        ),
        Row(
            "one is killed: longest time without a probe",
            gap,
            "s",
            limit,
            "router expiry + heartbeat + interval",
            IN_TIME,
        ),
    ]


async def main() -> None:
    """Measure this alone, and print each row."""
    for row in await measure(is_quick=False):
        beside = f" beside {row.beside:.2f} of {row.beside_is} ({row.ratio:.2f}x)" if row.beside and row.ratio else ""
        print(f"{row.what}: {row.figure:.2f} {row.unit}{beside} {row.note} met: {row.is_met}")


if __name__ == "__main__":
    asyncio.run(main())
