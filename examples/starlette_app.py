"""An application that holds a registry for as long as it lives, and asks it in its handlers.

    SHARED_REGISTRY_REPLICAS=http://127.0.0.1:8000 uvicorn --app-dir examples starlette_app:app

FastAPI takes the same function: `FastAPI(lifespan=lifespan)`, and `request.state.registry` in a handler.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from shared_registry import SharedReplicaRegistry
from shared_registry.config import from_env


class State(TypedDict):
    """What every request finds in `request.state`."""

    registry: SharedReplicaRegistry


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:  # noqa: ARG001  starlette passes it
    """Join the other routers; on the way out resign and leave."""
    async with SharedReplicaRegistry(from_env(os.environ)) as registry:
        yield {"registry": registry}


async def generate(request: Request) -> Response:
    """Send the client to a healthy replica."""
    replica = request.state.registry.select()
    if replica is None:
        return JSONResponse({"error": "no healthy replica"}, status_code=503, headers={"Retry-After": "1"})
    return RedirectResponse(f"{replica.url}/v1/generate", status_code=307)


async def replicas(request: Request) -> Response:
    """Show what this process knows of all replicas, and who leads."""
    registry: SharedReplicaRegistry = request.state.registry
    await registry.refresh()  # latencies and counters; statuses arrive by themselves
    shown = [
        {"url": one.url, "status": one.health.status.value, "last_latency_ms": one.health.last_latency_ms}
        for one in registry.all()
    ]
    return JSONResponse({"replicas": shown, "is_leader": registry.is_leader})


app = Starlette(
    routes=[Route("/generate", generate, methods=["POST"]), Route("/replicas", replicas)], lifespan=lifespan
)
