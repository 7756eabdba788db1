"""A simulated network: connections of routers to the server, each over the router's own link, which may fail.

A link delivers, delays, holds back (as a partition does, until TCP sends again), or breaks what is under way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Protocol

from tests.support.simulation.loop import Process, VirtualLoop, current_process

REFUSED_AFTER_SECONDS = 0.001


class Peer(Protocol):
    """The server's end of a connection."""

    def received(self, data: bytes) -> None:
        """Take bytes."""

    def closed(self) -> None:
        """Take note of the end."""


class Link:
    """What is between one router and the server.

    Attributes:
        loses_replies: So many next replies are lost, together with their connection.
        loses_commands: So many next commands are lost, together with their connection.
        repeats: So many next commands are executed twice.
        latency_seconds: The longest time of one way.
        blocks_commands: Nothing arrives at the server.
        blocks_replies: Nothing arrives at the router.
    """

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self.loop = loop
        self._rng = rng
        self.loses_replies = self.loses_commands = self.repeats = 0
        self.latency_seconds = 0.002
        self.blocks_commands = self.blocks_replies = False
        self.connections: dict[Connection, None] = {}

    def delay(self) -> float:
        return self._rng.uniform(0.0002, self.latency_seconds)

    def break_all(self) -> None:
        """Break all connections. What is under way is lost."""
        for connection in list(self.connections):
            connection.break_off()

    def heal(self) -> None:
        """End all faults. What was held back arrives."""
        self.loses_replies = self.loses_commands = self.repeats = 0
        self.latency_seconds = 0.002
        self.unblock()

    def unblock(self) -> None:
        """Deliver what was held back."""
        self.blocks_commands = self.blocks_replies = False
        for connection in list(self.connections):
            connection.send_held()


class Network:
    """Connects routers to the server that listens.

    Attributes:
        links: The link of each process.
        listen: Accepts a connection: returns the server's end; `None` if nothing listens.
    """

    def __init__(self, loop: VirtualLoop, server: Process) -> None:
        self.loop = loop
        self.server = server
        self.links: dict[Process, Link] = {}
        self.listen: Callable[[Connection], Peer] | None = None

    async def connect(
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Make a connection for the process that runs."""
        process = current_process()
        link = self.links[process]
        connection = Connection(self, link, process)
        accepted = asyncio.get_running_loop().create_future()
        connection.when_open = accepted
        connection.open()
        try:
            await accepted
        except asyncio.CancelledError:
            connection.closed_by_client()
            raise
        protocol = protocol_factory()
        transport = Transport(connection, protocol)
        connection.transport = transport
        protocol.connection_made(transport)
        return transport, protocol


class Connection:
    """One connection: both directions, each in order."""

    def __init__(self, network: Network, link: Link, process: Process) -> None:
        self.link = link
        self._network = network
        self._loop = network.loop
        self._process = process
        self._peer: Peer | None = None
        self.transport: Transport | None = None
        self.when_open: asyncio.Future[None] | None = None
        self._up_at = self._down_at = 0.0
        self._held_up: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._held_down: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._is_broken = False
        link.connections[self] = None

    def open(self) -> None:
        self._up(self._accept)

    def to_server(self, data: bytes) -> None:
        if self.link.loses_commands:
            self.link.loses_commands -= 1
            self.break_off()
            return
        self._up(self._receive, data)

    def to_client(self, data: bytes) -> None:
        if self._is_broken:
            return
        if self.link.loses_replies:
            self.link.loses_replies -= 1
            self.break_off()
            return
        self._down(self._deliver, data)

    def closed_by_client(self) -> None:
        self._up(self._end_peer)

    def closed_by_server(self) -> None:
        self._peer = None
        self._down(self._end_client)

    def break_off(self) -> None:
        """Let both ends learn that the connection broke. What is under way is lost."""
        if self._is_broken:
            return
        self._is_broken = True
        self._held_up.clear()
        self._held_down.clear()
        self.link.connections.pop(self, None)
        self._loop.deliver(self._loop.time() + self.link.delay(), self._network.server, self._end_peer_at_once)
        self._loop.deliver(self._loop.time() + self.link.delay(), self._process, self._end_client)

    def send_held(self) -> None:
        for call, args in self._held_up:
            self._up(call, *args)
        for call, args in self._held_down:
            self._down(call, *args)
        self._held_up, self._held_down = [], []

    def _up(self, call: Callable[..., None], *args: Any) -> None:
        if self.link.blocks_commands:
            self._held_up.append((call, args))
            return
        self._up_at = max(self._up_at, self._loop.time() + self.link.delay())
        self._loop.deliver(self._up_at, self._network.server, self._unless_broken, call, args)

    def _down(self, call: Callable[..., None], *args: Any) -> None:
        if self.link.blocks_replies:
            self._held_down.append((call, args))
            return
        self._down_at = max(self._down_at, self._loop.time() + self.link.delay())
        self._loop.deliver(self._down_at, self._process, self._unless_broken, call, args)

    def _unless_broken(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self._is_broken:
            call(*args)

    # At the server

    def _accept(self) -> None:
        listen = self._network.listen
        if listen is None:
            self._down(self._refuse)
            return
        self._peer = listen(self)
        self._down(self._opened)

    def _receive(self, data: bytes) -> None:
        if self._peer is not None:
            self._peer.received(data)

    def _end_peer(self) -> None:
        self.link.connections.pop(self, None)
        self._end_peer_at_once()

    def _end_peer_at_once(self) -> None:
        if self._peer is not None:
            self._peer.closed()
            self._peer = None

    # At the client

    def _opened(self) -> None:
        if self.when_open is not None and not self.when_open.done():
            self.when_open.set_result(None)

    def _refuse(self) -> None:
        self.link.connections.pop(self, None)
        if self.when_open is not None and not self.when_open.done():
            self.when_open.set_exception(ConnectionRefusedError(111, "Connection refused"))

    def _deliver(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.deliver(data)

    def _end_client(self) -> None:
        self.link.connections.pop(self, None)
        if self.transport is not None:
            self.transport.lose(ConnectionResetError(104, "Connection reset by peer"))
        elif self.when_open is not None and not self.when_open.done():
            self.when_open.set_exception(ConnectionResetError(104, "Connection reset by peer"))


class Transport(asyncio.Transport):
    """The client's end of a connection."""

    def __init__(self, connection: Connection, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._connection = connection
        self._protocol = protocol
        self._is_closing = self._is_lost = self._is_reading_paused = False
        self._unread: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_closing and not self._is_lost:
            self._connection.to_server(bytes(data))

    def is_closing(self) -> bool:
        return self._is_closing or self._is_lost

    def close(self) -> None:
        if self._is_closing or self._is_lost:
            return
        self._is_closing = True
        self._connection.closed_by_client()
        asyncio.get_running_loop().call_soon(self.lose, None)

    def abort(self) -> None:
        self.close()

    def deliver(self, data: bytes) -> None:
        """Pass bytes to the protocol, as soon as it reads."""
        if self.is_closing():
            return
        if self._is_reading_paused:
            self._unread.append(data)
        else:
            self._protocol.data_received(data)

    def pause_reading(self) -> None:
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        self._is_reading_paused = False
        unread, self._unread = self._unread, []
        for data in unread:
            self._protocol.data_received(data)

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol that the connection is over."""
        if not self._is_lost:
            self._is_lost = True
            self._protocol.connection_lost(error)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """A simulated connection takes everything at once."""

    def get_write_buffer_size(self) -> int:
        return 0
