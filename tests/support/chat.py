"""A stand-in for a server of language models, as far as chat completions go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = ["Hello", ", ", "w\u00f6rld", "!"]


class Chat:
    """Answers chat completions; the model that is asked for says how.

    The model `hold` waits for `go_on`, `endless` streams until the client has gone, `broken` breaks its stream off, and
    a number is the status of an error.

    Attributes:
        under_way: How many completions are being made.
        most: The most there ever were at once.
        keys: The API keys that came.
    """

    def __init__(self) -> None:
        self.under_way = 0
        self.most = 0
        self.keys: list[str] = []
        self.go_on = asyncio.Event()
        self.routes = [Route("/v1/chat/completions", self._complete, methods=["POST"])]

    async def _complete(self, request: Request) -> Response:
        asked = await request.json()
        model = asked["model"]
        self.keys.append(request.headers["authorization"])
        if model.isdigit():
            error = {"message": f"the replica says {model}", "type": "error", "code": "replica"}
            return JSONResponse({"error": error}, int(model))
        if asked.get("stream"):
            return StreamingResponse(self._tokens(model), media_type="text/event-stream")
        self._begin()
        try:
            await (self.go_on.wait() if model == "hold" else asyncio.sleep(0.01))
        finally:
            self.under_way -= 1
        message = {"role": "assistant", "content": "".join(WORDS)}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return JSONResponse({"id": "a", "object": "chat.completion", "created": 1, "model": model, "choices": choices})

    def _begin(self) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)

    async def _tokens(self, model: str) -> AsyncIterator[str]:
        self._begin()
        try:
            words = WORDS
            while True:
                for word in words:
                    yield _event(model, {"content": word}, None)
                    await asyncio.sleep(0.005)
                if model == "broken":
                    raise RuntimeError("breaks off")
                if model != "endless":
                    break
            yield _event(model, {}, "stop")
            yield "data: [DONE]\n\n"
        finally:
            self.under_way -= 1


def _event(model: str, delta: dict[str, Any], finish: str | None) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices}
    return f"data: {json.dumps(chunk)}\n\n"
