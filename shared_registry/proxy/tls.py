"""The TLS context for replicas with https urls. Like probes, it uses the system's certificate authorities."""

from __future__ import annotations

import asyncio
import ssl

from shared_registry.probing.own_trouble import own_trouble
from shared_registry.probing.tls import default_context, tls_trouble


class TlsSettings:
    """The router's TLS context, created when it is first needed."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        """Use the given context, or create one when it is first needed."""
        self._context = context
        self._lock = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        """Return the context.

        Reading the certificate authorities takes tens of milliseconds. It is done once, in a thread.

        Raises:
            OwnTrouble: The certificate authorities cannot be read.
        """
        async with self._lock:
            if self._context is None:
                try:
                    self._context = await asyncio.to_thread(default_context)
                except Exception as error:
                    raise own_trouble(error) or tls_trouble(error) from error
            return self._context
