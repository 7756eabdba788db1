"""TLS of the admin address, by which a client's certificate can replace a token."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

from shared_registry.config import RouterConfig
from shared_registry.proxy.client_tls import ClientTls

NAMELESS = "a certificate"
LONGEST_NAME = 200


class AdminTls(ClientTls):
    """The certificates of one admin address, which follow their files.

    Attributes:
        context: What the server uses. Each connection takes the files that are in use then.
    """

    def __init__(self, config: RouterConfig) -> None:
        """Read the files. Blocks for some milliseconds.

        Raises:
            ConfigError: A file cannot be used.
        """
        optional = ssl.CERT_OPTIONAL  # health checks have none, and tokens do without
        super().__init__(config, authorities="admin_client_ca_file", verify=optional)
        self.context = _LatestContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.latest = lambda: self.value


class _LatestContext(ssl.SSLContext):
    """Begins each connection with the latest context, so that no TLS session outlives its authorities' files."""

    latest: Callable[[], ssl.SSLContext]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002  as in the class above
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self.latest().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def name_in_certificate(certificate: Mapping[str, Any] | None) -> str | None:
    """Return the common name in a client's certificate that was verified; `None` if the client has none."""
    if not certificate:
        return None
    fields = [field for part in certificate.get("subject", ()) for field in part]
    name = next((str(value) for key, value in fields if key == "commonName"), "")
    return name if name.isprintable() and 0 < len(name) <= LONGEST_NAME else NAMELESS
