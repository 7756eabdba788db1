"""An HTTP/1.1 connection from the proxy to a replica. It sends and receives at the same time, each with flow control.

The parser is h11. httpcore cannot be used: it sends a whole request before it reads the response, so a replica that
responds while it still reads the request could wait forever. It also took two thirds of a request's time in the router.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import AsyncIterator
from typing import cast

import h11

from shared_registry.proxy import tcp
from shared_registry.proxy.headers import Headers, malformed

HIGH_WATER = 128 * 1024
"""The number of received, unread bytes above which reading pauses."""
LONGEST_HEAD = 64 * 1024
WITHOUT_BODY = frozenset({204, 304})
HIGHEST_STATUS = 599


class ReplicaBroke(Exception):
    """The connection ended, or the replica sent something that is not valid HTTP."""


class ReplicaSilent(Exception):
    """The replica sent nothing, or accepted no data, for too long."""


class ReplicaConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time. Each step waits for the replica for a limited time.

    One task may send while another one receives. `abort()` is synchronous, and is allowed at any time.

    Attributes:
        is_used: Whether the connection has carried an exchange before.
        has_received: Whether any data was received in this exchange.
        status: The status of the last response; `None` before the first.
        idle_since: The end of the last exchange, on the event loop's clock.
    """

    def __init__(self, *, silence_seconds: float) -> None:
        self.is_used = False
        self.has_received = False
        self.status: int | None = None
        self.idle_since = 0.0
        self._silence_seconds = silence_seconds
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        self._transport: asyncio.Transport
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._waiting = 0
        self._is_paused = False
        self._is_stuck = False
        self._may_carry_more = True
        self._lost: str | None = None

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        options: list[tcp.SocketOption],
        *,
        server_name: str,
        silence_seconds: float,
    ) -> ReplicaConnection:
        """Connect, with TLS if a context is given. If it is cancelled, it leaves no socket open.

        Raises:
            OSError: The connection could not be established.
        """
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(
            lambda: cls(silence_seconds=silence_seconds),
            host,
            port,
            ssl=context,
            server_hostname=server_name if context else None,
        )
        tcp.apply(options, transport.get_extra_info("socket"))
        return connection

    @property
    def is_idle(self) -> bool:
        """Whether the connection can carry another exchange, as far as this side knows."""
        return self._lost is None and self._parser.our_state is h11.IDLE and not self._transport.is_closing()

    @property
    def has_unread(self) -> bool:
        """Whether the socket has data that was not requested, or the end of the connection, still to be read."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    async def send_head(self, method: str, target: bytes, headers: Headers) -> None:
        """Begin a request.

        Raises:
            ValueError: The request is not valid HTTP; nothing was sent.
        """
        try:
            head = h11.Request(method=method, target=target, headers=list(headers))
            data = self._parser.send(head)
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from error
        self._may_carry_more = method != "HEAD"
        await self._write(data)

    async def send(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        await self._write(self._parser.send(h11.Data(data=data)))

    async def end(self) -> None:
        """End the request. From now on the time limit applies to the wait for the replica's response."""
        await self._write(self._parser.send(h11.EndOfMessage()))
        self._changed.set()

    async def wait_data(self) -> None:
        """Wait until the first data of the response was received.

        Raises:
            ReplicaBroke: The connection ended before that.
            ReplicaSilent: Nothing was received for too long.
        """
        while not self.has_received:
            if self._lost is not None:
                raise ReplicaBroke(self._lost)
            self._changed.clear()
            await self._in_time(self._changed)

    async def response(self) -> tuple[int, Headers]:
        """Return the response's status and headers, with names in lower case. Interim responses are skipped."""
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                if event.status_code in WITHOUT_BODY:
                    self._may_carry_more = False
                if event.status_code > HIGHEST_STATUS:
                    raise ReplicaBroke(f"it answered with status {event.status_code}")
                if name := malformed(event.headers):
                    raise ReplicaBroke(f"the value of {name.decode()} has control characters")
                self.status = event.status_code
                return event.status_code, list(event.headers)
            if not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                raise ReplicaBroke("it answered with something other than a response")

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the response's body as it arrives. It ends without an error only if the body is complete."""
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise ReplicaBroke("it broke off within the response")
            yield bytes(event.data)

    def finish(self) -> bool:
        """Prepare the connection for another exchange, and return whether it can carry one.

        It cannot after a response that must not have a body. If a replica sent a body nevertheless, a moment later,
        the body would be taken for the response to the next request.
        """
        self._resume()
        if not self._may_carry_more:
            return False
        if self._parser.our_state is not h11.DONE or self._parser.their_state is not h11.DONE:
            return False
        if self._parser.trailing_data[0]:
            return False
        self._parser.start_next_cycle()
        self.is_used, self.has_received = True, False
        self.idle_since = asyncio.get_running_loop().time()
        return self.is_idle

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass the data to the parser and wake the reader. Pause reading if the reader is too slow."""
        if self._parser.our_state is h11.IDLE:  # no request was sent
            self._transport.abort()
            return
        self.has_received = True
        self._parser.receive_data(data)
        self._waiting += len(data)
        if self._waiting > HIGH_WATER and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> None:
        """End a body whose end is the end of the connection."""
        if self._lost is None and self._parser.their_state is not h11.ERROR:
            self._parser.receive_data(b"")
        self._changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Record the end of the connection, and wake the reader and the sender."""
        self._lost = str(error) if error else "it closed the connection"
        self._changed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        """Make senders wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let senders continue."""
        self._writable.set()

    async def _write(self, data: bytes | None) -> None:
        if self._lost is not None:
            raise ReplicaBroke(self._lost)
        if data:
            self._transport.write(data)
        if not self._writable.is_set():
            try:
                await self._in_time(self._writable)
            except ReplicaSilent:
                self._is_stuck = True
                self._changed.set()
                raise

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                raise ReplicaBroke(self._lost or str(error)) from error
            if event is not h11.NEED_DATA:
                return cast("h11.Event", event)
            if self._lost is not None:
                raise ReplicaBroke(self._lost)
            if self._is_stuck:
                raise ReplicaSilent("it does not take the request")
            self._resume()
            self._changed.clear()
            if self._parser.our_state is h11.SEND_BODY:
                await self._changed.wait()  # the sender limits it: it ends, finds the client silent, or is stuck
            else:
                await self._in_time(self._changed)

    def _resume(self) -> None:
        self._waiting = 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    async def _in_time(self, event: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._silence_seconds):
                await event.wait()
        except TimeoutError:
            raise ReplicaSilent(f"nothing for {self._silence_seconds:g} s") from None
