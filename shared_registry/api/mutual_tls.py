"""TLS of the admin address, by which a client's certificate can replace a token."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from shared_registry.config import RouterConfig
from shared_registry.proxy.client_tls import ClientTls

NAMELESS = "a certificate"
LONGEST_NAME = 200


class AdminTls(ClientTls):
    """The certificates of one admin address, which follow their files.

    Attributes:
        context: What the server uses. Each handshake takes the files that are in use then.
    """

    def __init__(self, config: RouterConfig) -> None:
        """Read the files. Blocks for some milliseconds.

        Raises:
            ConfigError: A file cannot be used.
        """
        super().__init__(config, authorities="admin_client_ca_file")
        self.context = self.value
        self.context.verify_mode = ssl.CERT_OPTIONAL  # health checks have none, and tokens do without
        self.context.sni_callback = self._use_latest

    def _use_latest(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if self.value is not self.context:
            connection.context = self.value


def name_in_certificate(certificate: Mapping[str, Any] | None) -> str | None:
    """Return the common name in a client's certificate that was verified; `None` if the client has none."""
    if not certificate:
        return None
    fields = [field for part in certificate.get("subject", ()) for field in part]
    name = next((str(value) for key, value in fields if key == "commonName"), "")
    return name if name.isprintable() and 0 < len(name) <= LONGEST_NAME else NAMELESS
