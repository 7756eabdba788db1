"""Converts errors of redis-py to the registry's errors."""

from __future__ import annotations

import re

from redis import exceptions

from shared_registry.errors import KeyConflict, StoreError, StoreRefused, StoreUnavailable
from shared_registry.store.failover import is_read_only

FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
_REFUSALS = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_REFUSED_REPLY = re.compile(
    "WRONGPASS|NOAUTH|NOPERM|unauthenticated|unknown command|ACL failure|user executing the script can't", re.IGNORECASE
)
# Temporary errors. The word is at the start of a reply; before Redis 7 it is inside the text of an error in a script.
_PASSING_REPLY = re.compile(
    r"(?:^|: -)(?:BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNBLOCKED)\b"
)


def meaning_of(error: Exception) -> StoreError:
    """Return the registry's error for an error of redis-py."""
    text = str(error) or type(error).__name__
    # A cluster client wraps the errors of its nodes.
    if isinstance(error, _REFUSALS) or isinstance(error.__cause__, _REFUSALS) or _REFUSED_REPLY.search(text):
        return StoreRefused(f"Redis refused: {text}; check the user and password in redis_url, and the user's rights")
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
    if is_read_only(error):
        return StoreUnavailable(f"Redis is unavailable: the server is a replica, not the primary: {text}")
    if isinstance(error, passing) or _PASSING_REPLY.search(text):
        return StoreUnavailable(f"Redis is unavailable: {text}")
    if text.startswith("WRONGTYPE"):
        return KeyConflict(
            f"a key of this namespace is not of the registry's type: {text}; run `shared-registry check`"
        )
    return StoreError(f"Redis answered with an error: {text}")


def was_refused(error: StoreError) -> bool:
    """Return whether the server itself replied with an error. Then nothing was done, and other calls get the same."""
    return isinstance(error.__cause__, exceptions.ResponseError)
