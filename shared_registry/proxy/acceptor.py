"""Accepts clients one by one, and checks before each whether there is room for it.

The event loop's own server accepts all waiting clients before the program can handle the first of them. A burst of
clients could then take all descriptors of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable

from shared_registry.proxy.client import ClientConnection
from shared_registry.proxy.client_tls import ClientTls
from shared_registry.proxy.descriptors import GUESTS

AT_ONCE = 8
"""The most clients that are accepted in one turn of the event loop.

The others of a burst wait in the listener's backlog, and not in the router: a session that begins takes twice the
memory of one under way, and each of them delays the next turn.
"""
MOST_WAITING = 4096
"""The most clients that are accepted when the acceptor closes: more than a listener's backlog."""
PAUSE_SECONDS = 0.2
"""The pause between two attempts while the system has no descriptors or memory left."""
LAST_SECONDS = 1.0
"""How long handshakes may take to end that are broken off."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
logger = logging.getLogger(__name__)


class Acceptor:
    """Accepts clients from one listening socket, and closes the socket at the end.

    If there is no room for a client, a connection that is idle between two requests is closed. If there is still no
    room, the client becomes a guest, which gets only the router's own pages. There are at most `GUESTS` guests. A
    further guest replaces the oldest one that has no request under way; if there is none, the client gets 503.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[bool], ClientConnection],
        has_room: Callable[[int], bool],
        make_room: Callable[[], bool],
        refuse: Callable[[str | None], bytes],
        tls: ClientTls | None,
    ) -> None:
        """Create the acceptor. It accepts nothing before `start()`.

        Args:
            listener: A listening, non-blocking socket.
            make: Makes the protocol for a client. Its argument is whether the client is a guest.
            has_room: Returns whether there is room for that many more clients.
            make_room: Closes a connection that is idle between two requests, and returns whether there was one. The
                connection closes in the next turn of the event loop.
            refuse: Returns the response to a client for which there is no room, given its address.
            tls: The TLS of the clients, if they use it. A client whose handshake is not complete takes a room.
        """
        self._listener = listener
        self._make = make
        self._has_room = has_room
        self._make_room = make_room
        self._refuse = refuse
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._beginning: dict[asyncio.Task[None], tuple[ClientConnection, socket.socket]] = {}
        self._guests: list[ClientConnection] = []
        self._resuming: asyncio.TimerHandle | None = None
        self._is_exhausted = False
        self._is_closed = False

    @property
    def beginning(self) -> int:
        """The number of accepted clients that were not handed to their protocols yet."""
        return sum(not protocol.is_connected for protocol, _ in self._beginning.values())

    def start(self) -> None:
        """Accept clients from now on."""
        self._loop.add_reader(self._listener, self._accept_some)

    def close(self) -> None:
        """Accept the clients that are already connected, then close the listener. Twice is harmless."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._resuming is not None:
            self._resuming.cancel()
        self._loop.remove_reader(self._listener)
        for _ in range(MOST_WAITING):
            if not self._accept_one():
                break
        self._listener.close()

    async def end(self) -> None:
        """Break off the handshakes that are not complete. The listener must be closed."""
        for protocol, client in self._beginning.values():
            if not protocol.is_connected:
                _break_off(client)
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=LAST_SECONDS)

    def _accept_some(self) -> None:
        """Accept waiting clients: the first one in any case, further ones while there is room."""
        if not self._has_room(1 + self.beginning) and self._make_room():
            return  # the idle connection closes in the next turn, which then continues here
        for _ in range(AT_ONCE):
            if not self._accept_one() or not self._has_room(1 + self.beginning):
                return

    def _accept_one(self) -> bool:
        """Accept a client. Return whether another one may be waiting."""
        try:
            client, address = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._pause(error)
                return False
            return True  # this client has left already
        if self._is_exhausted:
            self._is_exhausted = False
            logger.info("router: accepting clients again")
        client.setblocking(False)  # noqa: FBT003
        if self._has_room(1 + self.beginning):
            self._begin(client, self._make(False))  # noqa: FBT003
        elif self._is_guest_welcome():
            self._guests.append(guest := self._make(True))  # noqa: FBT003
            self._begin(client, guest)
        else:
            with client, contextlib.suppress(OSError):
                if self._tls is None:
                    client.send(self._refuse(str(address[0]) if address else None))
        return True

    def _is_guest_welcome(self) -> bool:
        self._guests = [guest for guest in self._guests if not guest.is_over]
        if len(self._guests) < GUESTS:
            return True
        idle = next((guest for guest in self._guests if guest.is_idle or not guest.is_connected), None)
        if idle is None:
            return False
        self._guests.remove(idle)
        self._disconnect(idle)
        return True

    def _begin(self, client: socket.socket, protocol: ClientConnection) -> None:
        task = self._loop.create_task(self._hand_over(client, protocol))
        self._beginning[task] = protocol, client
        task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[None]) -> None:
        protocol, _ = self._beginning.pop(task)
        if not protocol.is_connected and protocol in self._guests:
            self._guests.remove(protocol)

    def _disconnect(self, guest: ClientConnection) -> None:
        guest.abort()
        for protocol, client in self._beginning.values():
            if protocol is guest and not guest.is_connected:
                _break_off(client)

    async def _hand_over(self, client: socket.socket, protocol: ClientConnection) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            options = {} if self._tls is None else self._tls.options()
            await self._loop.connect_accepted_socket(lambda: protocol, client, **options)
        except OSError as error:  # the client has left already, or its TLS handshake has failed
            logger.debug("router: a client could not connect: %s", error)
            client.close()
        except BaseException:
            client.close()
            raise

    def _pause(self, error: OSError) -> None:
        if not self._is_exhausted:
            self._is_exhausted = True
            logger.warning("router: cannot accept clients: %s; trying again every %g s", error, PAUSE_SECONDS)
        if not self._is_closed:
            self._loop.remove_reader(self._listener)
            self._resuming = self._loop.call_later(PAUSE_SECONDS, self.start)


def _break_off(client: socket.socket) -> None:
    """End a handshake. The transport has the socket already, and closes it when it reads the end."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
