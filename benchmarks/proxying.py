"""What a request costs the proxy, beside HAProxy on one core in front of the same origin, in the same run.

The origin is nginx, and wrk sends the requests: both cost so little that the proxies are what is measured. CPU is that
of the process of the proxy; throughput on a machine with few cores is that of all processes together.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import statistics
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded.bound_process import BoundProcess
from tests.support.nginx import listens

TITLE = "requests through the proxy, beside HAProxy"
ROUNDS = 3
SECONDS, QUICK_SECONDS = 6, 2
CONNECTIONS = 32
START_SECONDS = 20.0
CONFIG = {"host": "127.0.0.1", "port": 0, "grace_seconds": 0.0}
SECONDS_A_TICK = 1 / os.sysconf("SC_CLK_TCK")
WAYS = {
    "with exact leases": ({}, Target(5.0, "ratio")),
    "placement: local": ({"placement": "local"}, Target(2.5, "ratio")),
}
"""How requests are placed: the settings of the router, and what the CPU of a request may be, in those of HAProxy."""
SCRIPT = 'wrk.method = "POST"\nwrk.body = "{}"\nwrk.headers["Content-Type"] = "application/json"\n'
ORIGIN = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/body;
    server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{{"ok": true}}'; }} }}
}}
"""
RIVAL = """
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  server one 127.0.0.1:{origin}
"""


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the CPU of a request and the throughput, for each way to place requests."""
    programs = {
        name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("nginx", "haproxy", "wrk")
    }
    if missing := [name for name, program in programs.items() if program is None]:
        return [Row("not measured", 0, "", note=f"needs {', '.join(missing)}")]
    with tempfile.TemporaryDirectory() as name, EmbeddedServer() as redis:
        folder = Path(name)
        (folder / "post.lua").write_text(SCRIPT)
        origin, rival = _free_port(), _free_port()
        async with (
            _running(
                folder, [str(programs["nginx"]), "-p", name, "-c"], ORIGIN.format(folder=name, port=origin), origin
            ),
            _running(
                folder, [str(programs["haproxy"]), "-f"], RIVAL.format(port=rival, origin=origin), rival
            ) as haproxy,
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
                    await _until_served(router.ready["url"])
                    load = Load(str(programs["wrk"]), folder / "post.lua", QUICK_SECONDS if is_quick else SECONDS)
                    rows += await _compare(way, target, load, router, rival, haproxy)
            return rows


class Load:
    """Sends requests as fast as they are answered."""

    def __init__(self, program: str, script: Path, seconds: int) -> None:
        self._command = [program, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
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
        before = _cpu_seconds(haproxy.pid)
        count = await load.run(f"http://127.0.0.1:{rival_port}/v1/x")
        theirs.append(((_cpu_seconds(haproxy.pid) - before) / count, count / load.seconds))
    (cpu, rate), (their_cpu, their_rate) = (
        [statistics.median(values) for values in zip(*found, strict=True)] for found in (ours, theirs)
    )
    what = f"POST, {way}, {CONNECTIONS} connections"
    return [
        Row(f"{what}: CPU a request", cpu * 1e6, "µs", their_cpu * 1e6, "HAProxy", target=target),
        Row(f"{what}: requests/s", rate, "", their_rate, "HAProxy"),
    ]


@contextlib.asynccontextmanager
async def _running(folder: Path, command: list[str], config: str, port: int) -> AsyncIterator[BoundProcess]:
    """Run a program with a configuration file until it listens, and for the block."""
    file = folder / f"{port}.conf"
    file.write_text(config)
    with (folder / f"{port}.log").open("wb") as log:
        process = BoundProcess([*command, file], cwd=folder, output=log)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await listens(port):  # noqa: ASYNC110  another process
                await asyncio.sleep(0.05)
        yield process
    finally:
        process.kill()


async def _until_served(url: str) -> None:
    async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while (await client.post(f"{url}/v1/x")).status_code != 200:  # noqa: ASYNC110  another process
            await asyncio.sleep(0.05)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * SECONDS_A_TICK


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port: int = trial.getsockname()[1]
    return port
