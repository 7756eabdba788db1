"""The TLS context for https replicas, for probes and for sessions. It trusts the system's certificate authorities."""

from __future__ import annotations

import ssl

from shared_registry.probing.connection import reason_of
from shared_registry.probing.own_trouble import OwnTrouble, own_trouble


def default_context() -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, or those that SSL_CERT_FILE and SSL_CERT_DIR name.

    This takes tens of milliseconds.

    Raises:
        OSError: The file of authorities cannot be read. The ssl module ignores this silently. A context without any
            authority would then be kept, and the verification of every replica would fail.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile and not context.cert_store_stats()["x509_ca"]:
        try:
            context.load_verify_locations(paths.cafile)
        except OSError as error:
            if not paths.capath or own_trouble(error) is not None:  # otherwise the directory may be enough
                raise
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_trouble(error: Exception) -> OwnTrouble:
    """Return the trouble for an error of `default_context`. Its cause is in this router's files, not in a replica."""
    return OwnTrouble(f"TLS settings of this router: {reason_of(error)}", "check SSL_CERT_FILE and SSL_CERT_DIR")
