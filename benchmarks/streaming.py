"""What tokens of event streams, WebSocket messages and idle sessions cost the proxy, beside HAProxy in the same run.

Replica and clients are as cheap as they can be in Python, and their share is not counted: CPU is that of the process
of the proxy. Memory is what is resident in the process of the command, as users run it; once more after the admin
address has answered, which loads it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.contenders import cpu_seconds, free_port, haproxy_before, listening, missing_programs, resident_bytes
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer

TITLE = "streams and WebSockets through the proxy, beside HAProxy"
ROUNDS, QUICK_ROUNDS = 3, 1
SECONDS, QUICK_SECONDS = 6.0, 2.0
STREAMS, TOKENS_PER_SECOND = 200, 50
SESSIONS = 4
SIZES = {"64 B": 64, "256 KiB": 256 * 1024, "4 MiB": 4 * 1024 * 1024}
IDLE = 500
CONFIG = {"host": "127.0.0.1", "port": 0, "grace_seconds": 0.0, "fast_interval_seconds": 0.05}
ADMIN_SECONDS = 30.0
SETTLING_SECONDS = 2.0
LIMITS = {"token": Target(2.0, "ratio"), "age": Target(3.0), "echo": Target(1.5, "ratio")}
MEMORY, MEMORY_A_SESSION = Target(60.0), Target(8.0)


@dataclass(frozen=True)
class Way:
    """A proxy: where it listens, and its process."""

    port: int
    pid: int


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    seconds: float
    rounds: int


async def measure(*, is_quick: bool) -> list[Row]:
    """Return rows for tokens, for messages of each size, and for idle sessions."""
    if missing := missing_programs("haproxy"):
        return [missing]
    effort = Effort(QUICK_SECONDS, QUICK_ROUNDS) if is_quick else Effort(SECONDS, ROUNDS)
    with tempfile.TemporaryDirectory() as name, EmbeddedServer() as redis:
        async with (
            Child("streaming_replica_process", {"tokens_per_second": TOKENS_PER_SECOND}) as replica,
            Child("streaming_client_process", {}) as clients,
        ):
            origin, rival = replica.ready["port"], free_port()
            async with haproxy_before(Path(name), origin, rival) as haproxy:
                settings = {
                    "config": CONFIG | {"redis_url": redis.url},
                    "replicas": [f"http://127.0.0.1:{origin}"],
                }
                rows = await _idle_rows(clients, Path(name), settings, Way(rival, haproxy.pid))
                # A process each, since what is left of one subject would count for the next.
                for subject in (_token_rows, _echo_rows):
                    async with Child("serving_process", settings) as router:
                        ways = (Way(int(router.ready["url"].rpartition(":")[2]), router.pid), Way(rival, haproxy.pid))
                        rows += await subject(clients, ways, effort)
                return rows


async def _token_rows(clients: Child, ways: Sequence[Way], effort: Effort) -> list[Row]:
    cpu: list[list[float]] = [[], []]
    ages: list[list[float]] = [[], []]
    for _ in range(effort.rounds):
        for at, way in enumerate(ways):
            await clients.ask(["streams", way.port, STREAMS])
            before = cpu_seconds(way.pid)
            found = await clients.ask(["read", effort.seconds])
            cpu[at].append((cpu_seconds(way.pid) - before) / found["count"] * 1e6)
            ages[at].append(found["p99"] * 1e3)
            await clients.ask(["close"])
            if found["count"] < 0.9 * STREAMS * TOKENS_PER_SECOND * effort.seconds:
                raise RuntimeError(f"only {found['count']} tokens came")
    what = f"{STREAMS} streams of {TOKENS_PER_SECOND} tokens/s"
    (ours, theirs), (our_age, their_age) = _medians(cpu), _medians(ages)
    return [
        Row(f"{what}: CPU a token", ours, "µs", theirs, "HAProxy", LIMITS["token"]),
        Row(f"{what}: age of a token, p99", our_age, "ms", their_age, "HAProxy", LIMITS["age"]),
    ]


async def _echo_rows(clients: Child, ways: Sequence[Way], effort: Effort) -> list[Row]:
    rows = []
    for name, size in SIZES.items():
        cpu: list[list[float]] = [[], []]
        rates: list[list[float]] = [[], []]
        for _ in range(effort.rounds):
            for at, way in enumerate(ways):
                await clients.ask(["sessions", way.port, SESSIONS, size])
                before = cpu_seconds(way.pid)
                found = await clients.ask(["echo", effort.seconds])
                cpu[at].append((cpu_seconds(way.pid) - before) / found["count"] * 1e6)
                rates[at].append(found["count"] / effort.seconds)
                await clients.ask(["close"])
        what = f"WebSocket echo of {name}, {SESSIONS} sessions"
        (ours, theirs), (our_rate, their_rate) = _medians(cpu), _medians(rates)
        rows += [
            Row(f"{what}: CPU an echo", ours, "µs", theirs, "HAProxy", LIMITS["echo"]),
            Row(f"{what}: echoes/s", our_rate, "", their_rate, "HAProxy"),
        ]
    return rows


async def _idle_rows(clients: Child, folder: Path, settings: dict[str, Any], haproxy: Way) -> list[Row]:
    port, admin_port = free_port(), free_port()
    file = folder / "router.yaml"
    router = settings["config"] | {"port": port, "admin_port": admin_port, "replicas": settings["replicas"]}
    file.write_text(json.dumps({"router": router}))  # JSON is YAML
    command = [sys.executable, "-m", "shared_registry", "serve", "--config", str(file)]
    async with listening(folder, command, port) as process:
        ours, our_share = await _memory(clients, Way(port, process.pid))
        async with httpx.AsyncClient(trust_env=False, timeout=ADMIN_SECONDS) as admin:
            (await admin.get(f"http://127.0.0.1:{admin_port}/metrics")).raise_for_status()
        with_admin, _ = await _memory(clients, Way(port, process.pid))
    theirs, their_share = await _memory(clients, haproxy)
    what = f"{IDLE} idle WebSocket sessions"
    return [
        Row(f"{what}: memory of the process", ours, "MB", theirs, "HAProxy", MEMORY),
        Row(f"{what}: the same, once its admin address was used", with_admin, "MB"),
        Row(f"{what}: memory of a session", our_share, "kB", their_share, "HAProxy", MEMORY_A_SESSION),
    ]


async def _memory(clients: Child, way: Way) -> tuple[float, float]:
    """Return the memory with idle sessions in MB, and that of one session in kB."""
    await clients.ask(["sessions", way.port, 1, 64])  # what the first session alone costs
    await clients.ask(["close"])
    await asyncio.sleep(SETTLING_SECONDS)
    before = resident_bytes(way.pid)
    await clients.ask(["sessions", way.port, IDLE, 64])
    after = resident_bytes(way.pid)
    await clients.ask(["close"])
    return after / 1e6, (after - before) / IDLE / 1e3


def _medians(found: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(values) for values in found]
