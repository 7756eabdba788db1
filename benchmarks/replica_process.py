"""A process of mock replicas, one for every address of 127.0.0.0/8 (Linux; elsewhere 127.0.0.1 is the only one)."""

from __future__ import annotations

import asyncio
import time

from benchmarks.processes import Answer, parent_input, write_answer, serve, until
from tests.support.replica_server import ReplicaServer

WATCH_SECONDS = 0.001


async def main() -> None:
    """Serve until the parent is gone."""
    lines = await parent_input()
    await lines.readline()
    async with ReplicaServer("0.0.0.0") as server:

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

        write_answer({"port": server.port})
        await serve({"requests": requests, "next_probe": next_probe}, lines)


if __name__ == "__main__":
    asyncio.run(main())
