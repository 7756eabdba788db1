"""One request of a client and the response to it, as the client's connection sees them.

The request's body flows to a sink, which is a connection to a replica. Until there is one, the body is kept, up to
`KEPT_BYTES`; then nothing more is read from the client. What was sent is kept as well as long as it is no more than
that, so that the request can be sent again to another replica.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from http.client import responses
from typing import TYPE_CHECKING, Protocol

from shared_registry.proxy import headers
from shared_registry.proxy.headers import Headers

if TYPE_CHECKING:
    from shared_registry.proxy.answers import Answer
    from shared_registry.proxy.client import ClientConnection

KEPT_BYTES = 64 * 1024
"""The most bytes of a request's body that are kept."""
_WITHOUT_BODY = frozenset({204, 304})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)
_STATUS_LINES = {status: f"HTTP/1.1 {status} {responses.get(status, '')}\r\n".encode() for status in range(100, 600)}


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


class Exchange:
    """One request and its response. All methods are synchronous; what is written is buffered by the transport.

    Attributes:
        method: The request's method.
        target: The request's target, as received.
        version: "1.0" or "1.1".
        fields: The request's headers, with names in lower case.
        has_body: Whether the request has a body.
        is_handshake: Whether the request is the handshake of a WebSocket.
        is_guest: Whether there is no room for the client; see `Acceptor`.
        keep_alive: Whether the connection may carry another request after the response.
        is_received: Whether the request was received whole.
        is_begun: Whether the head of a response was sent. No other response can be sent then.
        is_over: Whether a response was sent whole, or was broken off.
        task: The task that serves the request; cancelled if the client leaves.
        is_silent: Whether the client has sent nothing of its body for too long.
        rewrite: Changes the headers of any response; `None` if they stay as they are.
        key_name: The name of the API key with which the request came; `None` if it needed none.
    """

    __slots__ = (
        "_client",
        "_is_chunked",
        "_is_delimited",
        "_kept",
        "_kept_size",
        "_out",
        "_received_at",
        "_sink",
        "_was_asked",
        "fields",
        "has_body",
        "is_begun",
        "is_guest",
        "is_handshake",
        "is_over",
        "is_received",
        "is_silent",
        "keep_alive",
        "key_name",
        "method",
        "rewrite",
        "target",
        "task",
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
        has_body: bool,
        keep_alive: bool,
        is_handshake: bool = False,
    ) -> None:
        self.is_handshake = is_handshake
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.has_body = has_body
        self.keep_alive = keep_alive
        self.is_received = not has_body
        self.is_begun = False
        self.is_over = False
        self.is_silent = False
        self.is_guest = client.is_guest
        self.key_name: str | None = None
        self.rewrite: Callable[[Headers], Headers] | None = None
        self.task: asyncio.Task[None] | None = None
        self._client = client
        self._sink: Sink | None = None
        self._kept: list[bytes] | None = []
        self._kept_size = 0
        self._received_at = 0.0
        self._was_asked = False
        self._is_chunked = False
        self._is_delimited = True
        self._out: list[bytes] = []

    # The request

    @property
    def client(self) -> ClientConnection:
        """The connection on which the request came."""
        return self._client

    @property
    def client_address(self) -> str | None:
        """The address of the client that sent the request, behind the trusted proxies; `None` if it has none."""
        client = self._client
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
    def is_chunked(self) -> bool:
        """Whether the body is sent in chunks."""
        return self.has_body and headers.is_chunked(self.fields)

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
    def is_replayable(self) -> bool:
        """Whether everything that was received of the body is still kept."""
        return self._kept is not None

    @property
    def is_congested(self) -> bool:
        """Whether so much of the body waits for a sink that no more should be read."""
        return self._sink is None and self._kept_size > KEPT_BYTES and not self.is_over

    def receive(self, data: bytes) -> None:
        """Take a piece of the request's body from the client."""
        if self.is_over:
            return
        self._received_at = self._client.now()
        self._was_asked = True
        if self._sink is not None:
            self._sink.send(data)
        if self._kept is not None:
            self._kept_size += len(data)
            if self._sink is None or self._kept_size <= KEPT_BYTES:
                self._kept.append(data)
            else:
                self._kept = None

    def receive_end(self) -> None:
        """The request's body is complete."""
        self.is_received = True
        if self._sink is not None:
            self._sink.end_request()

    def flow_to(self, sink: Sink) -> None:
        """Send the body to a sink from now on: first what is kept, from the beginning on."""
        self._sink = sink
        self._received_at = self._client.now()
        if not self._was_asked:
            self._was_asked = True
            if self.expects_continue and not self.is_received:
                self._client.write(_CONTINUE)
        if self._kept:
            for data in self._kept:
                sink.send(data)
            if self._kept_size > KEPT_BYTES:
                self._kept = None
        if self.is_received:
            sink.end_request()
        self._client.update_reading()

    def flow_nowhere(self) -> None:
        """Send the body to no sink any more, because the sink has ended."""
        self._sink = None
        if self._client.is_held:
            self._client.release()

    def hold(self) -> None:
        """Read no more of the body, because the sink is full."""
        self._client.hold()

    def release(self) -> None:
        """Read the body again."""
        self._received_at = self._client.now()
        self._client.release()

    def check(self, now: float, silence_seconds: float) -> None:
        """Apply the time limits: a client that sends nothing of its body for too long, and the limits of the sink."""
        if self._sink is None:
            return
        if not self.is_received and not self._client.is_held and now - self._received_at > silence_seconds:
            self.is_silent = True
            self.leave()
        else:
            self._sink.check(now)

    def leave(self) -> None:
        """The client has left, or is to be disconnected: end the task that serves the request."""
        if self.task is not None and not self.is_over:
            self.task.cancel()

    def pause_response(self) -> None:
        """The client does not read."""
        if self._sink is not None:
            self._sink.pause_response()

    def resume_response(self) -> None:
        """The client reads again."""
        if self._sink is not None:
            self._sink.resume_response()

    # The response

    def begin(self, status: int, fields: Headers) -> None:
        """Begin a response. Its end is found by its length if it has one, otherwise by chunks or the connection's end.

        Args:
            status: The response's status, not of an interim response.
            fields: The headers, with names in lower case, and without those about a single connection.
        """
        self.is_begun = True
        if self.rewrite is not None:
            fields = self.rewrite(fields)
        head = [_STATUS_LINES[status]]
        has_length = False
        for name, value in fields:
            head += (name, b": ", value, b"\r\n")
            has_length = has_length or name == b"content-length"
        has_body = self.method != "HEAD" and status not in _WITHOUT_BODY
        if has_body and not has_length:
            if self.version == "1.0":
                self._is_delimited = False
                self.keep_alive = False
            else:
                self._is_chunked = True
                head.append(b"transfer-encoding: chunked\r\n")
        if self.is_held_back:
            self.keep_alive = False
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        elif self.version == "1.0":
            head.append(b"connection: keep-alive\r\n")
        head.append(b"\r\n")
        self._out.append(b"".join(head))

    def send(self, data: bytes) -> None:
        """Send a piece of the response's body. It is written by `flush()`."""
        if self._is_chunked:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def flush(self) -> None:
        """Write what was sent."""
        if self._out:
            self._client.write_all(self._out)
            self._out = []

    def end(self) -> None:
        """End the response."""
        if self._is_chunked:
            self._out.append(_LAST_CHUNK)
        self.flush()
        self.is_over = True
        self._sink = None
        self._kept = None
        self._client.end_exchange(self)

    def answer(self, answer: Answer) -> None:
        """Send the router's own response, unless another response has begun; that one is broken off."""
        if self.is_begun or self.is_over:
            self.break_off()
            return
        content = answer.content()
        named = (b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))
        self.begin(answer.status, (*named, *answer.fields))
        if self.method != "HEAD":
            self.send(content)
        self.end()

    def break_off(self) -> None:
        """Close the connection without completing the response. Does nothing if the exchange is over."""
        if self.is_over:
            return
        self.is_over = True
        self._sink = None
        self.flush()
        if not self._is_delimited:  # a normal close would complete the response
            self._client.reset()
        else:
            self._client.close()

    def for_replica(self, authority: bytes) -> list[tuple[bytes, bytes]]:
        """Return the headers to send to the replica.

        Args:
            authority: The value of `Host` if the client has sent none.
        """
        client = self._client
        passed = headers.to_replica(
            self.fields, client=client.address, scheme=client.scheme, is_trusted=client.is_trusted
        )
        if self.version == "1.0" and not any(name == b"host" for name, _ in passed):
            passed.insert(0, (b"host", authority))
        return passed


def reset(transport: asyncio.Transport) -> None:
    """Close a connection in a way that its peer cannot take for a normal end."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
