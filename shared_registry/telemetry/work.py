"""What a page of metrics tells of a router's own work: its probes, and its commands to Redis."""

from __future__ import annotations

from shared_registry.proxy.pool import Pool
from shared_registry.telemetry.collector import Samples

RESULTS = ("ok", "failed", "own_trouble")
ERRORS = ("StoreUnavailable", "StoreRefused", "KeyConflict")


def put_work(samples: Samples, pool: Pool) -> None:
    """Add the work for one pool. Counts begin with 0, so that the first of a kind is an increase."""
    probes, calls, name = pool.registry.probe_counts, pool.registry.call_counts, pool.name
    for result in RESULTS:
        samples.put("sr_probes_total", sum(probes.seconds[result].counts), result, name)
        samples.put_distribution("sr_probe_duration_seconds", probes.seconds[result], result, name)
        samples.put("sr_opinions_total", probes.opinions[result], result, name)
    samples.put_distribution("sr_probe_lag_seconds", probes.lags, name)
    samples.put("sr_probe_interval_seconds", pool.config.health_check_interval_seconds, name)
    for command, seconds in calls.seconds.items():
        samples.put_distribution("sr_store_command_seconds", seconds, command, name)
    for kind in {**dict.fromkeys(ERRORS), **calls.errors}:
        samples.put("sr_store_errors_total", calls.errors[kind], kind, name)
    samples.put("sr_store_reconnects_total", pool.registry.reconnect_count, name)
