"""One request of a client and the response to it, as the client's connection sees them.

The request's body flows to a sink, which is a connection to a replica. Until there is one, the body is kept, up to
`KEPT_BYTES`; then nothing more is read from the client. What was sent is kept as well as long as it is no more than
that, so that the request can be sent again to another replica.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from shared_registry.http1.fields import Headers, request_head
from shared_registry.proxy import forwarding, headers
from shared_registry.proxy.answers import NO_REFUSALS, Answer, error_answer
from shared_registry.proxy.response_head import ResponseHead

if TYPE_CHECKING:
    from shared_registry.proxy.access_record import Ended
    from shared_registry.proxy.client import ClientConnection
    from shared_registry.proxy.live_sessions import LiveSessions
    from shared_registry.proxy.request_head import RequestHead
    from shared_registry.proxy.traffic import KindTraffic, Traffic

KEPT_BYTES = 64 * 1024
"""The most bytes of a request's body that are kept."""
_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)


class Sink(Protocol):
    """Takes the body of a request."""

    def send(self, data: bytes) -> None:
        """Take a piece of the body."""

    def end_request(self) -> None:
        """The body is complete."""

    def pause_response(self) -> None:
        """The client does not read; receive no more of the response."""

    def resume_response(self) -> None:
        """The client reads again."""

    def check(self, now: float) -> None:
        """Fail if the time limit of the sink has passed."""


class Server(Protocol):
    """Serves a request."""

    def cancel(self) -> object:
        """Serve it no longer."""


class Exchange:
    """One request and its response. All methods are synchronous; what is written is buffered by the transport.

    Attributes:
        method: The request's method.
        target: The request's target, as received.
        version: "1.0" or "1.1".
        fields: The request's headers, with names in lower case.
        request_id: The id under which the request is logged, and which the replica and the client receive.
        body_length: The announced length of the request's body, 0 without one; see `headers.CHUNKED`.
        has_body: Whether the request has a body.
        is_handshake: Whether the request is the handshake of a WebSocket.
        client: The connection on which the request came.
        is_chunked: Whether the request's body is sent in chunks.
        keep_alive: Whether the connection may carry another request after the response.
        is_received: Whether the request was received whole.
        is_traced: Whether the request has a trace.
        is_begun: Whether the head of a response was sent. No other response can be sent then.
        is_over: Whether a response was sent whole, or was broken off.
        server: What serves the request, and is cancelled if the client leaves; `None` before and after that.
        started_at: When the head was received, on the event loop's clock.
        answered_at: When the client was sent the head of its response, on that clock; `None` if it was sent none.
        ended: Why the request ended; `None` while it has not.
        ended_at: When it ended, on that clock.
        status: The HTTP status that the client was sent; `None` if it was sent none.
        traffic: Counts the request when it has ended; `None` if it is not counted, or was.
        refusal: The answer to send because a limit was exceeded, if the task is cancelled for that.
        record: What else the access log or the trace will tell of the request; `None` if there is neither.
        head: The request's headers as they were received, with what a replica is sent of them.
        bytes_in: The bytes that were received of the body, or of the session's frames.
        bytes_out: The bytes that were sent of the response's body, or of the session's frames.
        rewrite: Changes the headers of any response; `None` if they stay as they are.
        key_name: The name of the API key with which the request came; `None` if it needed none.
    """

    __slots__ = (
        "_is_delimited",
        "_kept",
        "_kind",
        "_live",
        "_more",
        "_most_kept",
        "_out",
        "_received_at",
        "_sends_chunks",
        "_sink",
        "_was_asked",
        "answered_at",
        "body_length",
        "bytes_in",
        "bytes_out",
        "client",
        "ended",
        "ended_at",
        "fields",
        "has_body",
        "head",
        "is_begun",
        "is_chunked",
        "is_handshake",
        "is_over",
        "is_received",
        "is_traced",
        "keep_alive",
        "key_name",
        "method",
        "record",
        "refusal",
        "request_id",
        "rewrite",
        "server",
        "started_at",
        "status",
        "target",
        "traffic",
        "version",
    )

    def __init__(
        self,
        client: ClientConnection,
        method: str,
        target: bytes,
        version: str,
        fields: Headers,
        *,
        body_length: int,
        keep_alive: bool,
        is_handshake: bool = False,
    ) -> None:
        self.is_handshake = is_handshake
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.request_id = client.site.ids.of(fields)
        self.started_at = self.ended_at = now = client.now()
        self.traffic = client.site.traffic
        self.record = client.site.begin_record()
        self.is_traced = self.record is not None and client.site.tracing is not None
        if self.record is not None and client.site.tracing is not None:
            self.record.trace = client.site.tracing.begin(self, self.record)
        self.ended: Ended | None = None
        self.status: int | None = None
        self.answered_at: float | None = None
        self.bytes_in = self.bytes_out = 0
        self.body_length = body_length
        self.has_body = body_length != 0
        self.is_chunked = body_length == headers.CHUNKED
        self.keep_alive = keep_alive
        self.is_received = body_length == 0
        self.is_begun = self.is_over = False
        self.refusal: Answer | None = None
        self.key_name: str | None = None
        self.head: RequestHead | None = None
        self.rewrite: Callable[[Headers], Headers] | None = None
        self.server: Server | None = None
        self._live: LiveSessions | None = None
        self._kind: KindTraffic | None = None
        self.client = client
        self._sink: Sink | None = None
        self._kept: bytes | bytearray | None = b""
        self._most_kept = KEPT_BYTES
        self._more: asyncio.Future[None] | None = None
        self._received_at = now
        self._was_asked = self._sends_chunks = False
        self._is_delimited = True
        self._out: list[bytes] = []

    # The request

    @property
    def client_address(self) -> str | None:
        """The address of the client that sent the request, behind the trusted proxies; `None` if it has none."""
        client = self.client
        return client.proxies.client_of(client.address, self.fields) if client.is_trusted else client.address

    @property
    def path(self) -> bytes:
        """The target up to the query."""
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        """The query string, without the question mark."""
        return self.target.partition(b"?")[2]

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends its body."""
        if not self.has_body or self.version == "1.0":
            return False
        return any(name == b"expect" and value.lower() == b"100-continue" for name, value in self.fields)

    @property
    def is_held_back(self) -> bool:
        """Whether the client waits for `100 Continue`, and has not received it.

        If so, it is unknown whether the next bytes of the connection are this body or a further request.
        """
        return not self.is_received and not self._was_asked and any(name == b"expect" for name, _ in self.fields)

    @property
    def is_too_large(self) -> bool:
        """Whether the request announces a body that is longer than the limit."""
        return self.body_length > self.client.limits.body_bytes

    @property
    def is_harmless(self) -> bool:
        """Whether it may be sent again although it may have been read. Other requests may have taken effect."""
        return self.method in _HARMLESS and not self.has_body

    @property
    def is_replayable(self) -> bool:
        """Whether everything that was received of the body is still kept."""
        return self._kept is not None

    @property
    def is_congested(self) -> bool:
        """Whether so much of the body waits for a sink that no more should be read."""
        if self._sink is not None or self.is_over:
            return False
        return self._kept is None or len(self._kept) > self._most_kept

    def receive(self, data: bytes) -> None:
        """Take a piece of the request's body from the client."""
        if self.is_over or self.refusal is not None:
            return
        self._received_at = self.client.now()
        self._was_asked = True
        self.bytes_in += len(data)
        if self.bytes_in > self.client.limits.body_bytes:
            self._end_with(TOO_LARGE, "refused")
            return
        if self._sink is not None:
            self._sink.send(data)
        if self._kept is not None:
            if self._sink is None or len(self._kept) + len(data) <= KEPT_BYTES:
                if isinstance(self._kept, bytes):
                    self._kept = bytearray(self._kept)  # which grows without being copied
                self._kept += data
            else:
                self._kept = None
        if self._more is not None:
            self._wake()

    def receive_whole(self, body: bytes) -> None:
        """Take the whole of the request's body, before anything else is done with the request."""
        self.is_received = True
        if body:
            self._was_asked = True
            self.bytes_in = len(body)
            if self.bytes_in > self.client.site.limits.body_bytes:
                self._end_with(TOO_LARGE, "refused")
            else:
                self._kept = body if len(body) <= KEPT_BYTES else bytearray(body)

    def receive_end(self) -> None:
        """The request's body is complete."""
        self.is_received = True
        if self._sink is not None:
            self._sink.end_request()
        if self._more is not None:
            self._wake()

    async def look_ahead(self, most_bytes: int) -> AsyncGenerator[bytes | bytearray, None]:
        """Yield what was received of the body so far, each time that more has arrived. It is kept for the sink.

        Args:
            most_bytes: About how much to receive. The iteration ends there, or at the end of the body.
        """
        self._most_kept = most_bytes
        self._received_at = self.client.now()
        self._ask()
        seen = 0
        try:
            while (kept := self._kept) is not None:
                if len(kept) > seen:
                    seen = len(kept)
                    yield kept
                elif self.is_received or seen > most_bytes:
                    return
                else:
                    self._more = asyncio.get_running_loop().create_future()
                    self.client.update_reading()
                    await self._more
        finally:
            self._more = None
            self._most_kept = KEPT_BYTES

    def flow_to(self, sink: Sink) -> bytes | None:
        """Send the body to a sink from now on: first what is kept, from the beginning on.

        Returns:
            The whole body, if it was received at once. It is left to the sink to send it; `None` otherwise.
        """
        self._sink = sink
        kept = self._kept
        if self.is_received and not self.is_chunked and isinstance(kept, bytes) and not self.client.is_paused:
            return kept
        if not self.is_received:
            self._received_at = self.client.now()
            self._ask()
        if kept:
            sink.send(bytes(kept))
            if len(kept) > KEPT_BYTES:
                self._kept = None
        if self.is_received:
            sink.end_request()
        if self.client.is_paused:
            self.client.update_reading()
        return None

    def _ask(self) -> None:
        """Tell a client that waits for it to send the body."""
        if not self._was_asked:
            self._was_asked = True
            if self.expects_continue and not self.is_received:
                self.client.write(_CONTINUE)

    def flow_nowhere(self) -> None:
        """Send the body to no sink any more, because the sink has ended."""
        self._sink = None
        if self.client.is_held:
            self.client.release()

    def hold(self) -> None:
        """Read no more of the body, because the sink is full."""
        self.client.hold()

    def release(self) -> None:
        """Read the body again."""
        self._received_at = self.client.now()
        self.client.release()

    def check(self, now: float) -> None:
        """Apply the time limits: of the whole, of a client that sends nothing of its body, and those of the sink."""
        limits = self.client.limits
        if limits.total_seconds and now - self.started_at > limits.total_seconds and not self.is_handshake:
            self._end_with(_TOO_SLOW, "timed_out")
        elif self._sink is None and self._more is None:
            return
        elif not self.is_received and not self.client.is_held and now - self._received_at > limits.silence_seconds:
            self._end_with(_SILENT, "client_silent")
        elif self._sink is not None:
            self._sink.check(now)

    def leave(self) -> None:
        """The client has left, or is to be disconnected: end what serves the request."""
        if self.server is None:
            self.note_end("not_begun")
            self.client.site.end_record(self)
        elif not self.is_over:
            self.server.cancel()

    def count(self, live: LiveSessions, traffic: Traffic) -> None:
        """Count the request as under way until `uncount()`."""
        self._live = live
        self._kind = kind = traffic.websocket if self.is_handshake else traffic.http
        live.begin()
        kind.active += 1

    def uncount(self) -> None:
        """Count the request no longer, if it was counted."""
        live, kind = self._live, self._kind
        if live is not None and kind is not None:
            live.end()
            kind.active -= 1
            self._live = None

    def pause_response(self) -> None:
        """The client does not read."""
        if self._sink is not None:
            self._sink.pause_response()

    def resume_response(self) -> None:
        """The client reads again."""
        if self._sink is not None:
            self._sink.resume_response()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _end_with(self, refusal: Answer, ended: Ended) -> None:
        """End the request in the next turn of the event loop: a task that has not begun could not answer any more."""
        if self.refusal is None:
            self.refusal = refusal
            self.note_end(ended, error=None if self.is_begun else refusal.error)
            asyncio.get_running_loop().call_soon(self.leave)

    # The response

    def begin(self, status: int, fields: Headers) -> None:
        """Begin a response.

        Args:
            status: The response's status, not of an interim response.
            fields: The headers, with names in lower case, and without those about a single connection.
        """
        self.begin_with(ResponseHead(status, fields))

    def begin_with(self, head: ResponseHead) -> None:
        """Begin a response. Its end is found by its length, if it has one, or by chunks, or by the connection's end."""
        self.is_begun = True
        if self.rewrite is not None:
            head = ResponseHead(head.status, self.rewrite(head.fields))
        self.status = head.status
        self.answered_at = self.client.now()
        if self.is_traced:
            self._trace_answer(head.status)
        more = b""
        if not head.has_length and self.method != "HEAD":
            if self.version == "1.0":
                self._is_delimited = False
                self.keep_alive = False
            else:
                self._sends_chunks = True
                more = b"\r\ntransfer-encoding: chunked"
        if not self.is_received and self.is_held_back:
            self.keep_alive = False
        if not self.keep_alive:
            more += b"\r\nconnection: close"
        elif self.version == "1.0":
            more += b"\r\nconnection: keep-alive"
        self._out.append(b"%b%b%b\r\n\r\n" % (head.lines, self.request_id, more))

    def send(self, data: bytes) -> None:
        """Send a piece of the response's body. It is written by `flush()`."""
        self.bytes_out += len(data)
        if self._sends_chunks:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def flush(self) -> None:
        """Write what was sent."""
        if self._out:
            self.client.write_all(self._out)
            self._out = []

    def end(self) -> None:
        """End the response."""
        client, out = self.client, self._out
        if self._sends_chunks:
            out.append(_LAST_CHUNK)
        if out:
            client.write_all(out)
            self._out = []
        self.is_over = True
        if self.ended is None:
            self.ended, self.ended_at = "done", client.now()
        self._sink = self._kept = None
        client.end_exchange(self)

    def answer(self, answer: Answer) -> None:
        """Send the router's own response, unless another response has begun; that one is broken off."""
        if self.is_begun or self.is_over:
            self.break_off()
            return
        if (error := answer.error) is not None and error not in NO_REFUSALS:
            self.note_refusal(f"{answer.status} {error}", answer.document["message"])
            self.note_end("refused", error=error)
        pieces = answer.content()
        named = (b"content-type", b"application/json"), (b"content-length", b"%d" % sum(map(len, pieces)))
        self.begin(answer.status, (*named, *answer.fields))
        if self.method != "HEAD":
            for piece in pieces:
                self.send(piece)
        self.end()

    def become_session(self) -> None:
        """Leave the connection to a WebSocket session, which acts from now on when the client leaves.

        Of the request's headers only those are kept that tell the client's address.
        """
        self.is_over = True
        self._kept = None
        self.fields = forwarding.about_client(self.fields) if self.client.is_trusted else ()

    def refuse(self, answer: Answer) -> None:
        """Answer a request whose body may not have been received whole, and end the connection."""
        self.keep_alive = False
        self.answer(answer)

    def note_refusal(self, kind: str, reason: str) -> None:
        """Log or count that the router refuses this request."""
        self.client.site.refusals.note(kind, reason, self.request_id, self.client.now())

    def note_replica(self, url: str, session: str | None) -> None:
        """Record that the replica with this url is tried, for a session of that name."""
        if (record := self.record) is not None:
            record.try_replica(url, session, self.client.now())

    def note_reached(self) -> None:
        """Record that the replica was reached, and is going to be sent the request."""
        if self.record is not None and self.record.trace is not None:
            self.record.trace.connect()

    def note_session(self) -> None:
        """Record that a WebSocket session begins; its client may have been accepted before, to wait in the queue."""
        if self.record is not None and self.record.trace is not None:
            self.record.trace.stream()

    def note_not_taken(self, reason: str) -> None:
        """Record that the replica did not take the session."""
        if self.record is not None and self.record.trace is not None:
            self.record.trace.fail_attempt(reason)

    def note_position(self, _position: int, _depth: int) -> None:
        """Record that the session waits in the queue. May be called again."""
        if self.record is not None and self.record.trace is not None:
            self.record.trace.wait()

    def note_status(self, status: int) -> None:
        """Record the status that the client is sent by something else than `begin()`."""
        self.status = status
        self.answered_at = self.client.now()
        if self.is_traced:
            self._trace_answer(status)

    def note_end(self, ended: Ended, *, error: str | None = None, close_code: int | None = None) -> None:
        """Record why the request has ended, or is about to end. The first reason counts."""
        if self.ended is not None:
            return
        self.ended, self.ended_at = ended, self.client.now()
        if (record := self.record) is not None:
            record.error = error
            record.close_code = close_code

    def _trace_answer(self, status: int) -> None:
        if self.record is not None and self.record.trace is not None:
            self.record.trace.answer(status)

    def break_off(self) -> None:
        """Close the connection without completing the response. Does nothing if the exchange is over."""
        if self.is_over:
            return
        self.is_over = True
        self.note_end("replica_broke")
        self._sink = None
        self.flush()
        if not self._is_delimited:  # a normal close would complete the response
            self.client.reset()
        else:
            self.client.close()

    def head_for_replica(self, url: str) -> bytes:
        """Return the head to send to the replica; see `for_replica`."""
        head, client = self.head, self.client
        if head is not None and head.fields is self.fields and not self.is_traced:
            known = head.for_replica(
                self.method, self.target, self.request_id, client=client.address, scheme=client.scheme
            )
            if known is not None:
                return known
        return request_head(self.method, self.target, self.for_replica(url))

    def for_replica(self, url: str) -> list[tuple[bytes, bytes]]:
        """Return the headers to send to the replica.

        Args:
            url: The replica's url, whose host is named if the client has named none.
        """
        client = self.client
        passed = headers.to_replica(
            self.fields, client=client.address, scheme=client.scheme, is_trusted=client.is_trusted
        )
        if self.version == "1.0" and not any(name == b"host" for name, _ in passed):
            passed.insert(0, (b"host", urlsplit(url).netloc.encode()))
        passed.append((headers.REQUEST_ID, self.request_id))
        if self.record is not None and self.record.trace is not None:
            return self.record.trace.pass_on(passed)
        return passed


TOO_LARGE = error_answer(413, "request_too_large", "the request's body is longer than this router's max_body_bytes")
_SILENT = error_answer(408, "request_timeout", "the request's body did not arrive in time")
_TOO_SLOW = error_answer(504, "request_timeout", "the request took longer than this router's total_timeout_seconds")


def reset(transport: asyncio.Transport) -> None:
    """Close a connection in a way that its peer cannot take for a normal end."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
