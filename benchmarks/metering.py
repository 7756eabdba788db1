"""What metrics cost: the CPU of a proxied request with them, beside the same router without, taking turns in one run.

Two routers serve all the time, and wrk asks one after the other. The figure is the median over the turns of what a
request costs with metrics, against the turns just before and after it without.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.contenders import find_program, free_port, missing_programs, running
from benchmarks.processes import Child
from benchmarks.proxying import CONNECTIONS, ORIGIN, SCRIPT, Load, until_served
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer

TITLE = "metrics"
TURNS, QUICK_TURNS = 12, 4
SECONDS = 2
WAYS: dict[str, dict[str, Any]] = {"with exact leases": {}, "placement: local": {"placement": "local"}}
TARGET = Target(1.03, "ratio")


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the CPU of a request with metrics, beside that without, for each way to place requests."""
    if missing := missing_programs("nginx", "wrk"):
        return [missing]
    with tempfile.TemporaryDirectory() as name, EmbeddedServer() as redis:
        folder, origin = Path(name), free_port()
        (folder / "post.lua").write_text(SCRIPT)
        load = Load(find_program("wrk"), folder / "post.lua", SECONDS)
        nginx = [find_program("nginx"), "-p", name, "-c"]
        rows = []
        async with running(folder, nginx, ORIGIN.format(folder=name, port=origin), origin):
            for way, settings in WAYS.items():
                config = {"host": "127.0.0.1", "port": 0, "grace_seconds": 0.0, "redis_url": redis.url} | settings
                asked = {"replicas": [f"http://127.0.0.1:{origin}"]}
                port = free_port()
                metered = {**asked, "config": {**config, "namespace": way[:4], "admin_port": port}}
                plain = {**asked, "config": {**config, "namespace": way[:4] + "-plain", "admin_port": "off"}}
                async with Child("serving_process", metered) as ours, Child("serving_process", plain) as theirs:
                    for router in (ours, theirs):
                        await until_served(f"{router.ready['url']}/v1/x")
                    await _expect_metrics(port)
                    rows.append(await _compare(way, load, ours, theirs, QUICK_TURNS if is_quick else TURNS))
        return rows


async def _expect_metrics(port: int) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        page = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert "sr_sessions_total" in page.text


async def _compare(way: str, load: Load, ours: Child, theirs: Child, turns: int) -> Row:
    with_metrics: list[float] = []
    without = [await _cost(load, theirs)]
    for _ in range(turns):
        with_metrics.append(await _cost(load, ours))
        without.append(await _cost(load, theirs))
    around = [(before + after) / 2 for before, after in itertools.pairwise(without)]
    ratio = statistics.median(one / other for one, other in zip(with_metrics, around, strict=True))
    plain = statistics.median(without)
    what = f"POST, {way}, {CONNECTIONS} connections: CPU a request"
    return Row(what, plain * ratio, "µs", plain, "without metrics", target=TARGET)


async def _cost(load: Load, router: Child) -> float:
    """Return the CPU of a request, in microseconds."""
    before = (await router.ask("usage"))["cpu"]
    count = await load.run(f"{router.ready['url']}/v1/x")
    return float((await router.ask("usage"))["cpu"] - before) / count * 1e6
