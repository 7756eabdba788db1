"""A connection that is kept open between probes. Its exchanges need no task: the end of each calls a function.

It may be opened by its first exchange, if that is without TLS, or taken over after it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import cast

from shared_registry.http1.connection import ReplicaClosed
from shared_registry.http1.response import ReplicaBroke, ResponseReader
from shared_registry.probing.budget import KeptBudget
from shared_registry.probing.connection import (
    BodyTooLong,
    ProbeFailure,
    Received,
    Response,
    WholeRequest,
    connect_failure,
    exchange_failure,
)
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.plain_response import read_plain
from shared_registry.probing.plain_socket import Carrier

KNOWN_RESPONSES = 16
"""How many responses are remembered: within a second, replicas of one kind send equal ones."""
ExchangeEnded = Callable[[Response | ProbeFailure | OwnTrouble], None]
"""Receives the response, or why there is none."""


class KeptConnection(asyncio.Protocol):
    """Carries one exchange at a time.

    Attributes:
        address: The IP address that it leads to.
        has_connected: Whether it has been established. It can carry its first exchange before.
        has_received: Whether any byte was received in the present exchange, or in the last one.
        exchanges: How many exchanges it has carried.
        is_usable: Whether it may carry another exchange, as far as was seen when the last one ended.
    """

    __slots__ = (
        "_budget",
        "_carrier",
        "_ended",
        "_port",
        "_reader",
        "_received",
        "_request",
        "address",
        "exchanges",
        "has_connected",
        "has_received",
        "is_usable",
    )

    def __init__(
        self, take_over: Callable[[asyncio.Protocol], Carrier], address: str, port: int, *, exchanges: int = 0
    ) -> None:
        """Set up.

        Args:
            take_over: Makes this the protocol of a connection, and returns it. Raises what `connect` raises.
            address: The IP address that it leads to.
            port: The port.
            exchanges: How many exchanges it has carried. Without any, it may still be connecting.
        """
        self._budget: KeptBudget | None = None
        self.address = address
        self._port = port
        self.exchanges = exchanges
        self.has_connected = exchanges > 0
        self.has_received = False
        self._ended: ExchangeEnded | None = None
        self._request: WholeRequest
        self._reader: ResponseReader | None = None
        self._received: Received
        self.is_usable = True
        self._carrier = take_over(self)

    def count_in(self, budget: KeptBudget) -> None:
        """Count in the budget until the connection has ended."""
        self._budget = budget
        budget.kept += 1

    @property
    def is_idle(self) -> bool:
        """Whether it can carry another exchange, as far as this side knows."""
        return self.is_usable and self._ended is None and not self._carrier.is_closing()

    def begin(self, request: WholeRequest, ended: ExchangeEnded) -> None:
        """Send a request. The connection must be idle.

        Args:
            request: The request.
            ended: Called once, later, unless `abort` is called before.
        """
        self.exchanges += 1
        self.has_received = False
        self._request, self._ended = request, ended
        self._carrier.write(request.data)

    async def exchange(self, request: WholeRequest) -> Response:
        """Send a request and return its response; see `exchange` of `probing.connection`."""
        answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def ended(found: Response | ProbeFailure | OwnTrouble) -> None:
            if answered.done():
                return
            if isinstance(found, Response):
                answered.set_result(found)
            else:
                answered.set_exception(found)

        self.begin(request, ended)
        try:
            return await answered
        finally:
            if self._ended is not None:
                self.abort()

    def abort(self) -> None:
        """Close the connection at once. An exchange under way is given up without a word."""
        self.is_usable, self._ended = False, None
        self._carrier.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport. Some event loops call this when the protocol is changed."""
        self._carrier = cast("asyncio.Transport", transport)
        self.has_connected = True

    def data_received(self, data: bytes) -> None:
        """Read the response, or a piece of it."""
        ended = self._ended
        if ended is None:
            self.abort()  # nothing was requested
            return
        if not self.has_received:
            self.has_received = True
            plain = _plain_response(data) if self._request.method != "HEAD" else None
            if plain is not None:
                self._ended = None
                ended(plain)
                return
            self._received, self._reader = Received(), ResponseReader()
            self._reader.begin(self._received, is_head_request=self._request.method == "HEAD", is_upgrade=False)
        self._feed(data)

    def eof_received(self) -> bool:
        """End a body whose end is the end of the connection."""
        if self._reader is not None and self._ended is not None and self._reader.end_with_connection():
            self.is_usable = False
            self._end(self._received.response())
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End the exchange under way, if there is one."""
        if self._budget is not None:
            self._budget.kept -= 1
        self.is_usable = False
        if self._ended is None:
            return
        if error is not None and not self.has_connected:
            self._end(connect_failure(error, self.address, self._port))
            return
        lost = ReplicaClosed(str(error) if error else "it closed the connection")
        lost.__cause__ = error
        self._fail(lost)

    # Inside

    def _feed(self, data: bytes) -> None:
        reader = cast("ResponseReader", self._reader)
        try:
            reader.feed(data)
        except BodyTooLong:
            self.is_usable = False
            self._end(self._received.response())
            self._carrier.abort()
        except ReplicaBroke as error:
            self._fail(error)
            self._carrier.abort()
        else:
            if reader.is_complete:
                self.is_usable = self.is_usable and reader.may_carry_more
                self._end(self._received.response())

    def _fail(self, error: ReplicaBroke) -> None:
        self.is_usable = False
        received = self._received if self._reader is not None else Received()
        self._end(exchange_failure(error, received, has_received=self.has_received))

    def _end(self, found: Response | ProbeFailure | OwnTrouble) -> None:
        ended, self._ended, self._reader = self._ended, None, None
        if ended is not None:
            ended(found)


@functools.lru_cache(KNOWN_RESPONSES)
def _plain_response(data: bytes) -> Response | None:
    plain = read_plain(data)
    return None if plain is None else Response(*plain)
