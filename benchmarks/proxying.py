"""What a request costs the proxy, beside HAProxy on one core in front of the same origin, in the same run.

The origin is nginx, and wrk sends the requests: both cost so little that the proxies are what is measured. CPU is that
of the process of the proxy; throughput on a machine with few cores is that of all processes together.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import tempfile
from pathlib import Path

import httpx

from benchmarks.contenders import cpu_seconds, find_program, free_port, haproxy_before, missing_programs, running
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded.bound_process import BoundProcess

TITLE = "requests through the proxy, beside HAProxy"
ROUNDS = 3
SECONDS, QUICK_SECONDS = 6, 2
CONNECTIONS = 32
START_SECONDS = 20.0
CONFIG = {"host": "127.0.0.1", "port": 0, "grace_seconds": 0.0}
WAYS = {
    "with exact leases": ({}, Target(5.0, "ratio")),
    "placement: local": ({"placement": "local"}, Target(2.5, "ratio")),
}
"""How requests are placed: the settings of the router, and what the CPU of a request may be, in those of HAProxy."""
SCRIPT = 'wrk.method = "POST"\nwrk.body = "{}"\nwrk.headers["Content-Type"] = "application/json"\n'
ORIGIN = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/body;
    server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{{"ok": true}}'; }} }}
}}
"""


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the CPU of a request and the throughput, for each way to place requests."""
    if missing := missing_programs("nginx", "haproxy", "wrk"):
        return [missing]
    with tempfile.TemporaryDirectory() as name, EmbeddedServer() as redis:
        folder = Path(name)
        (folder / "post.lua").write_text(SCRIPT)
        origin, rival = free_port(), free_port()
        nginx = [find_program("nginx"), "-p", name, "-c"]
        async with (
            running(folder, nginx, ORIGIN.format(folder=name, port=origin), origin),
            haproxy_before(folder, origin, rival) as haproxy,
        ):
            rows = []
            for way, (settings, target) in WAYS.items():
                config = {
                    "host": "127.0.0.1",
                    "port": 0,
                    "grace_seconds": 0.0,
                    "redis_url": redis.url,
                    "namespace": way[:4],
                }
                asked = {"config": config | settings, "replicas": [f"http://127.0.0.1:{origin}"]}
                async with Child("serving_process", asked) as router:
                    await until_served(f"{router.ready['url']}/v1/x")
                    load = Load(find_program("wrk"), folder / "post.lua", QUICK_SECONDS if is_quick else SECONDS)
                    rows += await _compare(way, target, load, router, rival, haproxy)
            return rows


class Load:
    """Sends requests as fast as they are answered."""

    def __init__(self, program: str, script: Path, seconds: int, connections: int = CONNECTIONS) -> None:
        self._command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
        self.seconds = seconds

    async def run(self, url: str) -> int:
        """Return how many requests were answered. All of them must be answered well."""
        process = await asyncio.create_subprocess_exec(*self._command, url, stdout=asyncio.subprocess.PIPE)
        output = (await process.communicate())[0].decode()
        found = re.search(r"(\d+) requests in", output)
        if found is None or "Non-2xx" in output:
            raise RuntimeError(output)
        return int(found[1])


async def _compare(
    way: str, target: Target, load: Load, router: Child, rival_port: int, haproxy: BoundProcess
) -> list[Row]:
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        before = (await router.ask("usage"))["cpu"]
        count = await load.run(f"{router.ready['url']}/v1/x")
        ours.append((((await router.ask("usage"))["cpu"] - before) / count, count / load.seconds))
        before = cpu_seconds(haproxy.pid)
        count = await load.run(f"http://127.0.0.1:{rival_port}/v1/x")
        theirs.append(((cpu_seconds(haproxy.pid) - before) / count, count / load.seconds))
    (cpu, rate), (their_cpu, their_rate) = (
        [statistics.median(values) for values in zip(*found, strict=True)] for found in (ours, theirs)
    )
    what = f"POST, {way}, {CONNECTIONS} connections"
    return [
        Row(f"{what}: CPU a request", cpu * 1e6, "µs", their_cpu * 1e6, "HAProxy", target=target),
        Row(f"{what}: requests/s", rate, "", their_rate, "HAProxy"),
    ]


async def until_served(url: str, document: object = None) -> None:
    """Wait until posts of a document are answered with 200."""
    async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while (await client.post(url, json=document or {})).status_code != 200:  # noqa: ASYNC110  another process
            await asyncio.sleep(0.05)
