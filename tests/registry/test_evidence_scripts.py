"""What routers see in passing: one alone warns, two or a probe decide, and each takes back only what it said itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Thresholds
from tests.support.lease_commands import ONE, THREE, TWO, heartbeat, leasing, serve
from tests.support.space import A, Space

PROBE = "probe"
HEALTHY, UNHEALTHY = "healthy", "unhealthy"


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with leasing(server.url, namespace) as space:
        await serve(space)
        yield space


async def tell(space: Space, *outcomes: str, threshold: int = 3) -> None:
    """Take outcomes one after the other: who saw it, with `+` in front where it went well."""
    thresholds = Thresholds(failure=threshold, recovery=2)
    for outcome in outcomes:
        who = outcome.lstrip("+")
        result = space.success() if outcome.startswith("+") else space.failure()
        store = space.store_of(who)
        await store.record_outcome(result, thresholds, by=who, is_passive=who != PROBE)


def verdict(space: Space) -> tuple[str, int]:
    fields = space.fields(A)
    return fields["status"], int(fields["consecutive_failures"])


AMONG_OTHERS = {
    "one router is believed up to one below the threshold": ([ONE, ONE], HEALTHY, 2),
    "and no further, however often it fails": ([ONE] * 9, HEALTHY, 2),
    "a second router carries it over": ([ONE] * 9 + [TWO], UNHEALTHY, 3),
    "also if it was there first": ([TWO, ONE, ONE], UNHEALTHY, 3),
    "two routers that fail in turn are enough": ([ONE, TWO, ONE], UNHEALTHY, 3),
    "a probe carries it over": ([ONE] * 9 + [PROBE], UNHEALTHY, 3),
    "after a failed probe a router is not alone": ([PROBE, ONE, ONE], UNHEALTHY, 3),
    "a success takes back its own": ([ONE, ONE, f"+{ONE}"], HEALTHY, 0),
    "so that it begins anew": ([ONE, ONE, f"+{ONE}", TWO, TWO, TWO], HEALTHY, 2),
    "a success does not take back another's": ([ONE, ONE, f"+{TWO}"], HEALTHY, 2),
    "which still counts": ([ONE, ONE, f"+{TWO}", TWO], UNHEALTHY, 3),
    "a success does not take back what two saw": ([ONE, TWO, f"+{ONE}"], HEALTHY, 2),
    "a success does not take back what a probe saw": ([PROBE, PROBE, f"+{ONE}", ONE], UNHEALTHY, 3),
    "a good probe takes back everything": ([ONE, TWO, f"+{PROBE}"], HEALTHY, 0),
    "also who saw it": ([ONE, ONE, f"+{PROBE}", TWO, TWO], HEALTHY, 2),
    "successes do not heal": ([PROBE] * 3 + [f"+{ONE}", f"+{TWO}"] * 3, UNHEALTHY, 3),
}


@pytest.mark.parametrize(("outcomes", "status", "failures"), AMONG_OTHERS.values(), ids=AMONG_OTHERS)
async def test_among_live_routers_one_routers_outcomes_do_not_suffice(
    space: Space, outcomes: list[str], status: str, failures: int
) -> None:
    for router in (ONE, TWO, THREE):
        await heartbeat(space, router)
    await tell(space, *outcomes)
    assert verdict(space) == (status, failures)
    assert (space.ready()[1] == {A}) == (status == HEALTHY)
    assert space.event_kinds().count("replica_unhealthy") == (status == UNHEALTHY)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [([ONE] * 5, HEALTHY), ([ONE, TWO], UNHEALTHY), ([ONE, PROBE], UNHEALTHY), ([ONE, f"+{ONE}", TWO], HEALTHY)],
)
async def test_with_a_threshold_of_one_two_routers_must_agree(space: Space, outcomes: list[str], status: str) -> None:
    for router in (ONE, TWO):
        await heartbeat(space, router)
    await tell(space, *outcomes, threshold=1)
    assert verdict(space)[0] == status


async def test_a_removed_replicas_witness_is_forgotten(space: Space) -> None:
    for router in (ONE, TWO):
        await heartbeat(space, router)
    await tell(space, ONE, threshold=1)
    await space.remove()
    await serve(space)
    assert "failing_witness" not in space.fields(A)


@pytest.mark.parametrize("others", ["none", "expired"])
async def test_a_lone_router_decides_by_itself(space: Space, others: str) -> None:
    await heartbeat(space, ONE)
    if others == "expired":
        await heartbeat(space, TWO)
        space.expire_router(TWO)
    await tell(space, ONE, ONE)
    assert verdict(space) == (HEALTHY, 2)
    await tell(space, ONE)
    assert verdict(space) == (UNHEALTHY, 3)
    await tell(space, f"+{ONE}", f"+{ONE}")
    assert verdict(space) == (HEALTHY, 0)


async def test_probes_and_other_active_evidence_count_by_themselves(space: Space) -> None:
    for router in (ONE, TWO):
        await heartbeat(space, router)
    await tell(space, PROBE, PROBE, PROBE)
    assert verdict(space) == (UNHEALTHY, 3)


async def test_passive_evidence_is_stored_and_keeps_times_of_success(space: Space) -> None:
    for router in (ONE, TWO):
        await heartbeat(space, router)
    before = space.fields(A)
    await tell(space, f"+{ONE}")
    assert space.fields(A) == before
    await tell(space, ONE)
    after = space.fields(A)
    assert (after["failing_witness"], after["last_error"]) == (ONE, "refused")
    assert (after["last_ok_at_ms"], after["last_latency_ms"]) == (before["last_ok_at_ms"], before["last_latency_ms"])
    assert int(after["last_failure_at_ms"]) > 0
