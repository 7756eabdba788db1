"""Tells whether a request was certainly not read by the replica, because its end of the connection was closed already.

A server may close a kept connection in the moment in which the next request is on its way. The end of the connection
then arrives without an acknowledgement of the request, since it was sent before the request came, and a reset follows,
since nobody reads any more. Such a request was not read, whatever it is, and may be sent again. A reset alone proves
nothing: the replica may have read the request before its system has acknowledged it.

Linux tells this of TCP sockets. Elsewhere, and with TLS, where the two sides also exchange other bytes, nothing is
known.
"""

from __future__ import annotations

import socket
import struct
import sys

SECONDS, POLL_SECONDS = 0.25, 0.005
"""How long to wait for the reset after the end of the connection was received, and how often to look."""
_BYTES_ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked in linux/tcp.h, since Linux 4.1
_CLOSED = 7  # TCP_CLOSE in include/net/tcp_states.h


def acknowledged(sock: socket.socket | None) -> int | None:
    """Return how many bytes the peer's system has acknowledged so far; `None` if that is not known."""
    info = _info(sock)
    return None if info is None else int(_BYTES_ACKED.unpack_from(info)[0])


def was_reset(sock: socket.socket | None) -> bool:
    """Return whether a reset has arrived after the end of the connection."""
    info = _info(sock)
    return info is not None and info[0] == _CLOSED


def _info(sock: socket.socket | None) -> bytes | None:
    if sock is None or not sys.platform.startswith("linux"):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return None
    return info if len(info) >= _BYTES_ACKED.size else None
