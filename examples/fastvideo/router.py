"""A streaming router written for the in-process registry. One import makes its health shared.

    python examples/fastvideo/router.py examples/fastvideo/router.yaml

It builds its registry from the config's replicas, runs the health check loop beside the server, and selects once a
session, as FastVideo's own router does.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect

from shared_registry.config import load_yaml

# The one import: before, these names came from the router's own registry module.
from shared_registry.fastvideo import ReplicaRegistry, RouterConfig, run_health_check_loop


def build_app(config: RouterConfig) -> Starlette:
    """Return the router's application."""
    registry = ReplicaRegistry(config.replicas)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001  starlette passes it
        stop_event = asyncio.Event()
        loop = asyncio.create_task(run_health_check_loop(registry=registry, config=config, stop_event=stop_event))
        yield
        stop_event.set()
        await loop

    async def status(request: Request) -> JSONResponse:  # noqa: ARG001
        shown = [
            {"url": replica.url, "primary": replica.primary, "status": replica.health.status.value}
            for replica in registry.all()
        ]
        return JSONResponse({"replicas": shown})

    async def stream(client: WebSocket) -> None:
        await client.accept()
        replica = registry.select()
        if replica is None:
            message = {"type": "error", "code": "gpu_unavailable", "message": "no healthy replica", "retryable": True}
            await client.send_json(message)
            await client.close(1013)
            return
        async with connect(f"ws{replica.url.removeprefix('http')}/v1/stream", proxy=None, max_size=None) as backend:
            await _bridge(client, backend)

    return Starlette(routes=[Route("/status", status), WebSocketRoute("/v1/stream", stream)], lifespan=lifespan)


async def _bridge(client: WebSocket, backend: ClientConnection) -> None:
    """Pass frames both ways until either side ends."""

    async def to_backend() -> None:
        while (message := await client.receive())["type"] == "websocket.receive":
            text = message.get("text")
            await backend.send(message["bytes"] if text is None else text)
        await backend.close()

    async def to_client() -> None:
        async for frame in backend:
            await (client.send_bytes(frame) if isinstance(frame, bytes) else client.send_text(frame))

    ways = [asyncio.create_task(to_backend()), asyncio.create_task(to_client())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


if __name__ == "__main__":
    settings = load_yaml(sys.argv[1])
    uvicorn.run(build_app(settings), host=settings.host, port=settings.port)
