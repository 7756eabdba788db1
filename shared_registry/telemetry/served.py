"""What a page of metrics tells of the requests and sessions that a router has served."""

from __future__ import annotations

from shared_registry.proxy.traffic import OUTCOMES, PLACED, Traffic
from shared_registry.telemetry.collector import Samples

AT_ONCE = ("granted", "affinity")
"""The answers that no session gets that has waited."""


def put_traffic(samples: Samples, traffic: Traffic, pool: str) -> None:
    """Add what became of the requests of one pool. Counts begin with 0, so that the first of a kind is an increase."""
    for kind, found in (("http", traffic.http), ("websocket", traffic.websocket)):
        samples.put("sr_sessions_active", found.active, kind, pool)
        for outcome in sorted(set(OUTCOMES.values())):
            samples.put("sr_sessions_total", found.ended[outcome], kind, outcome, pool)
        samples.put_distribution("sr_session_duration_seconds", found.durations, kind, pool)
        samples.put_distribution("sr_first_byte_seconds", found.first_bytes, kind, pool)
    samples.put("sr_bytes_total", traffic.http.bytes_in + traffic.websocket.bytes_in, "in", pool)
    samples.put("sr_bytes_total", traffic.http.bytes_out + traffic.websocket.bytes_out, "out", pool)
    for answer in PLACED:
        samples.put("sr_placements_total", traffic.placements[answer], answer, pool)
    for cause, count in traffic.retries.items():
        samples.put("sr_retries_total", count, cause, pool)
    for answer, seconds in traffic.acquires.items():
        if answer != "waited":
            samples.put_distribution("sr_acquire_duration_seconds", seconds, answer, pool)
    for answer, seconds in traffic.waits.items():
        if answer not in AT_ONCE:
            samples.put_distribution("sr_wait_duration_seconds", seconds, answer, pool)
    samples.put_distribution("sr_upstream_connect_seconds", traffic.connects, pool)
