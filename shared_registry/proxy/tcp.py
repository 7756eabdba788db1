"""Socket options that make the operating system detect that the peer of a connection has disappeared."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator

SocketOption = tuple[int, int, int]
_PROBES = 3


def liveness_options(seconds: float) -> list[SocketOption]:
    """Return options that break a connection after the peer's TCP has not responded for about that time.

    Keep-alive probes detect a peer that disappeared while no data was in transit. The user timeout limits the time for
    which sent data may stay unacknowledged, or a closed window may stay closed. WebSocket pings cannot do this: a pong
    waits behind all data that a slow side has not read yet, and behind a large frame.
    """
    return list(_options(seconds))


def _options(seconds: float) -> Iterator[SocketOption]:
    idle = max(1, math.ceil(seconds / 2))
    yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
    for name, value in (
        ("TCP_KEEPIDLE", idle),
        ("TCP_KEEPALIVE", idle),  # the name of TCP_KEEPIDLE on macOS
        ("TCP_KEEPINTVL", max(1, math.ceil(seconds / 2 / _PROBES))),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", math.ceil(seconds * 1000)),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            yield socket.IPPROTO_TCP, option, value


def apply(options: list[SocketOption], sock: socket.socket) -> None:
    """Set the options on a socket. Sockets accepted by a listening socket inherit its options."""
    for level, option, value in options:
        sock.setsockopt(level, option, value)
