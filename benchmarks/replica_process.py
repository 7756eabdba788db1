"""A process of mock replicas, one for every address of 127.0.0.0/8 (Linux; elsewhere 127.0.0.1 is the only one)."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

from benchmarks.processes import Answer, parent_input, serve, until, write_answer
from shared_registry.cli.serving_loop import serving_loop_factory
from tests.support.replica_server import MockReplica, ReplicaServer

WATCH_SECONDS = 0.001


async def main() -> None:
    """Serve until the parent is gone."""
    lines = await parent_input()
    settings = json.loads(await lines.readline())
    async with ReplicaServer("0.0.0.0") as server:
        if settings.get("is_watched"):
            server.replicas.default_factory = lambda: MockReplica(requested_at=[])

        def total() -> int:
            return sum(replica.requests for replica in server.replicas.values())

        async def requests() -> Answer:
            """Say how many probes have come to all replicas together."""
            return {"requests": total(), "at": time.monotonic()}

        async def next_probe() -> Answer:
            """Wait for the next probe of any replica."""
            known = total()
            await until(lambda: total() > known, poll_seconds=WATCH_SECONDS)
            return {"at": time.monotonic()}

        async def longest_gap() -> Answer:
            """Say for how long any replica was not probed, since it was probed last before the last such question."""
            now = time.monotonic()
            times = [replica.requested_at for replica in server.replicas.values() if replica.requested_at]
            gaps = [later - earlier for at in times for earlier, later in itertools.pairwise([*at, now])]
            for at in times:
                del at[:-1]
            return {"seconds": max(gaps)}

        write_answer({"port": server.port})
        await serve({"requests": requests, "next_probe": next_probe, "longest_gap": longest_gap}, lines)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=serving_loop_factory()) as runner:
        runner.run(main())
