"""What a load balancer should do with a replica, from what a router knows of it. Pure."""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import NamedTuple

from shared_registry.model import AdminState, ReplicaRecord, ReplicaStatus


class Service(enum.Enum):
    """How a replica takes part.

    A `SPARE` replica is not healthy, but takes sessions that no healthy replica has room for, because there is panic.
    """

    READY = "ready"
    SPARE = "spare"
    DRAINING = "draining"
    DOWN = "down"
    DISABLED = "disabled"


class ServiceState(NamedTuple):
    """How a replica takes part, and why it is not ready; the reason is empty if nothing says why."""

    service: Service
    reason: str = ""


def service_state(record: ReplicaRecord, spares: Collection[str]) -> ServiceState:
    """Return how a replica takes part.

    Args:
        record: The replica.
        spares: Canonical urls of the replicas that sessions may use in a panic although they are not healthy.
    """
    if record.admin is AdminState.DRAINING:
        return ServiceState(Service.DRAINING, record.admin_reason)
    if record.admin is not AdminState.ACTIVE:
        return ServiceState(Service.DISABLED, record.admin_reason)
    if record.is_selectable:
        return ServiceState(Service.READY)
    service = Service.SPARE if record.key in spares else Service.DOWN
    if record.health.status is ReplicaStatus.UNHEALTHY:
        return ServiceState(service, record.last_error)
    return ServiceState(service, "not probed yet" if record.ejected_until is None else "sessions on it failed")
