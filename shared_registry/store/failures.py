"""Converts errors of redis-py to the registry's errors."""

from __future__ import annotations

import re

from redis import exceptions

from shared_registry.errors import KeyConflict, SlotMigrating, StoreError, StoreRefused, StoreUnavailable
from shared_registry.store.failover import is_read_only
from shared_registry.store.multiplexer import Closed, NotSent

FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
_REFUSALS = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_REFUSED_REPLY = re.compile(
    "WRONGPASS|NOAUTH|NOPERM|unauthenticated|unknown command|ACL failure|user executing the script can't", re.IGNORECASE
)
# Temporary errors. The word is at the start of a reply; before Redis 7 it is inside the text of an error in a script.
_PASSING_REPLY = re.compile(
    r"(?:^|: -)(?:BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNBLOCKED)\b"
)


_NOT_SENT = re.compile(
    "connecting to |no TLS connection to |no sentinel names |no node of the cluster says |"
    "the server closed a new connection|max number of clients|no connection could be made"
)
"""Errors of a connection that was not made: those of redis-py, of this package, and of a server that takes no more."""
_REFUSED_CONNECTIONS = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.BusyLoadingError,
    exceptions.MaxConnectionsError,
)
_OF_CONNECTIONS = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
_TLS_REMEDIES = (
    ("certificate has expired", "renew the server's certificate, or check this machine's clock"),
    ("not valid for|mismatch, certificate", "use a name that the certificate has, or ssl_check_hostname=false"),
    ("CERTIFICATE_VERIFY_FAILED", "name the file of the authority that signed the certificate by ssl_ca_certs"),
    ("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE", "the server does not speak TLS at this port; write redis://"),
    ("ALERT_CERTIFICATE_REQUIRED|ALERT_HANDSHAKE_FAILURE", "name a client certificate by ssl_certfile and ssl_keyfile"),
    ("ALERT_UNKNOWN_CA|ALERT_BAD_CERTIFICATE|ALERT_CERTIFICATE_", "the server does not accept the client certificate"),
)
"""What to do about an error of TLS, by a pattern of its text. The first one that matches holds."""


def _tls_remedy(text: str) -> str:
    for pattern, remedy in _TLS_REMEDIES if "SSL" in text else ():
        if re.search(pattern, text):
            return f"; {remedy}"
    return ""


def meaning_of(error: Exception) -> StoreError:
    """Return the registry's error for an error of redis-py."""
    text = str(error) or type(error).__name__
    # A cluster client wraps the errors of its nodes.
    if isinstance(error, _REFUSALS) or isinstance(error.__cause__, _REFUSALS) or _REFUSED_REPLY.search(text):
        return StoreRefused(
            f"Redis refused: {text}; check the user and password in redis_url, and the user's rights "
            "(`shared-registry acl`)"
        )
    passing = (
        exceptions.ConnectionError,
        exceptions.TimeoutError,
        exceptions.ReadOnlyError,
        exceptions.ClusterError,
        exceptions.RedisClusterException,
        exceptions.TryAgainError,
        exceptions.OutOfMemoryError,
        OSError,
    )
    if isinstance(error, exceptions.AskError) or "non local key" in text:
        return SlotMigrating(
            "Redis is unavailable: the hash slot of this namespace is being migrated to another node of the cluster; "
            "until all of its keys have moved, no node can serve it"
        )
    if is_read_only(error):
        return StoreUnavailable(f"Redis is unavailable: the server is a replica, not the primary: {text}")
    if isinstance(error, passing) or _PASSING_REPLY.search(text):
        return StoreUnavailable(f"Redis is unavailable: {text}{_tls_remedy(text)}")
    if text.startswith("WRONGTYPE"):
        return KeyConflict(
            f"a key of this namespace is not of the registry's type: {text}; run `shared-registry check`"
        )
    return StoreError(f"Redis answered with an error: {text}")


def was_refused(error: StoreError) -> bool:
    """Return whether the server itself replied with an error. Then nothing was done, and other calls get the same."""
    return isinstance(error.__cause__, exceptions.ResponseError)


def was_not_sent(error: StoreError) -> bool:
    """Return whether the server certainly did not receive the call, because no connection to it could be made.

    False if that cannot be determined: a server that hangs executes what was sent to it when it goes on.
    """
    cause = error.__cause__
    if isinstance(cause, NotSent) or any(
        isinstance(one, _REFUSED_CONNECTIONS) for one in (cause, getattr(cause, "__cause__", None))
    ):
        return True
    return isinstance(cause, _OF_CONNECTIONS) and bool(_NOT_SENT.search(str(cause)))


def was_cut_off(error: StoreError) -> bool:
    """Return whether a connection broke with the call on it. The call may have been executed or not."""
    cause = error.__cause__
    is_broken = isinstance(cause, exceptions.ConnectionError | OSError) and not isinstance(cause, Closed)
    return is_broken and not was_not_sent(error)
