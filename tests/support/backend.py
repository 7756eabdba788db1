"""Replicas for the router to proxy to: one that speaks HTTP and WebSocket well, one that does whatever a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.support.accepted import Accepted, stop_listening

MEGABYTE = 1_000_000
CHUNK = bytes(64 * 1024)
Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Backend:
    """`async with Backend() as backend: backend.url`: a replica in this event loop.

    Attributes:
        scopes: The ASGI scopes of what came, latest last; without probes.
        closes: How WebSockets were closed by the other side.
        left: Set when a client of /wait or /events has gone.
        refusal: The status with which every WebSocket is refused, if it is not 0.
        go_on: What /wait waits for, and a WebSocket with do=stall before it reads.
    """

    def __init__(self, *, certificate: Path | None = None, routes: Sequence[BaseRoute] = ()) -> None:
        """Set up; with a certificate, and its key in the same file, it speaks TLS. `routes` come before its own."""
        self.forget()
        self.port = 0
        self._certificate = certificate
        self._app = Starlette(
            routes=[
                *routes,
                Route("/health", self._health),
                *(
                    Route(f"{prefix}{path}", endpoint, methods=methods)
                    for prefix in ("", "/v1")
                    for path, endpoint, methods in self._pages()
                ),
                Route("/{path:path}", self._describe, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
                WebSocketRoute("/{path:path}", self._websocket),
            ]
        )

    def forget(self) -> None:
        """Begin anew for another test."""
        self.scopes: list[Any] = []
        self.closes: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self.events: asyncio.Queue[str | None] = asyncio.Queue()
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()
        self.refusal = 0

    @property
    def url(self) -> str:
        return f"http{'s' if self._certificate else ''}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a body waits 40 ms behind its head
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=2**30,
            ws_per_message_deflate=False,
            ssl_certfile=self._certificate,
            proxy_headers=False,
            timeout_keep_alive=300,  # a busy event loop takes long to read what came in time
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._socket])  # without the rest, which takes its time to end
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self.events.put_nowait(None)
        for server in self._server.servers:
            await stop_listening(server)
        self._socket.close()
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()
        tasks = tuple(self._server.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _pages(self) -> list[tuple[str, Callable[[Request], Awaitable[Response]], list[str]]]:
        return [
            ("/upload", self._upload, ["POST", "PUT"]),
            ("/download", self._download, ["GET"]),
            ("/events", self._events, ["GET"]),
            ("/wait", self._wait, ["GET", "POST"]),
            ("/answer", self._answer, ["GET", "POST", "DELETE"]),
        ]

    async def _health(self, request: Request) -> Response:
        return Response()

    async def _upload(self, request: Request) -> Response:
        count = 0
        async for chunk in request.stream():
            count += len(chunk)
        self.scopes.append(request.scope)
        return JSONResponse({"bytes": count})

    async def _download(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            left = int(request.query_params["bytes"])
            while left:
                chunk = CHUNK[:left]
                left -= len(chunk)
                yield chunk

        return StreamingResponse(chunks())

    async def _events(self, request: Request) -> Response:
        events, left = self.events, self.left

        async def lines() -> AsyncIterator[str]:
            try:
                while (event := await events.get()) is not None:
                    yield f"data: {event}\n\n"
            finally:
                left.set()

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def _wait(self, request: Request) -> Response:
        left, go_on = self.left, self.go_on
        self.scopes.append(request.scope)
        try:
            await request.body()
        except ClientDisconnect:
            left.set()
            raise
        leaving = asyncio.create_task(_until_gone(request))
        going_on = asyncio.create_task(go_on.wait())
        await asyncio.wait((leaving, going_on), return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            left.set()
        for task in (leaving, going_on):
            task.cancel()
        return PlainTextResponse("at last")

    async def _answer(self, request: Request) -> Response:
        wanted = request.query_params
        response = Response(wanted.get("body", ""), int(wanted["status"]))
        for name, value in json.loads(wanted.get("headers", "[]")):
            response.headers.append(name, value)
        return response

    async def _describe(self, request: Request) -> Response:
        self.scopes.append(request.scope)
        body = await request.body()
        headers = [[name.decode(), value.decode("latin-1")] for name, value in request.scope["headers"]]
        target = request.scope["raw_path"].decode() + "?" + request.scope["query_string"].decode()
        found = {"method": request.method, "target": target, "headers": headers, "body": body.decode("latin-1")}
        return JSONResponse(found, headers={"x-backend": str(self.port)})

    async def _websocket(self, websocket: WebSocket) -> None:
        self.scopes.append(websocket.scope)
        closes = self.closes
        wanted = websocket.query_params
        if "reject" in wanted or self.refusal:
            await websocket.send_denial_response(PlainTextResponse("not you", int(wanted.get("reject", self.refusal))))
            return
        offered = websocket.scope["subprotocols"]
        headers = [(b"x-backend", str(self.port).encode()), (b"set-cookie", b"a=1")]
        await websocket.accept(subprotocol=wanted.get("subprotocol", offered[0] if offered else None), headers=headers)
        try:
            await self._converse(websocket, wanted.get("do", "echo"))
        except WebSocketDisconnect as end:
            closes.put_nowait((end.code, end.reason))

    async def _converse(self, websocket: WebSocket, do: str) -> None:
        if do == "die":  # returning without a close breaks the connection off
            await websocket.send_text("one")
            return
        if do == "stall":
            await self.go_on.wait()
            do = "count"
        if do == "pour":
            poured = bytes(int(websocket.query_params.get("bytes", len(CHUNK))))
            for _ in range(int(websocket.query_params["messages"])):
                await websocket.send_bytes(poured)
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason") or "")
            data = message["text"] if message.get("text") is not None else message["bytes"]
            if do == "close":
                wanted = json.loads(data)
                await websocket.close(wanted["code"], wanted["reason"])
            elif do == "count":
                await websocket.send_text(str(len(data)))
            elif isinstance(data, str):
                await websocket.send_text(data)
            else:
                await websocket.send_bytes(data)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class RawBackend:
    """A replica that answers probes well; whatever else comes is handled by the test, byte by byte.

    Attributes:
        heads: Every request's head that was not a probe's.
    """

    def __init__(self, handler: Handler) -> None:
        self.heads: list[bytes] = []
        self.port = 0
        self._handler = handler
        self._accepted = Accepted(self._connected)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._accepted.close(self._server)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /health "):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                continue
            self.heads.append(head)
            await self._handler(head, reader, writer)
