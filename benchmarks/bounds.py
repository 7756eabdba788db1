"""How long Redis is busy with one command, at 10,000 replicas, 50,000 leases, 10,000 waiters and 500 changes at once.

Every script, and every read of a mirror and of `check`, is called as its users call it, in the situation in which it
has most to do. The server's slow log has its own time for each call.

The slow log counts the time in which the machine let something else run, too. So a script that only counts is called
between all others. It always does the same, so what its longest call takes above the median is what the machine adds.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from redis import Redis

from benchmarks.bounds_namespace import CAPACITY, LOG_LENGTH, LOGGED_US, PREPARING, Namespace
from benchmarks.bounds_works import works
from benchmarks.namespace import PATIENCE_SECONDS, distant_urls, fill
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.client import connect
from shared_registry.store.lua import assemble, command_names

TITLE = "The longest command at 10,000 replicas, 50,000 leases, 10,000 waiters, 500 changes at once"
SERVER_MS = Target(5.0)
CONTROL, CONTROL_CALLS, CONTROL_COUNT = "a script that only counts", 25, 60_000
COUNTING = "local sum = 0 for i = 1, tonumber(ARGV[1]) do sum = sum + i % 7 end return sum"
SHOWN_MS = 0.2
"""Reads that take less are left out. Scripts are not."""


Found = dict[str, list[tuple[float, str]]]
"""For each command, how long each call took and during which work."""


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the longest call of each command, and which scripts were not measured.

    The targets hold for a `redis-server` on the PATH: its allocator is the one that servers in production have. The
    server that the package brings for tests has the C library's, which takes some milliseconds more in single calls;
    its figures stand beside, or alone where there is no `redis-server`.
    """
    replicas = 2_000 if is_quick else 10_000
    packaged = await _measure(None, replicas)
    binary = shutil.which("redis-server")
    found = await _measure(Path(binary), replicas) if binary else packaged
    return [*_rows(found, packaged if binary else {}), _missing(found)]


async def _measure(binary: Path | None, replicas: int) -> Found:
    log = {"slowlog-log-slower-than": LOGGED_US, "slowlog-max-len": LOG_LENGTH}
    found: Found = {}
    with EmbeddedServer(config=log, binary=binary) as server:
        await fill(server.url, replicas, capacity=CAPACITY)
        clients = connect(server.url, timeout_seconds=PATIENCE_SECONDS, block_seconds=1.0)
        with Redis.from_url(server.url, decode_responses=True, client_name=PREPARING) as raw:
            try:
                for name in command_names():
                    raw.script_load(assemble(name))
                namespace = Namespace(clients, raw, distant_urls(replicas))
                await namespace.populate()
                for what, work in works(namespace).items():
                    for name, times in (await namespace.times(work)).items():
                        found.setdefault(name, []).extend((one, what) for one in times)
                    found.setdefault(CONTROL, []).extend((one, "between the others") for one in counted(raw))
            finally:
                await clients.close()
    return found


def counted(raw: Redis) -> list[float]:
    """Return how long each call of a script kept the server busy that does the same in every call, in milliseconds."""
    raw.slowlog_reset()
    for _ in range(CONTROL_CALLS):
        raw.eval(COUNTING, 0, CONTROL_COUNT)
    return [entry["duration"] / 1000 for entry in raw.slowlog_get(CONTROL_CALLS)]


def _rows(found: Found, beside: Found) -> list[Row]:
    """Return a row for each command, the longest first."""
    scripts, rows = command_names(), []
    for name, calls in found.items():
        calls.sort(reverse=True)
        longest, what = calls[0]
        if name in scripts or name == CONTROL or longest >= SHOWN_MS:
            other = max(beside[name])[0] if name in beside else None
            note = f"{len(calls)} calls, half of them below {calls[len(calls) // 2][0]:.2f} ms, all but three below "
            note += f"{calls[min(3, len(calls) - 1)][0]:.2f} ms"
            rows.append(
                Row(
                    f"{name}: {what}",
                    longest,
                    "ms",
                    other,
                    "the package's server",
                    target=None if name == CONTROL else SERVER_MS,
                    note=note,
                )
            )
    return sorted(rows, key=lambda row: -row.figure)


def _missing(found: Found) -> Row:
    missing = sorted(set(command_names()) - set(found))
    return Row("scripts that were not measured", len(missing), "", target=Target(0), note=", ".join(missing))
