"""The error tree.

    RegistryError
    ├── ConfigError (also ValueError)      a setting, a url or a file is wrong; names the field and the remedy
    ├── UsageError                         the call does not fit the registry's state, such as a verb before start
    ├── MissingExtra (also ImportError)    an optional part of the package is not installed; names the remedy
    ├── UnknownReplica (also LookupError)  the replica is not in the shared registry
    ├── ReplicaClaimed                     the replica came another way, by which alone it is changed; names that way
    ├── NoHealthyReplica                   no replica that may take sessions is healthy; try again later
    ├── Saturated                          every healthy, active replica is at capacity; try again later
    └── StoreError                         Redis could not execute the operation
        ├── StoreUnavailable               Redis did not answer in time; try again later
        │   └── SlotMigrating              a cluster moves the namespace to another node; try again later
        ├── StoreRefused                   wrong password, missing rights, unsupported version or schema
        ├── KeyConflict                    a key of this namespace has a type or value that the registry never writes
        └── Fenced                         a write under an epoch that is over; nothing was written

Messages never contain secrets: urls are shown without their password.
"""

from __future__ import annotations


class RegistryError(Exception):
    """The base class of all errors that this package raises on purpose."""


class ConfigError(RegistryError, ValueError):
    """A setting is wrong. The message names the field, the value and the remedy."""


class UsageError(RegistryError):
    """The call does not fit the state of the registry, such as a verb before `start()`."""


class MissingExtra(RegistryError, ImportError):
    """An optional part of the package needs a dependency that is not installed. The message says how to install it."""


class UnknownReplica(RegistryError, LookupError):
    """The named replica is not registered, or was removed."""


class ReplicaClaimed(RegistryError):
    """The replica came another way, such as an announcement, and is changed by that way only. Nothing was written."""


class NoHealthyReplica(RegistryError):
    """No replica is healthy and active, except perhaps replicas that the caller excluded. Try again later."""


class Saturated(RegistryError):
    """Every healthy, active replica has as many sessions as its capacity allows. Try again later.

    Also raised if a router is too busy to send the call to Redis within the caller's timeout. The message names the
    cause.

    Attributes:
        depth: How many sessions were waiting for a slot at that time, over all routers.
        retry_after_seconds: The estimated time until these sessions, and one more, have slots. The estimate uses the
            speed at which this router saw the queue move lately; `None` if it saw no movement.
    """

    def __init__(self, message: str, *, depth: int = 0, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.depth = depth
        self.retry_after_seconds = retry_after_seconds


class StoreError(RegistryError):
    """Redis could not execute the operation."""


class StoreUnavailable(StoreError):
    """Redis did not answer in time. The operation may or may not have happened. Trying again later is safe."""


class SlotMigrating(StoreUnavailable):
    """A Redis Cluster moves the hash slot of this namespace to another node. Nothing was written.

    Redis knows all sessions meanwhile, so none is placed without it.
    """


class Settling(StoreUnavailable):
    """Redis lost data, and the sessions that run are being put back. No new session gets a slot meanwhile.

    That takes a moment, and at most one `router_expiry_seconds`. A session that may wait goes on waiting.
    """


class StoreRefused(StoreError):
    """Redis refused: wrong password, missing rights, an unsupported version or schema."""


class KeyConflict(StoreError):
    """A key of this namespace has a type or a value that the registry never writes. Nothing was written."""


class Fenced(StoreError):
    """The write carried an epoch or token that is no longer the leader's. Nothing was written."""
