"""Opens connections that need no task: without TLS, and with it."""

from __future__ import annotations

import functools
import time

from shared_registry.probing.kept import KeptConnection
from shared_registry.probing.plain_socket import PlainSockets, has_plain_sockets
from shared_registry.probing.tls import TlsContexts
from shared_registry.probing.tls_socket import TlsSession, TlsSocket

READY_AT_ONCE, HANDSHAKES_AT_ONCE = 256, 8
"""How many connections are served before others have their turn: without TLS, and with it."""


class Dialer:
    """The connections without a task of one prober. For one event loop; not thread-safe.

    Attributes:
        is_able: Whether there can be any on this system.
    """

    def __init__(self, tls: TlsContexts) -> None:
        """Set up.

        Args:
            tls: Has the context for connections with TLS.
        """
        self.is_able = has_plain_sockets()
        self._tls = tls
        self._plain, self._secure = PlainSockets(READY_AT_ONCE), PlainSockets(HANDSHAKES_AT_ONCE)

    def dial(self, address: str, port: int) -> KeptConnection:
        """Begin a connection without TLS.

        Args:
            address: An IP address.
            port: The port.

        Raises:
            OSError: It has failed already.
        """
        return KeptConnection(functools.partial(self._plain.connect, address, port), address, port)

    def dial_tls(
        self, address: str, port: int, server_name: str, session: TlsSession, *, fresh: bool
    ) -> KeptConnection | None:
        """Begin a connection with TLS. Return `None` if the context has to be waited for.

        Args:
            address: An IP address.
            port: The port.
            server_name: The name that the certificate must have.
            session: The replica's session.
            fresh: Whether to verify the certificate, and not to resume the session.

        Raises:
            OSError: It has failed already.
        """
        context = self._tls.ready()
        if context is None:
            return None
        return KeptConnection(
            functools.partial(
                TlsSocket,
                connect=functools.partial(self._secure.connect, address, port),
                context=context,
                server_name=server_name,
                resumed=None if fresh else session.usable(time.monotonic()),
                session=session,
            ),
            address,
            port,
        )

    def close(self) -> None:
        """Close every connection."""
        self._plain.close()
        self._secure.close()
