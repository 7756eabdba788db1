"""A replica registry that several routers share over Redis.

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry

config = RouterConfig(replicas=[ReplicaEndpoint("http://10.0.0.1:8000", primary=True)])
async with SharedReplicaRegistry(config) as registry:
    replica = registry.select()
"""

from shared_registry._version import __version__
from shared_registry.check import Violation
from shared_registry.config import RouterConfig
from shared_registry.errors import (
    ConfigError,
    Fenced,
    KeyConflict,
    RegistryError,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UnknownReplica,
    UsageError,
)
from shared_registry.model import (
    AdminState,
    Event,
    EventKind,
    Leader,
    Replica,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaStatus,
)
from shared_registry.probe import HttpProbe
from shared_registry.registry import SharedReplicaRegistry

__all__ = [
    "AdminState",
    "ConfigError",
    "Event",
    "EventKind",
    "Fenced",
    "HttpProbe",
    "KeyConflict",
    "Leader",
    "RegistryError",
    "Replica",
    "ReplicaEndpoint",
    "ReplicaHealth",
    "ReplicaStatus",
    "RouterConfig",
    "SharedReplicaRegistry",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "UnknownReplica",
    "UsageError",
    "Violation",
    "__version__",
]
