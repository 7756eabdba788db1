"""A replica registry that several routers share over Redis.

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry

config = RouterConfig(replicas=[ReplicaEndpoint("http://127.0.0.1:8000", primary=True)])
async with SharedReplicaRegistry(config) as registry:
    await registry.wait_ready(timeout_seconds=10)
    replica = registry.select()

The names below are imported on use, so that `import shared_registry` costs next to nothing: the command's start, a
health check, or a part such as `shared_registry.errors` needs no Redis client.
"""

from importlib import import_module

from shared_registry._version import __version__

TYPE_CHECKING = False  # what type checkers take for true; `typing` would be a third of the time of `--version`
if TYPE_CHECKING:
    from shared_registry import happenings
    from shared_registry.admin.check import Violation
    from shared_registry.announcing.announcement import Announcement
    from shared_registry.config import RouterConfig
    from shared_registry.errors import (
        ConfigError,
        Fenced,
        KeyConflict,
        NoHealthyReplica,
        RegistryError,
        ReplicaClaimed,
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
    "Announcement",
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
    "ReplicaClaimed",
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

_HOMES = {
    "AdminState": "shared_registry.model",
    "Announcement": "shared_registry.announcing.announcement",
    "ConfigError": "shared_registry.errors",
    "Event": "shared_registry.model",
    "EventKind": "shared_registry.model",
    "Fenced": "shared_registry.errors",
    "Happening": "shared_registry.happenings",
    "HttpProbe": "shared_registry.probing",
    "KeyConflict": "shared_registry.errors",
    "Leader": "shared_registry.model",
    "Lease": "shared_registry.leases",
    "Listener": "shared_registry.happenings",
    "NoHealthyReplica": "shared_registry.errors",
    "RegistryError": "shared_registry.errors",
    "Replica": "shared_registry.model",
    "ReplicaClaimed": "shared_registry.errors",
    "ReplicaEndpoint": "shared_registry.model",
    "ReplicaHealth": "shared_registry.model",
    "ReplicaStatus": "shared_registry.model",
    "RouterConfig": "shared_registry.config",
    "Saturated": "shared_registry.errors",
    "Settling": "shared_registry.errors",
    "SharedReplicaRegistry": "shared_registry.registry.facade",
    "SlotMigrating": "shared_registry.errors",
    "StoreError": "shared_registry.errors",
    "StoreRefused": "shared_registry.errors",
    "StoreUnavailable": "shared_registry.errors",
    "UnknownReplica": "shared_registry.errors",
    "UsageError": "shared_registry.errors",
    "Violation": "shared_registry.admin.check",
}
"""The module of each name. It repeats the imports above, which only type checkers read."""


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name == "happenings":
        return import_module("shared_registry.happenings")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names too, although they may not have been imported yet."""
    return sorted({*globals(), *__all__})
