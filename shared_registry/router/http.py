"""One HTTP request: passed on to a replica as it comes, its response passed back as it comes.

Bodies are streamed in both directions, and are never inflated, deflated or held back, so that server-sent events
arrive when they are sent. The request's body is read only once there is a connection to a replica; until then another
replica can be tried. A response that breaks off breaks off for the client too: it never looks complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpcore
from starlette.types import Receive, Scope, Send

from shared_registry.config import RouterConfig
from shared_registry.model import Replica
from shared_registry.router import headers
from shared_registry.router.dispatch import Dispatcher, NotReached, Undeliverable
from shared_registry.router.headers import AmbiguousRequest
from shared_registry.router.placement import Session
from shared_registry.router.pools import ReplicaPools
from shared_registry.urls import DEFAULT_PORTS

RETRY_AFTER_SECONDS = 1
REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that may be sent again where a kept connection turned out to be closed. Others may have taken effect."""
logger = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client has left in the middle of its request."""


class ClientSilent(Exception):
    """The client does not go on with its request."""


class Answer(Exception):
    """What the router itself answers in place of a replica."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class RequestBody:
    """A request's body as it comes, and the client's leaving.

    Attributes:
        is_begun: Whether anything of it was asked for: from then on no other replica can get the whole of it.
    """

    def __init__(self, receive: Receive, *, timeout_seconds: float) -> None:
        self._receive = receive
        self._timeout_seconds = timeout_seconds
        self._is_complete = asyncio.Event()
        self.is_begun = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield it piece by piece; the first step tells a client that waits for it to go on.

        Raises:
            ClientGone: It will never be complete.
            ClientSilent: Nothing came for too long.
        """
        self.is_begun = True
        more = True
        while more:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    message = await self._receive()
            except TimeoutError:
                raise ClientSilent from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            more = message.get("more_body", False)
            if not more:
                self._is_complete.set()
            if message["body"]:
                yield message["body"]

    def skip(self) -> None:
        """Say that there is none to be passed on."""
        self._is_complete.set()

    async def client_left(self) -> None:
        """Return when the client has left after its whole request has come."""
        await self._is_complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


class HttpProxy:
    """The ASGI application that every HTTP request goes to which is not the router's own."""

    def __init__(self, config: RouterConfig, dispatcher: Dispatcher, pools: ReplicaPools) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._pools = pools
        silence = config.response_timeout_seconds
        self._exchanges: set[asyncio.Task[None]] = set()
        self._timeouts = {"connect": config.connect_timeout_seconds, "read": silence, "write": silence, "pool": None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Proxy one request. Returning without a complete response makes the server break the connection."""
        body = RequestBody(receive, timeout_seconds=self._config.response_timeout_seconds)
        try:
            headers.refuse_ambiguous(scope["headers"], scope["http_version"])
        except AmbiguousRequest as error:
            await _answer(send, Answer(400, "bad_request", f"the request is refused: {error}"), close=True)
            return
        if not headers.has_body(scope["headers"]):
            body.skip()
        exchange = asyncio.create_task(self._exchange(scope, body, send))
        self._exchanges.add(exchange)
        leaving = asyncio.create_task(body.client_left())
        try:
            await asyncio.wait((exchange, leaving), return_when=asyncio.FIRST_COMPLETED)
            if exchange.done() and not exchange.cancelled():
                exchange.result()
        finally:
            self._exchanges.discard(exchange)
            for task in (exchange, leaving):
                task.cancel()
            await asyncio.gather(exchange, leaving, return_exceptions=True)

    def break_off(self) -> None:
        """End all requests under way."""
        for exchange in self._exchanges:
            exchange.cancel()

    async def _exchange(self, scope: Scope, body: RequestBody, send: Send) -> None:
        client = scope["client"][0] if scope.get("client") else None
        path = scope["raw_path"].decode("ascii", "replace")
        session = Session("http", path, tuple(scope["headers"]), client)
        is_started = False
        try:
            async with self._dispatcher.connected(session, lambda one: self._dial(one, scope, body)) as response:
                passed = headers.to_client(response.headers, status=response.status)
                is_started = True
                await send({"type": "http.response.start", "status": response.status, "headers": passed})
                async for chunk in response.aiter_stream():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGone:
            return
        except ClientSilent:
            answer = Answer(408, "request_timeout", "the request's body did not come")
            await _answer(send, answer, close=True)
        except Undeliverable as failure:
            await _answer(send, _refusal(failure), close=headers.has_body(scope["headers"]))
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            logger.warning("http: %s %s: %s", scope["method"], path, _named(error))
            if not is_started:
                await _answer(send, _failure(error), close=headers.has_body(scope["headers"]))

    @contextlib.asynccontextmanager
    async def _dial(self, replica: Replica, scope: Scope, body: RequestBody) -> AsyncIterator[httpcore.Response]:
        """Send the request and wait for the head of the response."""
        pool = await self._pools.of(replica)
        may_repeat = scope["method"] in REPEATABLE and not headers.has_body(scope["headers"])
        try:
            response = await pool.handle_async_request(self._request(replica, scope, body))
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise NotReached(_named(error), is_timeout=isinstance(error, httpcore.ConnectTimeout)) from error
        except (httpcore.NetworkError, httpcore.RemoteProtocolError):
            if not may_repeat:
                raise
            try:
                response = await pool.handle_async_request(self._request(replica, scope, body))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                raise NotReached(_named(error), is_timeout=isinstance(error, httpcore.ConnectTimeout)) from error
        try:
            yield response
        finally:
            await response.aclose()

    def _request(self, replica: Replica, scope: Scope, body: RequestBody) -> httpcore.Request:
        parts = urlsplit(replica.url)
        query = scope["query_string"]
        url = httpcore.URL(
            scheme=parts.scheme.encode(),
            host=(parts.hostname or "").encode(),
            port=parts.port or DEFAULT_PORTS[parts.scheme],
            target=scope["raw_path"] + (b"?" + query if query else b""),
        )
        client = scope["client"][0] if scope.get("client") else None
        passed = headers.to_replica(scope["headers"], client=client, scheme=scope["scheme"])
        if not any(name == b"host" for name, _ in passed):
            passed.append((b"host", parts.netloc.encode()))
        content = body.chunks() if headers.has_body(scope["headers"]) else None
        return httpcore.Request(
            scope["method"], url, headers=passed, content=content, extensions={"timeout": self._timeouts}
        )


def _refusal(failure: Undeliverable) -> Answer:
    if not failure.failures:
        return Answer(503, "gpu_unavailable", str(failure), retry_after=RETRY_AFTER_SECONDS)
    status = 504 if all(one.is_timeout for one in failure.failures) else 502
    return Answer(status, "gpu_unavailable", str(failure), retry_after=RETRY_AFTER_SECONDS)


def _failure(error: Exception) -> Answer:
    if isinstance(error, httpcore.TimeoutException):
        return Answer(504, "worker_failed", "the replica did not respond in time")
    return Answer(502, "worker_failed", "the replica broke the connection off")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


async def _answer(send: Send, answer: Answer, *, close: bool) -> None:
    """Send the router's own answer; `close` where the rest of the request will not be read."""
    frame = {"type": "error", "code": answer.code, "message": str(answer), "retryable": answer.status >= 500}
    content = json.dumps(frame).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if answer.retry_after is not None:
        fields.append((b"retry-after", str(answer.retry_after).encode()))
    if close:
        fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": fields})
    await send({"type": "http.response.body", "body": content})
