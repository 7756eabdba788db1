"""A mock replica that runs as a process. It serves sessions and chat like a GPU server, but without a model.

    GET  /health               200 {"status": "ok"}
    GET  /readyz               200 {"status": "warming"} for --warmup-seconds, then {"status": "ready"}
    WS   /v1/stream            the client's first frame is {"type": "session_init_v2", "client_id": …}, the answer
                               {"type": "session_ready", "replica": …, "client_id": …}; then numbered binary frames
                               until the client closes, and an echo of whatever it sends meanwhile
    POST /v1/chat/completions  repeats the last message, at once or, with "stream": true, as server-sent events

It prints its port as JSON when it listens. It imports no other module of this package, so that it starts quickly when
it is started by its path. `python -m shared_registry.demo.replica --port 8000` starts it as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

HOST = "127.0.0.1"
PORTS = range(20_000, 30_000)
"""Ports below the range that systems use for outgoing connections. A probe that keeps connecting to a dead replica on
loopback could otherwise get the replica's port as its own local port, and would be connected to itself."""

INIT_SECONDS = 10.0
FRAME_SECONDS = 0.05
FRAME_BYTES = 64
WORD_SECONDS = 0.02
MAX_FRAME_BYTES = 64 * 1024 * 1024
BACKLOG = 2048
POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013


class MockReplica:
    """One mock replica.

    Attributes:
        name: The replica's name in its responses.
        app: The ASGI application.
    """

    def __init__(self, name: str, warmup_seconds: float = 0.0) -> None:
        """Create the replica. It is warm after `warmup_seconds` from now."""
        self.name = name
        self._warm_at = time.monotonic() + warmup_seconds
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/readyz", self._readyz),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                WebSocketRoute("/v1/stream", self._stream),
            ]
        )

    @property
    def is_warm(self) -> bool:
        """Whether the replica takes sessions."""
        return time.monotonic() >= self._warm_at

    async def _health(self, request: Request) -> Response:  # noqa: ARG002  starlette passes it
        return JSONResponse({"status": "ok", "replica": self.name})

    async def _readyz(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"status": "ready" if self.is_warm else "warming", "replica": self.name})

    async def _stream(self, websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            client_id = await self._client_of(websocket)
            if client_id is None:
                await _refuse(websocket, "bad_init", "the first frame must be session_init_v2", POLICY_VIOLATION)
            elif not self.is_warm:
                await _refuse(websocket, "warming", f"{self.name} is warming up", TRY_AGAIN_LATER)
            else:
                await self._serve(websocket, client_id)

    async def _client_of(self, websocket: WebSocket) -> str | None:
        try:
            async with asyncio.timeout(INIT_SECONDS):
                init = json.loads(_payload(await websocket.receive()))
        except (TimeoutError, ValueError):
            return None
        is_init = isinstance(init, dict) and init.get("type") == "session_init_v2"
        return str(init.get("client_id", "")) if is_init else None

    async def _serve(self, websocket: WebSocket, client_id: str) -> None:
        await websocket.send_json({"type": "session_ready", "replica": self.name, "client_id": client_id})
        frames = asyncio.create_task(_send_frames(websocket))
        try:
            while True:
                message = await websocket.receive()
                _payload(message)
                await websocket.send({**message, "type": "websocket.send"})
        finally:
            frames.cancel()
            await asyncio.gather(frames, return_exceptions=True)

    async def _chat(self, request: Request) -> Response:
        try:
            asked = json.loads(await request.body())
            text = str(asked["messages"][-1]["content"])
        except (ValueError, LookupError, TypeError):
            error = {"message": "messages: must be a list of {role, content}", "type": "invalid_request_error"}
            return JSONResponse({"error": error}, status_code=400)
        identity = {
            "id": f"chatcmpl-{random.getrandbits(64):016x}",
            "created": int(time.time()),
            "model": str(asked.get("model", "mock")),
            "system_fingerprint": self.name,
        }
        words = f"{self.name} heard: {text}".split(" ")
        if asked.get("stream"):
            return StreamingResponse(_events(identity, words), media_type="text/event-stream")
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(identity | {"object": "chat.completion", "choices": [choice]})


async def _refuse(websocket: WebSocket, code: str, message: str, close_code: int) -> None:
    await websocket.send_json({"type": "error", "code": code, "message": message})
    await websocket.close(close_code)


async def _send_frames(websocket: WebSocket) -> None:
    """Send numbered frames until the client closes: 8 bytes of number, big-endian, and padding."""
    number = 0
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await websocket.send_bytes(number.to_bytes(8, "big").ljust(FRAME_BYTES, b"\0"))
            number += 1
            await asyncio.sleep(FRAME_SECONDS)


async def _events(identity: dict[str, Any], words: list[str]) -> AsyncIterator[str]:
    """Yield an answer word by word as server-sent events."""
    pieces = words[:1] + [f" {word}" for word in words[1:]]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    for delta in [*deltas, {}]:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
        yield f"data: {json.dumps(identity | {'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
        await asyncio.sleep(WORD_SECONDS)
    yield "data: [DONE]\n\n"


def _payload(message: Any) -> str | bytes:
    """Return the data of a received message.

    Raises:
        WebSocketDisconnect: The client has closed.
    """
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    payload: str | bytes = message["text"] if message.get("text") is not None else message["bytes"]
    return payload


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket on that port. If it is 0, take a free port.

    Raises:
        OSError: The port is in use, no port is free, or the address is not this machine's.
    """
    for candidate in [port] if port else random.sample(PORTS, 100):
        try:
            return socket.create_server((host, candidate), backlog=BACKLOG)
        except OSError:
            if port:
                raise
    raise OSError(f"no free port between {PORTS.start} and {PORTS.stop}")


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m shared_registry.demo.replica", description="A mock replica.")
    parser.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    parser.add_argument("--name", default=socket.gethostname(), help="name in the responses (default: %(default)s)")
    parser.add_argument(
        "--warmup-seconds", type=float, default=0.0, help="seconds until the replica is ready (default: 0)"
    )
    options = parser.parse_args()
    try:
        listener = listen(options.host, options.port)
    except OSError as error:
        parser.exit(1, f"error: cannot listen on {options.host}:{options.port}: {error.strerror}\n")
    config = uvicorn.Config(
        MockReplica(options.name, options.warmup_seconds).app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,
    )
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
