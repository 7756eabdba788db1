"""Connections that need no task: opened, used and closed by events, all watched as one file.

An event loop's own connection needs a task until it is open, and several objects. A probe that opens one spends most of
its time on these. This is only for Linux (`epoll`); elsewhere probes use the event loop's connections.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import sys
from typing import Protocol, cast

READ_BYTES = 64 * 1024
PIECES_AT_ONCE = 4
NOBODY = asyncio.Protocol()
"""The protocol of a connection that has ended. Otherwise the two would refer to each other for ever."""

if sys.platform == "linux":
    _READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _ENDED = _READABLE & ~select.EPOLLIN
    # Edge-triggered, so that what is watched for never changes: each change would be a system call.
    _WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Carrier(Protocol):
    """What a probe needs of a connection. An event loop's own transport is one, too."""

    def write(self, data: bytes) -> None:
        """Send data; what fails is reported later."""

    def is_closing(self) -> bool:
        """Return whether the connection is closed or is being closed."""

    def abort(self) -> None:
        """Close the connection at once."""


def has_plain_sockets() -> bool:
    """Return whether `PlainSockets` can be used here."""
    return sys.platform == "linux"


class PlainSockets:
    """The connections of one prober. For one event loop; not thread-safe."""

    def __init__(self, ready_at_once: int) -> None:
        """Set up. Nothing is opened before the first connection.

        Args:
            ready_at_once: How many connections are served before other callbacks of the event loop run.
        """
        self._ready_at_once = ready_at_once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._epoll: select.epoll
        self._sockets: dict[int, PlainSocket] = {}
        self._to_close: list[socket.socket] | None = None

    def connect(self, address: str, port: int, protocol: asyncio.Protocol) -> PlainSocket:
        """Begin to connect. The protocol's `connection_lost` is called if that fails later.

        Args:
            address: An IP address.
            port: The port.
            protocol: Is told of the connection: `data_received`, `eof_received`, and `connection_lost`. It may close
                the connection in these calls.

        Raises:
            OSError: It has failed already.
        """
        if self._loop is None:
            self._loop, self._epoll = asyncio.get_running_loop(), select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._serve)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            number = opened.connect_ex((address, port))
            if number not in (0, errno.EINPROGRESS):
                raise OSError(number, os.strerror(number))
            self._epoll.register(opened, _WATCHED)
        except BaseException:
            opened.close()
            raise
        connection = self._sockets[opened.fileno()] = PlainSocket(self, self._loop, opened, protocol)
        return connection

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._sockets.values()):
            connection.abort()
        if self._loop is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._loop = None

    def drop(self, number: int, closed: socket.socket) -> None:
        """Close a socket. Its number is not used again while events of the closed one may be waiting to be served."""
        del self._sockets[number]
        if self._to_close is None:
            os.close(closed.detach())
        else:
            self._to_close.append(closed)

    def _serve(self) -> None:
        self._to_close = []
        try:
            for number, events in self._epoll.poll(0, self._ready_at_once):
                connection = self._sockets.get(number)
                if connection is not None:
                    connection.serve(events)
        finally:
            for closed in self._to_close:
                os.close(closed.detach())
            self._to_close = None


class PlainSocket:
    """One connection, which belongs to its protocol."""

    __slots__ = ("_is_open", "_loop", "_number", "_protocol", "_socket", "_together", "_unsent")

    def __init__(
        self, together: PlainSockets, loop: asyncio.AbstractEventLoop, opened: socket.socket, protocol: asyncio.Protocol
    ) -> None:
        self._together = together
        self._loop = loop
        self._number = opened.fileno()
        self._socket: socket.socket | None = opened
        self._protocol = protocol
        self._is_open = False
        self._unsent = b""

    def is_closing(self) -> bool:
        """See `Carrier`."""
        return self._socket is None

    def abort(self) -> None:
        """See `Carrier`."""
        self._lose(None)

    def write(self, data: bytes) -> None:
        """See `Carrier`."""
        if self._socket is None:
            return
        if not self._is_open or self._unsent:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._loop.call_soon(self._lose, error)
            return
        if sent < len(data):
            self._unsent = data[sent:]

    def serve(self, events: int) -> None:
        """Do what the socket is ready for. Of more than some pieces the rest waits until others had their turn."""
        if not self._is_open or self._unsent:
            self._send_rest()
        pieces = PIECES_AT_ONCE
        while events & _READABLE and self._socket is not None:
            if not pieces:
                self._loop.call_soon(self.serve, events)
                return
            pieces -= 1
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(error)
                return
            if not data:
                self._protocol.eof_received()
                self._lose(None)
                return
            self._protocol.data_received(data)
            if len(data) < READ_BYTES and not events & _ENDED:
                return  # more comes with another event

    def _send_rest(self) -> None:
        """Send what waits. The first attempt shows whether the connection could be established."""
        if self._socket is None:
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        self._unsent = self._unsent[sent:]
        if not self._is_open:
            self._is_open = True
            self._protocol.connection_made(cast("asyncio.Transport", self))

    def _lose(self, error: Exception | None) -> None:
        if self._socket is None:
            return
        closed, self._socket = self._socket, None
        self._together.drop(self._number, closed)
        protocol, self._protocol = self._protocol, NOBODY
        protocol.connection_lost(error)
