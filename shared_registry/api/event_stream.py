"""The response that passes the dashboard's live data on to one client, as server-sent events."""

from __future__ import annotations

import asyncio

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from shared_registry.api.live_data import LiveData

SEND_SECONDS = 10.0
"""How long a client may take to accept a message when its buffers are full."""


class EventStream:
    """An ASGI application that answers with the live data."""

    def __init__(self, live: LiveData) -> None:
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client until it leaves, is too slow, or the router stops."""
        if scope["method"] != "GET":
            await PlainTextResponse("the events can be read with GET\n", 405, {"allow": "GET"})(scope, receive, send)
        elif not self._live.has_room:
            text = "too many dashboards are open; close one\n"
            await PlainTextResponse(text, 503, {"retry-after": "5"})(scope, receive, send)
        else:
            tasks = [asyncio.create_task(self._pass_on(send)), asyncio.create_task(_until_gone(receive))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _pass_on(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        async with self._live.subscribed() as messages:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                while (message := await messages.get()) is not None:
                    async with asyncio.timeout(SEND_SECONDS):
                        await send({"type": "http.response.body", "body": message, "more_body": True})
            except TimeoutError:
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
