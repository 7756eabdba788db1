"""A process with many announced replicas, each with an `Announcement` and a connection of its own, as pods have.

Its settings come as the first line: `config` (of `RouterConfig`), `urls`, and `ttl_seconds`.
"""

from __future__ import annotations

import asyncio
import json

from benchmarks.processes import Answer, parent_input, serve, write_answer
from shared_registry import Announcement, RouterConfig
from shared_registry.model import ReplicaEndpoint

LONG_SECONDS = 120.0


async def main() -> None:
    """Announce the replicas until the parent is gone, or SIGTERM comes. They are not deregistered."""
    lines = await parent_input()
    settings = json.loads(await lines.readline())
    config = RouterConfig(**settings["config"])
    announcements = [
        Announcement(config, ReplicaEndpoint(url), owner=f"pod-{at}", ttl_seconds=settings["ttl_seconds"])
        for at, url in enumerate(settings["urls"])
    ]
    for announcement in announcements:
        await announcement.__aenter__()
    write_answer({"count": len(announcements)})

    async def held() -> Answer:
        """Say that all are held."""
        async with asyncio.timeout(LONG_SECONDS):
            for announcement in announcements:
                await announcement.wait_held(timeout_seconds=LONG_SECONDS)
        return {}

    await serve({"held": held}, lines)


if __name__ == "__main__":
    asyncio.run(main())
