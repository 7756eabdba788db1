"""The error tree.

    RegistryError
    ├── ConfigError (also ValueError)      a setting, a url or a file is wrong; names the field and the remedy
    ├── UsageError                         the call does not fit the registry's state, such as a verb before start
    ├── MissingExtra (also ImportError)    an optional part of the package was not installed; names the remedy
    ├── UnknownReplica (also LookupError)  no such replica in the shared registry
    ├── NoHealthyReplica                   no replica that may take sessions is healthy; worth trying again later
    ├── Saturated                          all that are have as many sessions as they may take; likewise
    └── StoreError                         Redis could not do it
        ├── StoreUnavailable               no answer in time; worth trying again later
        ├── StoreRefused                   wrong password, missing rights, unsupported version or schema
        ├── KeyConflict                    a key of this namespace holds something that is not ours
        └── Fenced                         a write under an epoch that is over; nothing was written

Messages never contain secrets: urls are shown without their password.
"""

from __future__ import annotations


class RegistryError(Exception):
    """The root of everything that this package raises on purpose."""


class ConfigError(RegistryError, ValueError):
    """A setting is wrong. The message names the field, the value and the remedy."""


class UsageError(RegistryError):
    """A call that does not fit the state of the registry, such as a verb before `start()`."""


class MissingExtra(RegistryError, ImportError):
    """An optional part of the package needs something that is not installed. The message says how to install it."""


class UnknownReplica(RegistryError, LookupError):
    """The named replica is not registered, or was removed."""


class NoHealthyReplica(RegistryError):
    """No replica is healthy and active, but perhaps those that the caller excluded. Worth trying again later."""


class Saturated(RegistryError):
    """Every healthy, active replica has as many sessions as its capacity allows. Worth trying again later.

    Also raised where a router is too busy to ask Redis within the caller's timeout; the message says which it is.

    Attributes:
        depth: How many sessions waited for a slot then, over all routers.
        retry_after_seconds: How long the line takes to pass at the speed at which this router saw it move lately;
            `None` where it saw nothing move.
    """

    def __init__(self, message: str, *, depth: int = 0, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.depth = depth
        self.retry_after_seconds = retry_after_seconds


class StoreError(RegistryError):
    """Redis could not do what was asked."""


class StoreUnavailable(StoreError):
    """Redis did not answer in time. The operation may or may not have happened; trying again later is safe."""


class StoreRefused(StoreError):
    """Redis answered that it will not: wrong password, missing rights, an unsupported version or schema."""


class KeyConflict(StoreError):
    """A key of this namespace holds another type than the registry writes. Nothing was written."""


class Fenced(StoreError):
    """The write carried an epoch or token that is no longer the leader's. Nothing was written."""
