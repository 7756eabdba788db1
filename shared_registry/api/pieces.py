"""Responses of several megabytes, which would keep the event loop busy for long if they were sent in one piece."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared_registry.aio.breath import Breath
from shared_registry.api.documents import JsonObject


class PiecewiseResponse(Response):
    """A response whose body is sent in pieces, between which other tasks run."""

    def __init__(self, pieces: Sequence[bytes], status_code: int = 200, **more: Any) -> None:
        """Set up.

        Args:
            pieces: The body.
            status_code: The status.
            more: What else `Response` takes.
        """
        super().__init__(None, status_code, **more)
        self.headers["content-length"] = str(sum(map(len, pieces)))
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the response. A client that does not read is waited for."""
        breath = Breath()
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await breath.pause()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def list_response(name: str, documents: Iterable[JsonObject], others: JsonObject) -> PiecewiseResponse:
    """Return an object with a list that may be long. It is made in pieces, between which other tasks run.

    Args:
        name: The name of the list.
        documents: What is in the list.
        others: The other members of the object.
    """
    breath, pieces = Breath(), [f"{json.dumps(others)[:-1]}, {json.dumps(name)}: [".encode()]
    for document in documents:
        comma = ", " if len(pieces) > 1 else ""
        pieces.append(f"{comma}{json.dumps(document)}".encode())
        await breath.pause()
    return PiecewiseResponse([*pieces, b"]}"], media_type="application/json")
