"""How replicas with https urls are verified: by the system's certificate authorities, as probes do it."""

from __future__ import annotations

import asyncio
import ssl

from shared_registry.probing.own_trouble import own_trouble
from shared_registry.probing.tls import default_context, tls_trouble


class TlsSettings:
    """The one TLS context of a router, made when it is first needed."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        """Set up, perhaps with a context of the caller's own."""
        self._context = context
        self._lock = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        """Return it. Reading the authorities takes tens of milliseconds: once, and not on the event loop.

        Raises:
            OwnTrouble: They cannot be read.
        """
        async with self._lock:
            if self._context is None:
                try:
                    self._context = await asyncio.to_thread(default_context)
                except Exception as error:
                    raise own_trouble(error) or tls_trouble(error) from error
            return self._context
