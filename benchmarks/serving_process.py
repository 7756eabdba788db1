"""A process that serves: an echoing replica, or a router in front of one, as `shared-registry serve` runs it.

Its settings come as the first line: `config` (of `RouterConfig`) and `replicas` (urls) for a router, nothing for a
replica. Answers with the `url` once it serves, and with the `admin_url`, if there is one.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import uvloop

from benchmarks.processes import Answer, parent_input, serve, write_answer
from benchmarks.stalls import Stalls
from shared_registry import RouterConfig
from shared_registry.aio.stop_signals import StopRequest
from shared_registry.api.address import admin_address
from shared_registry.model import ReplicaEndpoint
from shared_registry.proxy import server


async def usage() -> Answer:
    """Say how much CPU this process has used."""
    return {"cpu": time.process_time()}


async def main() -> None:
    """Serve until the parent is gone, or SIGTERM comes."""
    lines = await parent_input()
    settings = json.loads(await lines.readline())
    if "config" in settings:
        await _route(settings, lines)
    else:
        from tests.support.backend import Backend  # noqa: PLC0415  a router does not need it, and its memory is measured

        async with Backend() as replica:
            write_answer({"url": replica.url})
            await serve({"usage": usage}, lines)


async def _route(settings: dict[str, Any], lines: asyncio.StreamReader) -> None:
    config = RouterConfig(replicas=[ReplicaEndpoint(url) for url in settings["replicas"]], **settings["config"])
    stop = StopRequest()
    watches: list[Stalls] = []

    async def stalls() -> Answer:
        """Say how long the event loop has stalled since the last such question. The first one begins the watch."""
        if not watches:
            watches.append(Stalls())
        return dict(watches[0].take())

    with admin_address(config) as admin:
        serving = asyncio.create_task(
            server.serve_clients(
                config,
                stop,
                on_listening=lambda url: write_answer({"url": url, "admin_url": admin.url}),
                beside=[*admin.works],
            )
        )
        try:
            await serve({"usage": usage, "stalls": stalls}, lines)
        finally:
            stop.ask()
            stop.ask()
            await serving


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
