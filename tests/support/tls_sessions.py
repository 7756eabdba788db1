"""Clients that resume their TLS sessions, for which OpenSSL does not verify certificates again."""

from __future__ import annotations

import contextlib
import socket
import ssl


class ResumingClient:
    """A client that keeps the TLS session of its first request for later ones. Its calls block."""

    def __init__(self, context: ssl.SSLContext, address: tuple[str, int]) -> None:
        self._context = context
        self._address = address
        self._session: ssl.SSLSession | None = None

    def request(self, data: bytes, seconds: float) -> tuple[bool, bytes]:
        """Send a request. Return whether the session was resumed, and the answer; it is empty if the router refused."""
        is_resumed, answer = False, b""
        with socket.create_connection(self._address, seconds) as plain, contextlib.suppress(OSError):
            host = self._address[0]
            with self._context.wrap_socket(plain, server_hostname=host, session=self._session) as tls:
                is_resumed = bool(tls.session_reused)
                tls.sendall(data)
                while piece := tls.recv(65_536):
                    answer += piece
                self._session = self._session or tls.session
        return is_resumed, answer
