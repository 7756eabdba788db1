"""A router. SHARED_REGISTRY_REPLICAS=http://127.0.0.1:8000 python examples/router_in_40_lines.py starts it."""

import asyncio
import os
from contextlib import suppress

from websockets import ConnectionClosed
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from shared_registry import SharedReplicaRegistry
from shared_registry.config import from_env


async def pump(source: ClientConnection | ServerConnection, target: ClientConnection | ServerConnection) -> None:
    with suppress(ConnectionClosed):
        async for message in source:
            await target.send(message)
    await target.close()


async def main() -> None:
    config = from_env(os.environ)
    async with SharedReplicaRegistry(config) as registry:

        async def take(client: ServerConnection) -> None:
            if (replica := registry.select()) is None or client.request is None:
                await client.close(1013, "no healthy replica")
                return
            url = "ws" + replica.url.removeprefix("http") + client.request.path
            async with connect(url, max_size=2**26, proxy=None) as backend, asyncio.TaskGroup() as both_ways:
                both_ways.create_task(pump(client, backend))
                both_ways.create_task(pump(backend, client))

        async with serve(take, config.host, config.port, max_size=2**26) as server:
            await server.serve_forever()


asyncio.run(main())
