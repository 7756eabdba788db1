"""The data model: endpoints, health, records of replicas, live handles on them, and events. Pure data, no I/O.

Times are float seconds since the Unix epoch on the Redis server's clock. `None` means that it never happened.
"""

from shared_registry.model.events import Event, EventKind
from shared_registry.model.label_selector import EVERY_REPLICA, LabelSelector
from shared_registry.model.labels import NO_LABELS, Labels
from shared_registry.model.plan import Plan, Share, planned_prober, prober_of
from shared_registry.model.probes import (
    NO_EJECTION,
    SEVERAL_CLIENTS,
    ConnectedSessions,
    EjectionLimits,
    Evidence,
    Opinion,
    OpinionKind,
    ProbeResult,
    ProberInfo,
    Question,
    Thresholds,
)
from shared_registry.model.replicas import (
    LEAST_RAMP_SHARE,
    NO_DOUBT,
    AdminState,
    Doubt,
    Removal,
    Replica,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
    Source,
    is_discovered,
    make_endpoint,
    make_health,
    make_record,
    read_source,
)
from shared_registry.model.revisions import ORIGIN, is_later
from shared_registry.model.routers import Leader, RouterInfo, RouterRecord, Term
from shared_registry.model.status_changes import StatusChange

__all__ = [
    "EVERY_REPLICA",
    "LEAST_RAMP_SHARE",
    "NO_DOUBT",
    "NO_EJECTION",
    "NO_LABELS",
    "ORIGIN",
    "SEVERAL_CLIENTS",
    "AdminState",
    "ConnectedSessions",
    "Doubt",
    "EjectionLimits",
    "Event",
    "EventKind",
    "Evidence",
    "LabelSelector",
    "Labels",
    "Leader",
    "Opinion",
    "OpinionKind",
    "Plan",
    "ProbeResult",
    "ProberInfo",
    "Question",
    "Removal",
    "Replica",
    "ReplicaEndpoint",
    "ReplicaHealth",
    "ReplicaRecord",
    "ReplicaStatus",
    "RouterInfo",
    "RouterRecord",
    "Share",
    "Source",
    "StatusChange",
    "Term",
    "Thresholds",
    "is_discovered",
    "is_later",
    "make_endpoint",
    "make_health",
    "make_record",
    "planned_prober",
    "prober_of",
    "read_source",
]
