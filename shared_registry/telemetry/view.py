"""What a page of metrics tells of one pool's view of the shared state."""

from __future__ import annotations

from shared_registry.proxy.pool import Pool
from shared_registry.telemetry.collector import Samples
from shared_registry.telemetry.fleet import Fleet


def put_view(samples: Samples, pool: Pool, up_seconds: float) -> None:
    """Add what this router knows without asking Redis.

    Args:
        samples: What is added to.
        pool: The pool.
        up_seconds: For how long the router runs, which is the age of a view that was never loaded.
    """
    registry, name = pool.registry, pool.name
    samples.put("sr_router_info", 1, registry.router_key, registry.config.fingerprint(), name)
    samples.put("sr_is_leader", registry.is_leader, name)
    leader = registry.leader
    samples.put("sr_leader_known", leader is not None, name)
    if leader is not None:
        samples.put("sr_leader_epoch", leader.epoch, name)
    view_age, write_age = registry.age_seconds, registry.writable_age_seconds
    samples.put("sr_view_age_seconds", up_seconds if view_age is None else view_age, name)
    samples.put("sr_store_write_age_seconds", up_seconds if write_age is None else write_age, name)
    samples.put("sr_view_stale", registry.is_stale, name)
    samples.put("sr_panic", registry.panic is not None, name)
    samples.put("sr_in_trouble", registry.is_in_trouble, name)
    if (health := registry.local_health) is not None:
        samples.put("sr_local_health", health, name)
    samples.put("sr_leases", registry.lease_count, name)
    samples.put("sr_leases_ended_total", registry.released_count, "released", name)
    samples.put("sr_leases_ended_total", registry.reaped_lease_count, "router_expired", name)
    samples.put_distribution("sr_stream_lag_seconds", registry.stream_lags, name)
    samples.put("sr_cooldown_active", registry.cooling_count, name)
    samples.put("sr_queue_timeout_seconds", pool.config.queue_timeout_seconds, name)


def put_discovery(samples: Samples, pool: Pool) -> None:
    """Add what is known of the sources of discovery, while this router is the leader."""
    for source, state in pool.registry.discovery_sources.items():
        if (age := state.age_seconds) is not None:
            samples.put("sr_discovery_age_seconds", age, source, pool.name)
        samples.put("sr_discovery_failing", bool(state.failure), source, pool.name)
        samples.put("sr_discovery_failures_total", state.failures, source, pool.name)
        samples.put("sr_discovery_held", state.held, source, pool.name)


def put_fleet(samples: Samples, fleet: Fleet, pool: str) -> None:
    """Add how many replicas and slots there are."""
    for (tier, status, admin), count in fleet.kinds.items():
        samples.put("sr_replicas", count, tier, status, admin, pool)
    for tier, slots in fleet.slots.items():
        if not fleet.kinds[tier, "healthy", "active"]:  # so that queries find it
            samples.put("sr_replicas", 0, tier, "healthy", "active", pool)
        samples.put("sr_slots", slots, tier, pool)
        samples.put("sr_slots_free", fleet.free[tier], tier, pool)
