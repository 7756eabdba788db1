"""Connections with TLS that need no task: TLS in memory, over a socket that is watched together with others.

An event loop's own TLS needs a task until it is open, decodes the certificate, and makes several objects. A probe that
opens a connection spends a large part of its time on these.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import ssl
import time
from collections.abc import Callable
from typing import cast

from shared_registry.probing.plain_socket import NOBODY, Carrier

RESUMPTION_SECONDS = 300.0
"""For how long new connections resume a TLS session: within it another certificate of the replica goes unnoticed."""
READ_BYTES = 16 * 1024
"""The largest record of TLS."""


class TlsSession:
    """The TLS session of one replica.

    It is resumed for some time after the handshake in which the certificate was verified, and not after the certificate
    has expired.
    """

    __slots__ = ("_session", "_usable_until")

    def __init__(self) -> None:
        self._session: ssl.SSLSession | None = None
        self._usable_until = -math.inf

    def usable(self, now: float) -> ssl.SSLSession | None:
        """Return the session, if it may still be resumed."""
        return self._session if now < self._usable_until else None

    def learn(self, tls: ssl.SSLObject, now: float) -> None:
        """Keep the session of a connection that has received data, unless it has resumed this one.

        With OpenSSL 3.0 a copy of a session costs about as much as a handshake that resumes it. A replica that takes no
        session twice makes the next handshake a whole one, after which its session is kept.
        """
        if not tls.session_reused:
            self._session, self._usable_until = tls.session, now + min(RESUMPTION_SECONDS, _valid_seconds(tls))


class TlsSocket(asyncio.Protocol):
    """TLS between a protocol and its socket. It is the protocol of the socket, and the carrier of its protocol."""

    __slots__ = (
        "_carrier",
        "_failure",
        "_has_received",
        "_incoming",
        "_is_open",
        "_outgoing",
        "_protocol",
        "_session",
        "_tls",
        "_unsent",
    )

    def __init__(
        self,
        protocol: asyncio.Protocol,
        connect: Callable[[asyncio.Protocol], Carrier],
        context: ssl.SSLContext,
        server_name: str,
        *,
        resumed: ssl.SSLSession | None,
        session: TlsSession,
    ) -> None:
        """Begin to connect.

        Args:
            protocol: Is told of the connection; see `PlainSockets.connect`.
            connect: Connects a socket with this as its protocol. Raises what this raises.
            context: Says what is verified.
            server_name: The name that the certificate must have.
            resumed: A session to resume, if the same context made it.
            session: Learns the session of this connection as soon as data has been received.

        Raises:
            OSError: It has failed already.
        """
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _begin(context, self._incoming, self._outgoing, server_name, resumed)
        self._protocol = protocol
        self._session = session
        self._failure: Exception | None = None
        self._unsent = b""
        self._is_open = False
        self._has_received = False
        self._shake_hands()
        self._carrier = connect(self)
        self._flush()

    def is_closing(self) -> bool:
        """See `Carrier`."""
        return self._carrier.is_closing()

    def abort(self) -> None:
        """See `Carrier`."""
        self._carrier.abort()

    def write(self, data: bytes) -> None:
        """See `Carrier`."""
        self._unsent += data
        if not self._is_open or self._carrier.is_closing():
            return
        try:
            self._encrypt()
        except ssl.SSLError as error:
            asyncio.get_running_loop().call_soon(self._break, error)
        self._flush()

    # What the socket calls

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, or pass on what was received."""
        self._incoming.write(data)
        try:
            if self._is_open or self._shake_hands():
                self._receive()
        except ssl.SSLError as error:
            self._break(error)
        self._flush()

    def eof_received(self) -> bool:
        """Pass the end on, also if TLS was not ended before."""
        if self._is_open:
            self._protocol.eof_received()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Pass it on, with the reason."""
        protocol, self._protocol = self._protocol, NOBODY
        error = error or self._failure
        if error is None and not self._is_open:
            error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        protocol.connection_lost(error)

    # Inside

    def _shake_hands(self) -> bool:
        """Go on with the handshake. Return whether it is complete.

        Raises:
            ssl.SSLError: It has failed.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self._is_open = True
        self._protocol.connection_made(cast("asyncio.Transport", self))
        self._encrypt()
        return True

    def _receive(self) -> None:
        """Pass on what was received.

        Raises:
            ssl.SSLError: It is not valid.
        """
        # Where nothing has come, as after most handshakes, reading would cost more than a response does.
        while self._incoming.pending and not self._carrier.is_closing():
            try:
                data = self._tls.read(READ_BYTES)  # a whole record, so nothing of it is left
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self._protocol.eof_received()
                self.abort()
                return
            if not self._has_received:
                self._has_received = True
                self._session.learn(self._tls, time.monotonic())
            self._protocol.data_received(data)

    def _encrypt(self) -> None:
        if self._unsent:
            try:
                self._tls.write(self._unsent)  # all of it, since memory takes any amount
            except ssl.SSLWantReadError:
                return
            self._unsent = b""

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._carrier.write(self._outgoing.read())

    def _break(self, error: ssl.SSLError) -> None:
        """Tell the replica what is wrong, as far as TLS does, and close the connection."""
        self._failure = error
        self._flush()
        self.abort()


def _valid_seconds(tls: ssl.SSLObject) -> float:
    """Return how long the certificate of a connection is still valid; infinity if it was not verified."""
    expiry = (tls.getpeercert() or {}).get("notAfter")
    return ssl.cert_time_to_seconds(expiry) - time.time() if isinstance(expiry, str) else math.inf


def _begin(
    context: ssl.SSLContext,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
    server_name: str,
    session: ssl.SSLSession | None,
) -> ssl.SSLObject:
    """Return the TLS of one connection."""
    try:
        return context.wrap_bio(incoming, outgoing, server_hostname=server_name, session=session)
    except ValueError:  # another context, since replaced, has made the session
        if session is None:
            raise
        return context.wrap_bio(incoming, outgoing, server_hostname=server_name)
