"""The names of metrics, which alerts and dashboards of others rely on."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from shared_registry.happenings import FailureCause, LeaseEnd
from shared_registry.proxy.traffic import OUTCOMES, PLACED
from shared_registry.telemetry.families import EVERY, Family
from shared_registry.telemetry.happened import RESYNCS, TERM_ENDS
from shared_registry.telemetry.work import RESULTS
from tests.tools.metrics_reference import PAGE, reference

RELEASED = [
    "sr_build_info",
    "sr_event_loop_lag_seconds",
    "sr_clients",
    "sr_refusals_total",
    "sr_router_info",
    "sr_is_leader",
    "sr_leader_known",
    "sr_leader_epoch",
    "sr_view_age_seconds",
    "sr_view_stale",
    "sr_store_write_age_seconds",
    "sr_store_read_failed",
    "sr_panic",
    "sr_in_trouble",
    "sr_local_health",
    "sr_routers",
    "sr_replicas",
    "sr_slots",
    "sr_slots_free",
    "sr_queue_depth",
    "sr_queue_oldest_seconds",
    "sr_queue_timeout_seconds",
    "sr_leases",
    "sr_cooldown_active",
    "sr_sessions_active",
    "sr_sessions_total",
    "sr_session_duration_seconds",
    "sr_first_byte_seconds",
    "sr_bytes_total",
    "sr_placements_total",
    "sr_retries_total",
    "sr_probes_total",
    "sr_probe_duration_seconds",
    "sr_probe_lag_seconds",
    "sr_probe_interval_seconds",
    "sr_store_command_seconds",
    "sr_store_errors_total",
    "sr_store_reconnects_total",
    "sr_upstream_connect_seconds",
    "sr_leader_changes_total",
    "sr_leases_ended_total",
    "sr_routers_ended_total",
    "sr_suspicions_total",
    "sr_opinions_total",
    "sr_stream_lag_seconds",
    "sr_resyncs_total",
    "sr_history_losses_total",
    "sr_restored_total",
    "sr_discovery_age_seconds",
    "sr_discovery_failing",
    "sr_discovery_failures_total",
    "sr_discovery_held",
    "sr_acquire_duration_seconds",
    "sr_wait_duration_seconds",
    "sr_replica_up",
    "sr_replica_status_since_seconds",
    "sr_replica_admin_since_seconds",
    "sr_replica_in_flight",
    "sr_replica_capacity",
    "sr_replica_weight",
    "sr_leases_over_capacity",
    "sr_replica_transitions_total",
    "sr_upstream_failures_total",
]


def test_no_name_was_changed_or_dropped() -> None:
    assert [family.name for family in EVERY] == RELEASED, "a new metric is added here; a released one keeps its name"


def test_the_page_is_made_from_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m tests.tools.metrics_reference"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sr_leader_changes_total", TERM_ENDS),
        ("sr_leases_ended_total", [end.value for end in LeaseEnd]),
        ("sr_resyncs_total", RESYNCS),
        ("sr_placements_total", PLACED),
        ("sr_probes_total", RESULTS),
        ("sr_sessions_total", OUTCOMES.values()),
        ("sr_replica_transitions_total", [cause.value for cause in FailureCause]),
    ],
)
def test_the_values_of_labels_are_explained(name: str, values: Iterable[str]) -> None:
    [family] = [one for one in EVERY if one.name == name]
    assert set(values) - set(re.findall("[a-z_]+", family.help)) == set()


@pytest.mark.parametrize("family", EVERY, ids=lambda family: family.name)
def test_a_name_says_what_its_kind_is(family: Family) -> None:
    assert re.fullmatch("sr_[a-z_]+", family.name)
    assert (family.kind == "counter") == family.name.endswith("_total")
    assert family.kind != "histogram" or family.name.endswith("_seconds")
    assert not {"le", "quantile", "pool"} & set(family.labels)
