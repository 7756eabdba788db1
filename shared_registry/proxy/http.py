"""Proxies HTTP requests to replicas, and streams the responses back.

Bodies are streamed in both directions. They are never decompressed, compressed or delayed, so that server-sent events
arrive at once. The request's body is read only after a replica is connected; before that, another replica can be
tried. A replica may respond before the request is complete. If a response breaks off, the router breaks off the
client's response too, so that it never looks complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from shared_registry.config import RouterConfig
from shared_registry.model import Replica
from shared_registry.proxy import headers
from shared_registry.proxy.departure import departure_of
from shared_registry.proxy.dispatch import Dispatcher, Undeliverable
from shared_registry.proxy.headers import AmbiguousRequest
from shared_registry.proxy.outcomes import OutcomeReports, client_of
from shared_registry.proxy.placement import ReplicaLost, SessionPlacement
from shared_registry.proxy.pools import ReplicaPools
from shared_registry.proxy.replica_connection import ReplicaBroke, ReplicaConnection, ReplicaSilent
from shared_registry.proxy.session_key import SessionKey

RETRY_AFTER_SECONDS = 1
LONGEST_RETRY_AFTER_SECONDS = 300
"""The upper limit of `Retry-After`, for any length of the queue: estimates for a longer time are not reliable."""
REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""The methods that may be sent again if a reused connection turns out to be closed. Others may have taken effect."""
_CLOSE = (b"connection", b"close")
logger = logging.getLogger(__name__)


class Answer(Exception):
    """An error response of the router itself, sent in place of a replica's response."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class Request:
    """One request: its head, its body as a stream, and whether its client is still connected.

    Attributes:
        has_body: Whether the request has a body.
        is_silent: Whether the client has sent nothing more of the body for too long.
    """

    def __init__(self, scope: Scope, receive: Receive, *, silence_seconds: float) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path = scope["raw_path"].decode("ascii", "replace")
        self.client: str | None = scope["client"][0] if scope.get("client") else None
        self.has_body = headers.has_body(scope["headers"])
        self.is_silent = False
        self._receive = receive
        self._silence_seconds = silence_seconds
        self._is_begun = False
        self._is_gone = False
        self._settled = asyncio.Event()
        self._departed = departure_of(scope)
        if not self.has_body:
            self._settled.set()

    def key(self, session_key: SessionKey) -> str | None:
        """Return the key of the request's session, if it has one."""
        return session_key.of_request(self.scope["headers"], self.scope["query_string"])

    @property
    def is_held_back(self) -> bool:
        """Whether the client expects `100 Continue` before it sends the body, and has not received it.

        If so, it is unknown whether the next bytes of the connection are this body or a further request.
        """
        return self.has_body and not self._is_begun and any(name == b"expect" for name, _ in self.scope["headers"])

    @property
    def is_repeatable(self) -> bool:
        """Whether the request may be sent again if a reused connection turns out to be closed."""
        return self.method in REPEATABLE and not self.has_body

    def for_replica(self, replica: Replica) -> tuple[str, bytes, list[tuple[bytes, bytes]]]:
        """Return the method, the target and the headers to send to the replica."""
        query = self.scope["query_string"]
        passed = headers.to_replica(self.scope["headers"], client=self.client, scheme=self.scope["scheme"])
        if not any(name == b"host" for name, _ in passed):
            passed.insert(0, (b"host", urlsplit(replica.url).netloc.encode()))
        return self.method, self.scope["raw_path"] + (b"?" + query if query else b""), passed

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces. The first read sends `100 Continue` to a client that expects it.

        If the client leaves or is silent for too long, `left` returns, and this waits until it is cancelled: the
        request to the replica must not look complete.
        """
        self._is_begun = more = True
        while more:
            try:
                async with asyncio.timeout(self._silence_seconds):
                    message = await self._receive()
            except TimeoutError:
                self.is_silent = True
            self._is_gone = self.is_silent or message["type"] == "http.disconnect"
            more = not self._is_gone and message.get("more_body", False)
            if not more:
                self._settled.set()
            if not self._is_gone and message["body"]:
                yield message["body"]
        if self._is_gone:
            await asyncio.Event().wait()  # until cancelled

    async def left(self) -> None:
        """Return when the client has left, or has been silent in its request for too long.

        While the body is not read, the client counts as connected, unless the server reports that it has left.
        """
        if self._departed is not None:
            self._departed.add_done_callback(self._depart)
        try:
            await self._settled.wait()
            while not self._is_gone:
                self._is_gone = (await self._receive())["type"] == "http.disconnect"
        finally:
            if self._departed is not None:
                self._departed.remove_done_callback(self._depart)

    def _depart(self, departed: asyncio.Future[None]) -> None:  # noqa: ARG002
        self._is_gone = True
        self._settled.set()


class HttpProxy:
    """The ASGI application for all HTTP requests except those for the router's own pages."""

    def __init__(
        self,
        config: RouterConfig,
        dispatcher: Dispatcher,
        placement: SessionPlacement,
        pools: ReplicaPools,
        reports: OutcomeReports,
    ) -> None:
        self._reports = reports
        self._silence_seconds = config.response_timeout_seconds
        self._session_key = SessionKey(config.session_key)
        self._dispatcher = dispatcher
        self._placement = placement
        self._pools = pools

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Proxy one request. If it returns without a complete response, the server breaks the connection."""
        request = Request(scope, receive, silence_seconds=self._silence_seconds)
        reply = ClientResponse(request, send)
        exchange = asyncio.create_task(self._exchange(request, reply))
        leaving = asyncio.create_task(request.left())
        try:
            await asyncio.wait((exchange, leaving), return_when=asyncio.FIRST_COMPLETED)
            if reply.is_ending:  # the server then reports that the client has left; the slot must still be released
                await asyncio.wait((exchange,))
            if exchange.done():
                exchange.result()
        finally:
            for task in (exchange, leaving):
                task.cancel()
            await asyncio.gather(exchange, leaving, return_exceptions=True)
        if request.is_silent and not reply.is_started:
            await _answer(send, Answer(408, "request_timeout", "the request's body did not arrive in time"), close=True)

    async def _exchange(self, request: Request, reply: ClientResponse) -> None:
        key = request.key(self._session_key)
        client = client_of(request.scope, key)
        try:
            async with self._dispatcher.connected(key, lambda replica: self._dial(replica, request, client)) as placed:
                await self._placement.unless_lost(placed.lease, reply.pass_on(placed.connection))
        except Undeliverable as failure:
            await reply.answer(_refusal(failure))
        except Answer as answer:
            await reply.answer(answer)
        except (ReplicaBroke, ReplicaSilent, ReplicaLost) as error:
            logger.warning("http: %s %s: the replica: %s", request.method, request.path, error)
            await reply.answer(_failure(error))

    @contextlib.asynccontextmanager
    async def _dial(self, replica: Replica, request: Request, client: str) -> AsyncIterator[ReplicaConnection]:
        """Connect to the replica and begin the request, and report how it ends.

        A task sends the body while the context is entered.
        """
        try:
            async with self._sending(replica, request) as connection:
                yield connection
        except (ReplicaBroke, ReplicaSilent) as error:
            self._reports.broken(replica, str(error), client=client)
            raise
        if connection.status is not None:
            self._reports.responded(replica, connection.status, client=client)

    @contextlib.asynccontextmanager
    async def _sending(self, replica: Replica, request: Request) -> AsyncIterator[ReplicaConnection]:
        connection = await self._begin(replica, request)
        sending = asyncio.create_task(_send_body(connection, request)) if request.has_body else None
        try:
            yield connection
        except BaseException:
            connection.abort()
            raise
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            self._pools.give_back(replica, connection)

    async def _begin(self, replica: Replica, request: Request) -> ReplicaConnection:
        while True:
            connection = await self._pools.take(replica)
            try:
                await connection.send_head(*request.for_replica(replica))
                if not request.has_body:
                    await connection.end()
                    await connection.wait_data()
                return connection
            except ReplicaBroke:
                connection.abort()
                if not (connection.is_used and not connection.has_received and request.is_repeatable):
                    raise
            except ValueError as error:
                connection.abort()
                raise Answer(400, "bad_request", f"the request is refused: {error}") from error
            except BaseException:
                connection.abort()
                raise


class ClientResponse:
    """The response to one request.

    Attributes:
        is_started: Whether the head was sent; no other response can be sent then.
        is_ending: Whether everything was received from the replica, and everything but the end was sent.
    """

    def __init__(self, request: Request, send: Send) -> None:
        self.is_started = False
        self.is_ending = False
        self._request = request
        self._send = send

    async def pass_on(self, connection: ReplicaConnection) -> None:
        """Send the replica's response to the client as it arrives."""
        status, fields = await connection.response()
        self.is_started = True
        passed = headers.to_client(fields, status=status)
        if self._request.is_held_back:
            passed.append(_CLOSE)
        await self._send({"type": "http.response.start", "status": status, "headers": passed})
        async for chunk in connection.body():
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.is_ending = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, answer: Answer) -> None:
        """Send the router's own response, unless another response has started."""
        if not self.is_started:
            self.is_started = self.is_ending = True
            await _answer(self._send, answer, close=self._request.is_held_back)


class RefuseAmbiguous:
    """ASGI middleware that refuses ambiguous requests with 400."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse an ambiguous HTTP request, and pass everything else to the application."""
        if scope["type"] == "http":
            try:
                headers.refuse_ambiguous(scope["headers"], scope["http_version"])
            except AmbiguousRequest as error:
                await _answer(send, Answer(400, "bad_request", f"the request is refused: {error}"), close=True)
                return
        await self._app(scope, receive, send)


async def _send_body(connection: ReplicaConnection, request: Request) -> None:
    """Send the request's body. After any failure the connection is over, which also ends the wait for a response."""
    try:
        async for chunk in request.body():
            await connection.send(chunk)
        await connection.end()
    except (ReplicaBroke, ReplicaSilent):
        return  # the reader of the response can still read what was received before, and then gets the same error
    except Exception:
        logger.exception("http: %s %s: its body could not be sent", request.method, request.path)
        connection.abort()


def _refusal(failure: Undeliverable) -> Answer:
    retry_after = _whole_seconds(failure.retry_after_seconds)
    if not failure.failures or failure.is_stopping or failure.trouble is not None:
        return Answer(503, "gpu_unavailable", str(failure), retry_after=retry_after)
    status = 504 if all(one.is_timeout for one in failure.failures) else 502
    return Answer(status, "gpu_unavailable", str(failure), retry_after=retry_after)


def _whole_seconds(estimate: float | None) -> int:
    """Return the value of `Retry-After` for an estimate."""
    if estimate is None:
        return RETRY_AFTER_SECONDS
    return max(RETRY_AFTER_SECONDS, math.ceil(min(estimate, LONGEST_RETRY_AFTER_SECONDS)))


def _failure(error: Exception) -> Answer:
    if isinstance(error, ReplicaSilent):
        return Answer(504, "worker_failed", "the replica did not respond in time")
    if isinstance(error, ReplicaLost):
        return Answer(502, "worker_failed", "the replica is not healthy any more")
    return Answer(502, "worker_failed", "the replica broke off the connection")


async def _answer(send: Send, answer: Answer, *, close: bool) -> None:
    """Send the router's own response.

    Args:
        send: The ASGI function.
        answer: The response.
        close: Whether to close the connection, because its next bytes cannot be interpreted. Otherwise the rest of the
            request is read and dropped: closing while the client still sends would reset the connection, and the
            client would never receive the response.
    """
    frame = {"type": "error", "code": answer.code, "message": str(answer), "retryable": answer.status >= 500}
    content = json.dumps(frame).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if answer.retry_after is not None:
        fields.append((b"retry-after", str(answer.retry_after).encode()))
    if close:
        fields.append(_CLOSE)
    await send({"type": "http.response.start", "status": answer.status, "headers": fields})
    await send({"type": "http.response.body", "body": content})
