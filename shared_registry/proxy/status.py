"""The JSON documents of a router's own pages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from shared_registry.registry.facade import SharedReplicaRegistry


@dataclass(frozen=True, slots=True)
class Queue:
    """The length of the queue.

    Attributes:
        depth: The number of sessions that wait, over all routers; `None` while Redis is away.
        here: The number of sessions that wait at this router.
    """

    depth: int | None
    here: int


def status_document(registry: SharedReplicaRegistry, *, url: str, live_sessions: int, queue: Queue) -> dict[str, Any]:
    """Return what the body of `GET /status` has besides the replicas."""
    leader = registry.leader
    return {
        "queue": asdict(queue),
        "router": registry.router_key,
        "url": url,
        "namespace": registry.config.namespace,
        "leader": {"router": leader.router, "epoch": leader.epoch, "elected_at": leader.elected_at} if leader else None,
        "is_leader": registry.is_leader,
        "revision": registry.revision,
        "history_id": registry.history_id,
        "age_seconds": registry.age_seconds,
        "read_age_seconds": registry.read_age_seconds,
        "is_stale": registry.is_stale,
        "is_settling": registry.is_settling,
        "writable_age_seconds": registry.writable_age_seconds,
        "write_failure": registry.write_failure,
        "is_in_trouble": registry.is_in_trouble,
        "panic": str(registry.panic) if registry.panic else None,
        "sessions": live_sessions,
    }


def not_ready_reason(registry: SharedReplicaRegistry, *, is_open: bool, is_stopping: bool) -> str | None:
    """Return the reason why a load balancer should send no clients to this router; `None` if it should send them."""
    if is_stopping:
        return "stopping"
    if not registry.is_started:
        return "the shared state is not loaded yet"
    if not is_open:
        return "the replicas have not been probed yet"
    if registry.is_stale:
        return "the shared state is older than max_staleness_seconds"
    return None


def ready_document(registry: SharedReplicaRegistry) -> dict[str, Any]:
    """Return the body of `GET /readyz` for a router that is ready. Its problems, if any, are a warning in it."""
    warnings = []
    if failure := registry.write_failure:
        warnings.append(f"Redis can be read, but not written: {failure}")
    if registry.is_in_trouble:
        warnings.append("this router recently could not connect to replicas for reasons of its own; see its log")
    document = {"status": "ready", "writable_age_seconds": registry.writable_age_seconds}
    return {**document, "warning": "; ".join(warnings)} if warnings else document
