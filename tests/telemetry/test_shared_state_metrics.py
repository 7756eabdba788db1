"""What the metrics tell of the shared state as this router takes part in it: events, affinity, probing, discovery."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared_registry.telemetry.counting import Counting
from shared_registry.telemetry.page import MetricsPage
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.metrics import Scrape
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def until_shown(router: RunningRouter, holds: Callable[[Scrape], bool], what: str) -> Scrape:
    """Return the first page for which that holds."""
    page = MetricsPage(router.router, Counting(router.router))
    found: list[Scrape] = []

    async def is_shown() -> bool:
        found[:] = [Scrape(await page.render())]
        return holds(found[0])

    await until(is_shown, what)
    return found[0]


async def test_a_session_that_returns_counts_as_affinity(start_with_admin: StartRouter) -> None:
    async with Backend() as first, Backend() as second:
        router = await start_with_admin(first.url, second.url, session_key="header:x-session")
        for session in ("ann", "ann", "bob", "ann"):
            assert (await router.http.get("/x", headers={"x-session": session})).status_code == 200
        assert (await router.http.get("/x")).status_code == 200
        page = Scrape(await MetricsPage(router.router, Counting(router.router)).render())
    assert page.value("sr_placements_total", outcome="affinity") == 2
    assert page.value("sr_placements_total", outcome="granted") == 3
    assert page.value("sr_acquire_duration_seconds_count", outcome="affinity") == 2
    assert page.value("sr_acquire_duration_seconds_count", outcome="granted") == 3


async def test_the_lag_of_events_is_measured(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        registry = router.router.pools[""].registry
        before = Scrape(await MetricsPage(router.router, Counting(router.router)).render())
        await registry.drain(backend.url, by="ann")
        await registry.enable(backend.url, by="ann")

        def has_more(page: Scrape) -> bool:
            more = (page.value("sr_stream_lag_seconds_count") or 0) - (before.value("sr_stream_lag_seconds_count") or 0)
            return more >= 2

        page = await until_shown(router, has_more, "two events have come")
    count, total = page.value("sr_stream_lag_seconds_count"), page.value("sr_stream_lag_seconds_sum")
    assert count
    assert total is not None
    assert 0 <= total / count < 60, "a lag, and no time of day"


async def test_a_leader_that_reaches_all_is_in_good_health(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        await until_shown(router, lambda page: page.value("sr_local_health") == 1, "it has probed")


async def test_a_source_of_discovery_that_fails_shows(start_router: StartRouter, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    source = {"kind": "file", "name": "fleet", "path": str(path), "interval_seconds": 0.05}
    async with Backend() as backend:
        text = f"replicas:\n- {{url: {backend.url}}}\n"
        path.write_text(text)
        router = await start_router(discovery=[source], is_awaited=False)
        label = {"source": "file:fleet"}

        def is_failing(page: Scrape) -> bool:
            return page.value("sr_discovery_failing", **label) == 1

        page = await until_shown(router, lambda page: page.value("sr_discovery_failing", **label) == 0, "it answers")
        assert 0 <= (page.value("sr_discovery_age_seconds", **label) or 0) < 60
        assert page.value("sr_discovery_failures_total", **label) == 0
        path.write_text("no list of replicas")
        page = await until_shown(router, is_failing, "it fails")
        assert (page.value("sr_discovery_failures_total", **label) or 0) >= 1
        assert page.value("sr_discovery_held", **label) == 0
        path.write_text(text)
        await until_shown(router, lambda page: not is_failing(page), "it answers again")
