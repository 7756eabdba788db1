"""Accepts clients one by one, so that what there is no room for is known before it takes a descriptor.

A server of the event loop accepts all that have come before anybody can look at the first of them: a burst then takes
every descriptor that the process has.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable

from shared_registry.proxy.client_protocol import BoundedHttpProtocol
from shared_registry.proxy.descriptors import GUESTS

AT_ONCE = 64
"""Clients that are accepted before others get their turn."""
MOST_WAITING = 4096
"""Clients that are accepted last: more than a listener keeps waiting."""
PAUSE_SECONDS = 0.2
"""Between two tries where the system has nothing left."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
NO_ROOM = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
logger = logging.getLogger(__name__)


class Acceptor:
    """Takes clients from one listening socket, which it closes in the end.

    Where there is no room, connections that were kept for another request make way. A client that there is still no
    room for becomes a guest: the router's own pages are for it as well. There are `GUESTS`
    at most; a further one takes the place of the oldest guest that has no request under way.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[bool], BoundedHttpProtocol],
        has_room: Callable[[int], bool],
        make_room: Callable[[], bool],
    ) -> None:
        """Set up; `start` begins.

        Args:
            listener: Listens, and does not block.
            make: Makes what serves a client; told whether that is a guest.
            has_room: Says whether that many clients more fit.
            make_room: Closes a connection that idles between two requests, in the loop's next turn; says whether
                there was one.
        """
        self._listener = listener
        self._make = make
        self._has_room = has_room
        self._make_room = make_room
        self._loop = asyncio.get_running_loop()
        self._beginning: dict[asyncio.Task[None], BoundedHttpProtocol] = {}
        self._guests: list[BoundedHttpProtocol] = []
        self._resuming: asyncio.TimerHandle | None = None
        self._is_exhausted = False
        self._is_closed = False

    @property
    def beginning(self) -> int:
        """How many were accepted whose protocol does not have them yet."""
        return sum(not protocol.is_connected for protocol in self._beginning.values())

    def start(self) -> None:
        """Accept from now on."""
        self._loop.add_reader(self._listener, self._accept_some)

    def close(self) -> None:
        """Accept those that are connected by now, and nobody after them."""
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

    def _accept_some(self) -> None:
        """Accept what waits: the first of them in any case, others as long as there is room."""
        if not self._has_room(1 + self.beginning) and self._make_room():
            return  # and come back in the next turn
        for _ in range(AT_ONCE):
            if not self._accept_one() or not self._has_room(1 + self.beginning):
                return

    def _accept_one(self) -> bool:
        """Accept a client; return whether there may be another."""
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._pause(error)
                return False
            return True  # this client has gone again
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
                client.send(NO_ROOM)
        return True

    def _is_guest_welcome(self) -> bool:
        self._guests = [guest for guest in self._guests if not guest.is_over]
        if len(self._guests) < GUESTS:
            return True
        idle = next((guest for guest in self._guests if guest.is_idle), None)
        if idle is None:
            return False
        self._guests.remove(idle)
        idle.transport.abort()
        return True

    def _begin(self, client: socket.socket, protocol: BoundedHttpProtocol) -> None:
        task = self._loop.create_task(self._hand_over(client, protocol))
        self._beginning[task] = protocol
        task.add_done_callback(self._beginning.pop)

    async def _hand_over(self, client: socket.socket, protocol: BoundedHttpProtocol) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(lambda: protocol, client)
        except OSError:  # it has gone again
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
