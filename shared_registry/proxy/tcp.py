"""Socket options under which the system itself finds out that the other end of a connection is gone."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator

SocketOption = tuple[int, int, int]
_PROBES = 3


def liveness_options(seconds: float) -> list[SocketOption]:
    """Return options that break a connection whose peer has been silent to TCP for about that long.

    Keep-alive probes find a peer that vanished while nothing was under way. The user timeout bounds how long sent data
    may go unacknowledged or a closed window stay closed. WebSocket pings would not do: their answers wait behind
    whatever a slow side has not read yet, and behind one large frame.
    """
    return list(_options(seconds))


def _options(seconds: float) -> Iterator[SocketOption]:
    idle = max(1, math.ceil(seconds / 2))
    yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
    for name, value in (
        ("TCP_KEEPIDLE", idle),
        ("TCP_KEEPALIVE", idle),  # the same, on macOS
        ("TCP_KEEPINTVL", max(1, math.ceil(seconds / 2 / _PROBES))),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", math.ceil(seconds * 1000)),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            yield socket.IPPROTO_TCP, option, value


def apply(options: list[SocketOption], sock: socket.socket) -> None:
    """Set them on a socket; what a listening one has, those that it accepts inherit."""
    for level, option, value in options:
        sock.setsockopt(level, option, value)
