"""A replica registry that several routers share over Redis.

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry

config = RouterConfig(replicas=[ReplicaEndpoint("http://127.0.0.1:8000", primary=True)])
async with SharedReplicaRegistry(config) as registry:
    await registry.wait_ready(timeout_seconds=10)
    replica = registry.select()
"""

from shared_registry import happenings
from shared_registry._version import __version__
from shared_registry.admin.check import Violation
from shared_registry.config import RouterConfig
from shared_registry.errors import (
    ConfigError,
    Fenced,
    KeyConflict,
    NoHealthyReplica,
    RegistryError,
    Saturated,
    Settling,
    SlotMigrating,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UnknownReplica,
    UsageError,
)
from shared_registry.happenings import Happening, Listener
from shared_registry.leases import Lease
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
from shared_registry.probing import HttpProbe
from shared_registry.registry.facade import SharedReplicaRegistry

__all__ = [
    "AdminState",
    "ConfigError",
    "Event",
    "EventKind",
    "Fenced",
    "Happening",
    "HttpProbe",
    "KeyConflict",
    "Leader",
    "Lease",
    "Listener",
    "NoHealthyReplica",
    "RegistryError",
    "Replica",
    "ReplicaEndpoint",
    "ReplicaHealth",
    "ReplicaStatus",
    "RouterConfig",
    "Saturated",
    "Settling",
    "SharedReplicaRegistry",
    "SlotMigrating",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "UnknownReplica",
    "UsageError",
    "Violation",
    "__version__",
    "happenings",
]
