"""How replicas with https urls are verified: by the system's certificate authorities, as probes do it."""

from __future__ import annotations

import asyncio
import ssl


class TlsSettings:
    """The one TLS context of a router, made when it is first needed."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        """Set up, perhaps with a context of the caller's own."""
        self._context = context
        self._lock = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        """Return it. Reading the authorities takes tens of milliseconds: once, and not on the event loop."""
        async with self._lock:
            if self._context is None:
                self._context = await asyncio.to_thread(_default_context)
            return self._context


def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
