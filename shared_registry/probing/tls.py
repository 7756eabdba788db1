"""How https replicas are verified: by the system's certificate authorities, for probes and sessions alike."""

from __future__ import annotations

import ssl

from shared_registry.probing.connection import reason_of
from shared_registry.probing.own_trouble import OwnTrouble, own_trouble


def default_context() -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, or those that SSL_CERT_FILE and SSL_CERT_DIR name.

    Takes tens of milliseconds.

    Raises:
        OSError: The file of authorities cannot be read. The ssl module passes over that silently; a context without any
            authority would then be kept, and no replica verified any more.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile and not context.cert_store_stats()["x509_ca"]:
        try:
            context.load_verify_locations(paths.cafile)
        except OSError as error:
            if not paths.capath or own_trouble(error) is not None:  # else the directory may do
                raise
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_trouble(error: Exception) -> OwnTrouble:
    """Return what an error of `default_context` means: it is about this router's files, never about a replica."""
    return OwnTrouble(f"TLS settings of this router: {reason_of(error)}", "check SSL_CERT_FILE and SSL_CERT_DIR")
