"""The health state machine for one router alone. A registry that is not started uses it; Redis uses the same rule.

Success: failures = 0, successes + 1; unknown becomes healthy at once, unhealthy after `recovery` successes in a row;
on becoming healthy successes = 0. Failure: successes = 0, failures + 1; anything but unhealthy becomes unhealthy at
`failure` failures in a row. `lua/lib/health.lua` implements the rule in Redis. It is the rule of FastVideo's streaming
router.
"""

from __future__ import annotations

from dataclasses import replace

from shared_registry.model import ReplicaHealth, ReplicaStatus, Thresholds


def after_success(health: ReplicaHealth, thresholds: Thresholds, *, at: float, latency_ms: float) -> ReplicaHealth:
    """Return the health after one success."""
    successes = health.consecutive_successes + 1
    recovers = health.status is ReplicaStatus.UNHEALTHY and successes >= thresholds.recovery
    if health.status is ReplicaStatus.UNKNOWN or recovers:
        health = replace(health, status=ReplicaStatus.HEALTHY)
        successes = 0
    return replace(
        health, last_ok_at=at, last_latency_ms=latency_ms, consecutive_failures=0, consecutive_successes=successes
    )


def after_failure(health: ReplicaHealth, thresholds: Thresholds, *, at: float) -> ReplicaHealth:
    """Return the health after one failure."""
    failures = health.consecutive_failures + 1
    if failures >= thresholds.failure:
        health = replace(health, status=ReplicaStatus.UNHEALTHY)
    return replace(health, last_failure_at=at, consecutive_failures=failures, consecutive_successes=0)
