"""TLS to clients: its certificate, and the authorities whose clients may connect. Both are followed while in use."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from time import time as now
from typing import Any, cast

from shared_registry.aio.from_files import FromFiles
from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.probing.connection import reason_of

SHUTDOWN_SECONDS = 2.0
"""How long a client may take to answer the end of its TLS connection, before the connection is closed."""
_CERTIFICATE, _KEY = "tls_certificate_file", "tls_key_file"


class ClientTls(FromFiles[ssl.SSLContext]):
    """The TLS of one listener. Connections that are open keep the files with which they were opened."""

    def __init__(
        self,
        config: RouterConfig,
        *,
        authorities: str = "tls_client_ca_file",
        verify: ssl.VerifyMode = ssl.CERT_REQUIRED,
    ) -> None:
        """Read the files. Blocks for some milliseconds.

        Args:
            config: The router's settings.
            authorities: The name of the setting with the authorities of clients' certificates.
            verify: Whether clients need a certificate if there are authorities.

        Raises:
            ConfigError: A file cannot be used; the message names its setting.
        """
        files = [file for file in (getattr(config, name) for name in (_CERTIFICATE, _KEY, authorities)) if file]
        super().__init__(files, lambda: server_context(config, authorities, verify), what="TLS files for clients")
        self._handshake_seconds = config.header_timeout_seconds

    @classmethod
    def of(cls, config: RouterConfig) -> ClientTls | None:
        """Return the TLS that the settings describe; `None` if clients connect without TLS.

        Raises:
            ConfigError: A file cannot be used.
        """
        return cls(config) if config.tls_certificate_file else None

    def options(self) -> dict[str, Any]:
        """Return the arguments by which the event loop accepts a connection with TLS."""
        return {
            "ssl": self.value,
            "ssl_handshake_timeout": self._handshake_seconds,
            "ssl_shutdown_timeout": SHUTDOWN_SECONDS,
        }


class ResumedTls(ssl.SSLObject):
    """One connection. OpenSSL does not verify a client's certificate again if it resumes an earlier TLS session."""

    def do_handshake(self) -> None:
        """Go on with the handshake.

        Raises:
            SSLError: It failed, or the client resumes a session after its certificate has expired.
        """
        super().do_handshake()
        if self.session_reused and has_expired(self.getpeercert()):
            raise ssl.SSLCertVerificationError("the client's certificate has expired")


def has_expired(certificate: Mapping[str, Any] | None) -> bool:
    """Return whether a certificate is not valid any more. No certificate has not expired."""
    expiry = (certificate or {}).get("notAfter")
    return expiry is not None and ssl.cert_time_to_seconds(expiry) < now()


def server_context(
    config: RouterConfig,
    authorities: str = "tls_client_ca_file",
    verify: ssl.VerifyMode = ssl.CERT_REQUIRED,
) -> ssl.SSLContext:
    """Return the context for clients as the `tls_*` settings describe it. Blocks for some milliseconds.

    Raises:
        ConfigError: A file cannot be used; the message names its setting.
    """
    certificate, key = cast("str", config.tls_certificate_file), cast("str", config.tls_key_file)
    trusted = cast("str | None", getattr(config, authorities))
    for name, file in ((_CERTIFICATE, certificate), (_KEY, key), (authorities, trusted)):
        if file:
            _require_readable(name, file)  # the errors of the ssl module do not say which file it is
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without the password argument, OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, lambda: "")
    except (OSError, ValueError) as error:
        remedy = "give a PEM file with the certificate and its chain, and one with its key, without a password"
        text = f"{certificate} with {key} cannot be used ({reason_of(error)}); {remedy}"
        raise ConfigError(f"{_CERTIFICATE}: {text}") from None
    if trusted:
        try:
            context.load_verify_locations(trusted)
        except (OSError, ValueError) as error:
            text = f"{trusted} cannot be used ({reason_of(error)}); give a PEM file of authorities"
            raise ConfigError(f"{authorities}: {text}") from None
        context.verify_mode = verify
        context.sslobject_class = ResumedTls
    return context


def _require_readable(name: str, file: str) -> None:
    try:
        with Path(file).open("rb") as opened:
            opened.read(1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{name}: cannot read {file} ({reason}); check the path and its permissions") from None
