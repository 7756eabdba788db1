"""What probes do with a connection to a replica: connect, send a request, take the whole response, and name failures.

Not promised: the addresses of a host name are tried one after the other, in the system's order, like those of the
routers' own connections, so one that does not respond uses up the time limit. HTTP/2 is not supported.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from shared_registry.http1.connection import ReplicaClosed, ReplicaConnection
from shared_registry.http1.fields import Headers, request_head
from shared_registry.http1.response import ReplicaBroke
from shared_registry.probing.own_trouble import OwnTrouble, own_trouble

BODY_LIMIT = 64 * 1024
"""The most bytes that are read of a response's body."""

_RESET = os.strerror(errno.ECONNRESET).lower()
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class ProbeFailure(Exception):
    """A probe has failed. The text is for operators, and may contain any text that the replica sent."""


class Unanswered(ProbeFailure):
    """The connection ended before any byte of a response. On a reused connection this is no failure of the replica."""


class Response(NamedTuple):
    """A replica's response. If the body is longer than `BODY_LIMIT`, it is cut to that length.

    A response with the status 101 accepts another protocol.
    """

    status: int
    body: bytes
    is_truncated: bool = False
    headers: Headers = ()


class WholeRequest:
    """A request that is sent at once.

    Attributes:
        method: The request's method.
        data: The request as it is sent, with its body.
    """

    __slots__ = ("data", "method")

    is_chunked = False
    is_harmless = True

    def __init__(self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes = b"") -> None:
        """Pack a request.

        Args:
            method: The method.
            target: The path with the query. All three are ASCII, and without line breaks.
            headers: The headers, with that of the body's length, if there is a body.
            body: The body.
        """
        self.method = method
        pairs = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
        self.data = request_head(method, target.encode("ascii"), pairs) + body

    def flow_to(self, sink: ReplicaConnection) -> bytes:  # noqa: ARG002
        """Return nothing more to send, because the body is sent with the head."""
        return b""

    def flow_nowhere(self) -> None:
        """Do nothing."""

    hold = release = flow_nowhere


class BodyTooLong(Exception):
    """There is more of the body than is of interest."""


class Received:
    """Takes a response, and keeps it: at most a little more than `BODY_LIMIT` of its body."""

    __slots__ = ("body", "fields", "status")

    def __init__(self) -> None:
        self.status = 0
        self.fields: Headers = ()
        self.body = bytearray()

    def begin(self, status: int, fields: Headers) -> None:
        """See `Receiver`."""
        self.status, self.fields = status, fields

    def send(self, data: bytes) -> None:
        """See `Receiver`; raises `BodyTooLong`."""
        self.body += data
        if len(self.body) > BODY_LIMIT:
            raise BodyTooLong

    def flush(self) -> None:
        """See `Receiver`."""

    end = flush

    def response(self) -> Response:
        """Return what was received."""
        is_truncated = len(self.body) > BODY_LIMIT
        return Response(self.status, bytes(self.body[:BODY_LIMIT]), is_truncated=is_truncated, headers=self.fields)


async def connect_to_replica(
    addresses: Sequence[str], port: int, context: ssl.SSLContext | None, server_name: str
) -> tuple[ReplicaConnection, str]:
    """Connect to the first address that accepts, and return it too. If it is cancelled, it leaves no socket open.

    Args:
        addresses: IP addresses, at least one.
        port: The port.
        context: For TLS; `None` for none.
        server_name: The name that the replica's certificate must have.

    Raises:
        ProbeFailure: The connection could not be established.
        OwnTrouble: This router could not try to connect, for a reason of its own.
    """
    errors: list[Exception] = []
    for address in addresses:
        try:
            return await ReplicaConnection.open(address, port, context, server_name=server_name), address
        except (OSError, UnicodeError, RuntimeError) as error:
            errors.append(error)
            if isinstance(error, ssl.SSLError | RuntimeError):
                break
    failure = errors[0] if len(errors) == 1 else ExceptionGroup("no address accepts a connection", errors)
    found = connect_failure(failure, address, port)
    if isinstance(found, ProbeFailure) and isinstance(errors[-1], RuntimeError):
        raise errors[-1]
    raise found from failure


def connect_failure(failure: Exception, address: str, port: int) -> ProbeFailure | OwnTrouble:
    """Return what a probe says of a connection that could not be established.

    Args:
        failure: The system's error.
        address: The address that was tried last.
        port: The port.
    """
    url = f"//{f'[{address}]' if ':' in address else address}:{port}"
    return own_trouble(failure, url=url) or ProbeFailure(f"ConnectError: {reason_of(failure)}")


async def exchange(connection: ReplicaConnection, request: WholeRequest, *, is_upgrade: bool = False) -> Response:
    """Send a request and return its response. There is no time limit here; the caller must set one.

    If it raises or is cancelled, or if the body is too long, the connection is closed.

    Args:
        connection: The connection, which is idle.
        request: The request.
        is_upgrade: Whether the request offers another protocol. The response 101 is accepted then.

    Raises:
        Unanswered: The connection ended before any byte of a response. After a reused connection, a new one may
            succeed.
        ProbeFailure: The response is not valid HTTP, or the connection broke within it.
        OwnTrouble: The connection broke for a reason of this router's own.
    """
    received = Received()
    try:
        await connection.exchange(request, request.data, received, is_upgrade=is_upgrade)
    except BodyTooLong:
        pass
    except ReplicaBroke as error:
        raise exchange_failure(error, received, has_received=connection.has_received) from error
    return received.response()


def exchange_failure(error: ReplicaBroke, received: Received, *, has_received: bool) -> ProbeFailure | OwnTrouble:
    """Return what a probe says of an exchange that has failed.

    Args:
        error: What has failed.
        received: What was received of the response.
        has_received: Whether any byte was received.
    """
    if isinstance(error, ReplicaClosed) and isinstance(error.__cause__, Exception):
        failure = broken(error.__cause__)
        if isinstance(failure, OwnTrouble):
            return failure
        text = str(failure)
    else:
        is_early = isinstance(error, ReplicaClosed)
        text = f"RemoteProtocolError: {_early_end(received, has_received=has_received) if is_early else error}"
    return ProbeFailure(text) if has_received else Unanswered(text)


def _early_end(received: Received, *, has_received: bool) -> str:
    if not has_received:
        return "server disconnected without sending a response"
    if not received.status:
        return "peer unexpectedly closed connection"
    length = dict(received.fields).get(b"content-length")
    missing = (
        f"received {len(received.body)} bytes, expected {length.decode()}" if length else "incomplete chunked read"
    )
    return f"peer closed connection without sending complete message body ({missing})"


def broken(error: Exception) -> ProbeFailure | OwnTrouble:
    """Return the failure of an established connection that has broken with a system's error."""
    return own_trouble(error) or ProbeFailure(f"ReadError: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """Return the reason why a connection failed, in the operating system's words, without addresses and numbers."""
    if isinstance(error, ExceptionGroup):
        return ", ".join(dict.fromkeys(reason_of(one) for one in error.exceptions))
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, socket.gaierror):
        return str(error.strerror or error).lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    # If several addresses have failed, asyncio raises one error with the joined texts and without an errno.
    reasons = dict.fromkeys(os.strerror(int(number)).lower() for number in _ERRNO.findall(str(error)))
    # Of a connection that ends in a handshake, event loops raise an error without a text.
    unnamed = _RESET if isinstance(error, ConnectionResetError) else type(error).__name__
    return ", ".join(reasons) or str(error) or unnamed
