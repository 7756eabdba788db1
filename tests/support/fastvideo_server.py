"""A stand-in for FastVideo's streaming server, as far as a router can tell: its pages, its frames, its one session.

    python -m tests.support.fastvideo_server --config serve.yaml [--warmup-seconds 1] [--segment-seconds 0.1]

GET /health, /healthz   200 {"status": "ok"} from the start
GET /readyz             200 {"status": "warming"} while the model loads, then {"status": "ready"}: always 200
GET /status             what the pool of GPUs does, and here also how many sessions were rejected
WS  /v1/stream          the frames below. A second session is accepted, and then rejected with an error and 1013.
                        A segment runs to its end even if its client has gone, and keeps the session until then.

SIGUSR1 ends the warm-up, and from then on each segment at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

FRAGMENT = bytes(256)


class StreamingServer:
    """One server, with one GPU.

    Attributes:
        rejected: How many sessions were rejected because another one was there.
    """

    def __init__(self, *, warmup_seconds: float, segment_seconds: float) -> None:
        self._ready_at = time.monotonic() + warmup_seconds
        self._segment_seconds = segment_seconds
        self._is_taken = False
        self._is_done = asyncio.Event()
        self.rejected = 0

    def get_done(self) -> None:
        """End the warm-up, and the segments."""
        self._is_done.set()

    def page(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain HTTP request."""
        is_ready = self._is_done.is_set() or time.monotonic() >= self._ready_at
        pool = {"total_gpus": 1, "available_gpus": int(is_ready and not self._is_taken), "queue_size": 0}
        pages: dict[str, dict[str, Any]] = {
            "/health": {"status": "ok"},
            "/healthz": {"status": "ok"},
            "/readyz": {"status": "ready" if is_ready else "warming", "ready_gpu_workers": int(is_ready), **pool},
            "/status": {**pool, "rejected": self.rejected},
        }
        if request.path == "/v1/stream":
            return None
        if request.path not in pages:
            return connection.respond(HTTPStatus.NOT_FOUND, "not found\n")
        return connection.respond(HTTPStatus.OK, json.dumps(pages[request.path]))

    async def stream(self, client: ServerConnection) -> None:
        """Serve a session, or reject it."""
        if self._is_taken:
            self.rejected += 1
            await _send(client, "error", code="session_rejected", message="max sessions reached (1)", retryable=False)
            await client.close(1013, "session_rejected")
            return
        self._is_taken = True
        try:
            with contextlib.suppress(ConnectionClosed):
                await self._serve(client)
        finally:
            self._is_taken = False

    async def _serve(self, client: ServerConnection) -> None:
        if json.loads(await client.recv()).get("type") != "session_init_v2":
            await _send(client, "error", code="invalid_message", message="session_init_v2 is missing", retryable=False)
            await client.close(1003, "expected_session_init_v2")
            return
        await _send(client, "queue_status", position=0, queue_depth=0)
        await _send(client, "gpu_assigned", gpu_id=0, session_timeout=300)
        await _send(client, "ltx2_stream_start", preset=None, width=256, height=256, fps=24, num_frames=24)
        segment = 0
        async for text in client:
            if json.loads(text).get("type") == "segment_prompt_source":
                await self._segment(client, segment)
                segment += 1

    async def _segment(self, client: ServerConnection, segment: int) -> None:
        await _send(client, "ltx2_segment_start", segment_idx=segment, prompt="", total_steps=1)
        with contextlib.suppress(TimeoutError):  # nothing that its client does ends the generator's work early
            await asyncio.wait_for(self._is_done.wait(), self._segment_seconds)
        await _send(client, "media_init", segment_idx=segment, stream_id="0", mode="av_fmp4")
        await client.send(FRAGMENT)
        await _send(client, "media_segment_complete", segment_idx=segment, stream_id="0", chunks=1)
        await _send(client, "ltx2_segment_complete", segment_idx=segment, generation_time_ms=1.0)


async def _send(client: ServerConnection, kind: str, **fields: object) -> None:
    await client.send(json.dumps({"type": kind, **fields}))


async def run(server: StreamingServer, host: str, port: int) -> None:
    """Serve until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, server.get_done)
    async with serve(server.stream, host, port, process_request=server.page):
        await ended.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--warmup-seconds", type=float, default=0.0)
    parser.add_argument("--segment-seconds", type=float, default=0.05)
    chosen = parser.parse_args()
    where = yaml.safe_load(chosen.config.read_text())["server"]
    streaming = StreamingServer(warmup_seconds=chosen.warmup_seconds, segment_seconds=chosen.segment_seconds)
    asyncio.run(run(streaming, where["host"], where["port"]))
