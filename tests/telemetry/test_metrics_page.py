"""The page of metrics of a router in front of real replicas and a real Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

import httpx
import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.model import (
    AdminState,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
)
from shared_registry.telemetry import exposition
from shared_registry.telemetry.counting import Counting
from shared_registry.telemetry.families import EVERY, OF_REPLICA, PREFIX
from shared_registry.telemetry.fleet import Fleet
from shared_registry.telemetry.page import CONTENT_TYPE, MetricsPage
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.foreign import find_program
from tests.support.metrics import Scrape
from tests.support.programs import free_port
from tests.support.shown_fleet import shown_fleet
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def scraped(router: RunningRouter) -> Scrape:
    return Scrape(await MetricsPage(router.router, Counting(router.router)).render())


async def test_the_page_shows_the_fleet_and_the_leader(start_router: StartRouter) -> None:
    async with Backend() as first, Backend() as second:
        router = await start_router(first.url, second.url)
        await until(lambda: router.router.pools[""].registry.is_leader, "it leads")
        page = await scraped(router)
    assert page.value("sr_is_leader") == 1
    assert page.value("sr_leader_known") == 1
    assert page.value("sr_replicas", tier="primary", status="healthy", admin="active") == 1
    assert page.value("sr_replicas", tier="secondary", status="healthy", admin="active") == 1
    assert page.value("sr_replica_up", replica=first.url.removeprefix("http://")) == 1
    assert page.value("sr_routers", state="live") == 1
    assert page.value("sr_routers", state="expired") == 0
    assert page.value("sr_slots_free", tier="primary") == float("inf")
    assert page.value("sr_queue_depth") == 0
    assert page.value("sr_store_read_failed") == 0
    assert 0 <= (page.value("sr_view_age_seconds") or 0) < 60
    assert (page.value("process_open_fds") or 0) > 3
    [info] = page.labels_of("sr_router_info")
    assert info["router"] == router.router.pools[""].registry.router_key


async def test_sessions_and_waiters_show_on_the_page(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, queue_timeout_seconds=30.0)
        registry = router.router.pools[""].registry
        await registry.register(backend.url, capacity=1, primary=True)
        await until(lambda: registry.all()[0].endpoint.capacity == 1)
        async with asyncio.TaskGroup() as sessions:
            tasks = [sessions.create_task(router.http.get("/wait")) for _ in range(3)]
            page = MetricsPage(router.router, Counting(router.router))
            await until(lambda: depth_is(page, 2), "two sessions wait")
            await until(lambda: load_is(page, 1), "the load was read since")
            shown = Scrape(await page.render())
            backend.go_on.set()
        assert all(task.result().status_code == 200 for task in tasks)
    assert shown.value("sr_replica_in_flight") == 1
    assert shown.value("sr_replica_capacity") == 1
    assert shown.value("sr_slots", tier="primary") == 1
    assert shown.value("sr_slots_free", tier="primary") == 0
    assert shown.value("sr_leases") == 1
    assert shown.value("sr_sessions_active", kind="http") == 3
    assert (shown.value("sr_queue_oldest_seconds") or 0) > 0


async def depth_is(page: MetricsPage, depth: int) -> bool:
    return Scrape(await page.render()).value("sr_queue_depth") == depth


async def load_is(page: MetricsPage, sessions: int) -> bool:
    return Scrape(await page.render()).value("sr_replica_in_flight") == sessions


async def test_the_page_shows_the_view_without_redis(
    start_router: StartRouter, own_server: Callable[..., EmbeddedServer]
) -> None:
    server = own_server()
    async with Backend() as backend:
        router = await start_router(backend.url, redis_url=server.url, redis_timeout_seconds=0.3)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            page = MetricsPage(router.router, Counting(router.router))
            await until(lambda: fails_to_read(page), "Redis is away")
            await until(lambda: ages(page), "the view gets older")
            shown = Scrape(await page.render())
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await until(lambda: reads_again(page), "Redis is back")
    assert shown.value("sr_replica_up") == 1
    assert shown.value("sr_queue_depth") is None


async def test_a_view_that_was_never_loaded_ages_from_the_start() -> None:
    async with shown_fleet(f"redis://127.0.0.1:{free_port()}/0", 1, is_awaited=False) as fleet:
        page = MetricsPage(fleet.router.router, Counting(fleet.router.router))
        await until(lambda: ages(page), "it ages")
        shown = Scrape(await page.render())
    assert (shown.value("sr_store_write_age_seconds") or 0) > 1


async def test_a_view_that_was_loaded_never_ages_from_the_start(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        counting, registry = Counting(router.router), router.router.pools[""].registry
        for _ in range(2):
            page = MetricsPage(router.router, counting)
            page._began_at -= 3600
            shown = Scrape(await page.render())
            assert 0 <= (shown.value("sr_view_age_seconds") or 0) < 60
            assert 0 <= (shown.value("sr_store_write_age_seconds") or 0) < 60
            await registry.stop()


async def fails_to_read(page: MetricsPage) -> bool:
    return Scrape(await page.render()).value("sr_store_read_failed") == 1


async def reads_again(page: MetricsPage) -> bool:
    return Scrape(await page.render()).value("sr_store_read_failed") == 0


async def ages(page: MetricsPage) -> bool:
    return (Scrape(await page.render()).value("sr_view_age_seconds") or 0) > 1


async def test_refusals_are_counted_by_error(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, max_body_bytes=1024)
        for _ in range(3):
            assert (await router.http.post("/upload", content=bytes(1025))).status_code == 413
        page = await scraped(router)
    assert page.value("sr_refusals_total", status="413", error="request_too_large") == 3


async def test_many_readers_cost_one_read_of_redis(start_router: StartRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, refresh_seconds=30.0)
        registry, reads = router.router.pools[""].registry, 0
        read = registry.figures

        async def counted() -> object:
            nonlocal reads
            reads += 1
            return await read()

        monkeypatch.setattr(registry, "figures", counted)
        page = MetricsPage(router.router, Counting(router.router))
        pages = await asyncio.gather(*(page.render() for _ in range(50)))
    assert reads == 1
    assert len(set(map(id, pages))) == 1


async def test_promtool_finds_no_fault_in_the_page(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, max_body_bytes=1024)
        await router.http.post("/upload", content=bytes(1025))
        page = await MetricsPage(router.router, Counting(router.router)).render()
    done = await asyncio.to_thread(
        subprocess.run,
        [find_program("promtool", "prometheus"), "check", "metrics"],
        input=b"".join(page),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_every_metric_on_the_page_is_documented(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        page = await scraped(router)
    documented = {family.name.removesuffix("_total") for family in EVERY}
    ours = {family.name for family in page.families if family.name.startswith(PREFIX)}
    assert ours <= documented


def records(count: int, *, names: Sequence[str | None]) -> list[ReplicaRecord]:
    return [
        ReplicaRecord(
            f"http://10.0.{at // 250}.{at % 250}:8000",
            ReplicaEndpoint(f"http://10.0.{at // 250}.{at % 250}:8000", name=names[at % len(names)], capacity=4),
            ReplicaHealth(ReplicaStatus.HEALTHY),
            status_since=1000.5,
        )
        for at in range(count)
    ]


async def test_replicas_of_one_name_are_shown_by_url() -> None:
    fleet = Fleet(records(2, names=["twin"]), {}, pool="")
    await fleet.count()
    text = "".join([piece async for piece in fleet.samples(OF_REPLICA[0])])
    assert text == 'sr_replica_up{replica="10.0.0.0:8000"} 1\nsr_replica_up{replica="10.0.0.1:8000"} 1\n'


@pytest.mark.parametrize(
    ("replicas", "labels"),
    [
        ([("http://a:80", None), ("https://a:80", None)], ["http://a:80", "https://a:80"]),
        ([("http://a:80", "b:80"), ("http://b:80", None)], ["a:80", "b:80"]),
        ([("http://a:80", "https://b:80"), ("http://b:80", None), ("https://b:80", None)], None),
        ([("http://a:80", "a:80"), ("http://b:80", "gpu")], ["a:80", "gpu"]),
    ],
    ids=["two schemes", "another's address", "another's url", "its own address"],
)
async def test_no_two_replicas_have_the_same_labels(
    replicas: list[tuple[str, str | None]], labels: list[str] | None
) -> None:
    fleet = Fleet([ReplicaRecord(url, ReplicaEndpoint(url, name=name)) for url, name in replicas], {}, pool="")
    await fleet.count()
    text = exposition.head_lines(OF_REPLICA[0]) + "".join([piece async for piece in fleet.samples(OF_REPLICA[0])])
    found = [one["replica"] for one in Scrape([text.encode()]).labels_of("sr_replica_up")]
    assert len(set(found)) == len(replicas)
    assert labels is None or found == labels


async def test_hostile_names_are_escaped() -> None:
    fleet = Fleet(records(1, names=['a"b\\c\nd']), {}, pool="p")
    await fleet.count()
    text = exposition.head_lines(OF_REPLICA[0]) + "".join([piece async for piece in fleet.samples(OF_REPLICA[0])])
    assert Scrape([text.encode()]).value("sr_replica_up", replica='a"b\\c\nd', pool="p") == 1


async def test_draining_replicas_show_since_when() -> None:
    [record] = records(1, names=["a"])
    drained = ReplicaRecord(
        record.key, record.endpoint, record.health, admin=AdminState.DRAINING, admin_since=5.0, in_flight=6
    )
    fleet = Fleet([drained], {}, pool="")
    await fleet.count()
    shown = {
        family.name: "".join([piece async for piece in fleet.samples(family)]).splitlines() for family in OF_REPLICA
    }
    assert shown["sr_replica_admin_since_seconds"] == [
        'sr_replica_admin_since_seconds{replica="a",admin="draining"} 5.0'
    ]
    assert shown["sr_leases_over_capacity"] == ['sr_leases_over_capacity{replica="a"} 2']
    assert fleet.free == {"secondary": 0.0}


async def test_the_admin_address_serves_the_metrics(start_with_admin: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_with_admin(backend.url)
        async with httpx.AsyncClient(base_url=router.admin_url, trust_env=False, timeout=SECONDS) as admin:
            answer = await admin.get("/metrics")
        assert answer.headers["content-type"] == CONTENT_TYPE
        assert Scrape([answer.content]).value("sr_replicas", status="healthy", admin="active") == 1
        assert (await router.http.get("/metrics")).status_code == 404
        assert backend.scopes == [], "no replica was asked"


async def test_a_router_without_an_admin_address_counts_nothing(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        assert (await router.http.get("/x")).status_code == 200
    assert router.router.site.traffic is None
    assert not any(router.router.pools[""].traffic.http.ended.values())
