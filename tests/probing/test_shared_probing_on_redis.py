"""Routers that share the probing of real replicas on a real server: who probes what, and what becomes of verdicts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from shared_registry import EventKind
from shared_registry.admin.observer import Observer
from shared_registry.cli.overview_document import overview_document
from shared_registry.cli.status import overview_text
from shared_registry.cli.tables import lines_of
from shared_registry.embedded import EmbeddedServer
from tests.support.faulty_proxy import FaultyProxy
from tests.support.own_pages import shown_replicas
from tests.support.pauses import Pauses
from tests.support.sharing_routers import QUICK, sharing
from tests.support.until import until

INTERVAL = QUICK["health_check_interval_seconds"]


async def test_every_replica_is_probed_by_one_router(server: EmbeddedServer, namespace: str) -> None:
    """And the shares are even."""
    async with sharing(server, namespace, routers=3, replicas=60) as fleet:
        await fleet.until_shared_by(fleet.routers)
        await asyncio.sleep(2 * INTERVAL)  # what began under an earlier plan has ended
        began = time.monotonic()
        async with Pauses() as pauses:
            await asyncio.sleep(6 * INTERVAL)
            await until(lambda: fleet.probed_since(began) == set(fleet.urls), "all are probed")
        probed = [router.probed_since(began) for router in fleet.routers]
        most = 1.5 * (time.monotonic() - began) / INTERVAL
        least = 0.5 * (time.monotonic() - began - pauses.seconds) / INTERVAL
        assert sorted(url for one in probed for url in one) == sorted(fleet.urls), "none twice, and none left out"
        assert all(19 <= len(one) <= 21 for one in probed)
        assert all(int(least) <= count <= most for one in probed for count in one.values()), "at the interval"
        plan = fleet.routers[0].plan
        for router, one in zip(fleet.routers, probed, strict=True):
            assert {plan.prober_of(url) for url in one} == {router.key}


async def test_a_router_that_comes_gets_a_share(server: EmbeddedServer, namespace: str) -> None:
    async with sharing(server, namespace, routers=1, replicas=40) as fleet:
        await fleet.until_shared_by(fleet.routers)
        began = time.monotonic()
        async with Pauses() as pauses:
            second = await fleet.start()
            await fleet.until_shared_by(fleet.routers)
            await until(lambda: len(second.probed_since(began)) == 20)
            gap = fleet.longest_gap(began, time.monotonic())
        assert gap < 2 * INTERVAL + 2.0 + pauses.seconds, "a busy machine gets 2 s more"


async def test_others_take_the_share_of_a_leaving_router_over(server: EmbeddedServer, namespace: str) -> None:
    async with sharing(server, namespace, routers=3, replicas=30) as fleet:
        await fleet.until_shared_by(fleet.routers)
        gone = fleet.others[0]
        began = time.monotonic()
        async with Pauses() as pauses:
            await gone.registry.stop()
            await fleet.until_shared_by([router for router in fleet.routers if router is not gone])
            assert time.monotonic() - began < QUICK["router_expiry_seconds"], "without waiting for its expiry"
            await asyncio.sleep(2 * INTERVAL)
            gap = fleet.longest_gap(began, time.monotonic())
        assert gap < 2 * INTERVAL + 2.0 + pauses.seconds


async def test_a_participant_finds_a_dead_replica_and_a_recovered_one(server: EmbeddedServer, namespace: str) -> None:
    async with sharing(server, namespace, routers=3, replicas=12) as fleet:
        await fleet.until_shared_by(fleet.routers)
        prober = fleet.others[0]
        host = next(host for host in fleet.hosts if prober.plan.prober_of(fleet.replicas.url(host)) == prober.key)
        url, replica = fleet.replicas.url(host), fleet.replicas.replica(host)
        replica.status = 503
        await until(lambda: all(url not in fleet.healthy(router) for router in fleet.routers))
        (unhealthy,) = [
            event for event in await prober.registry.events(count=1000) if event.kind is EventKind.REPLICA_UNHEALTHY
        ]
        assert unhealthy.router == prober.key
        assert unhealthy.record is not None
        assert unhealthy.record.doubt.unreached_by, "others were asked"
        replica.status = 200
        await fleet.until_all_healthy()


async def test_a_blind_participant_takes_no_replica_away(server: EmbeddedServer, namespace: str) -> None:
    """What it does not reach others probe in its place, the leader among them."""
    async with sharing(server, namespace, routers=3, replicas=12) as fleet:
        await fleet.until_shared_by(fleet.routers)
        blind = fleet.others[0]
        blind.is_blind = True
        mine = {url for url in fleet.urls if blind.plan.prober_of(url) == blind.key}

        def is_handed_over() -> bool:
            records = [replica.record for replica in fleet.leader.registry.all() if replica.key in mine]
            return all(record.doubt.prober not in ("", blind.key) for record in records)

        await until(is_handed_over, "each of its replicas is probed by another router")
        leader = fleet.leader
        began = time.monotonic()
        while time.monotonic() - began < 6 * INTERVAL:
            assert len(fleet.healthy(leader)) == len(fleet.urls)
            await asyncio.sleep(0.02)
        await until(lambda: fleet.probed_since(began, but=blind) >= mine, "others probe them")
        kinds = [event.kind for event in await leader.registry.events(count=5000)]
        assert EventKind.REPLICA_UNHEALTHY not in kinds
        assert kinds.count(EventKind.LEADER_RESIGNED) == 0, "the leader was wrong about nothing"


async def test_a_blind_leader_hands_over_the_lead(server: EmbeddedServer, namespace: str) -> None:
    """It counts the replicas of its share alone: wrong about all of them, it is wrong about a third of all."""
    async with sharing(server, namespace, routers=3, replicas=12) as fleet:
        await fleet.until_shared_by(fleet.routers)
        blind = fleet.leader
        blind.is_blind = True
        await until(lambda: blind.registry.leader is not None and blind.registry.leader.router != blind.key)
        await until(lambda: any(router.registry.is_leader for router in fleet.routers))
        kinds = [event.kind for event in await blind.registry.events(count=5000)]
        assert EventKind.REPLICA_UNHEALTHY not in kinds


async def test_the_setting_of_the_leader_decides(server: EmbeddedServer, namespace: str) -> None:
    """A leader that is set to probe alone ends the plan of the one before, and one that shares makes a plan."""
    async with sharing(server, namespace, routers=2, replicas=10) as fleet:
        await fleet.until_shared_by(fleet.routers)
        alone = await fleet.start(probing="leader")
        sharers = fleet.routers[:2]
        await fleet.until_shared_by(sharers)
        began = time.monotonic()
        await asyncio.sleep(2 * INTERVAL)
        assert not alone.probed_since(began), "it gets no share"
        while not alone.registry.is_leader:
            if (leader := alone.registry.leader) is not None and leader.router != alone.key:
                await alone.registry._parts.store.step_down(leader.epoch, sit_out_seconds=60)
            await asyncio.sleep(0.05)
        await until(lambda: all(router.plan is None for router in fleet.routers))
        await asyncio.sleep(2 * INTERVAL)
        began = time.monotonic()
        await asyncio.sleep(3 * INTERVAL)
        await until(lambda: set(alone.probed_since(began)) == set(fleet.urls), "it probes all")
        assert not any(router.probed_since(began) for router in sharers)


async def test_routers_with_other_health_checks_get_no_share(server: EmbeddedServer, namespace: str) -> None:
    async with sharing(server, namespace, routers=2, replicas=10) as fleet:
        await fleet.until_shared_by(fleet.routers)
        await fleet.start(health_check_statuses="200")
        await asyncio.sleep(3 * QUICK["heartbeat_seconds"])
        await fleet.until_shared_by(fleet.routers[:2])
        assert len(fleet.healthy(fleet.routers[2])) == 10


async def test_after_a_loss_of_data_the_work_is_shared_again(
    own_server: Callable[..., EmbeddedServer], namespace: str
) -> None:
    server = own_server()
    async with sharing(server, namespace, routers=2, replicas=10) as fleet:
        await fleet.until_shared_by(fleet.routers)
        before = fleet.routers[0].plan.number
        server.kill()
        await asyncio.sleep(1.0)
        server.start()
        await until(lambda: all(router.plan and router.plan.number > before for router in fleet.routers))
        await fleet.until_shared_by(fleet.routers)
        await fleet.until_all_healthy()
        await asyncio.sleep(2 * INTERVAL)
        began = time.monotonic()
        await asyncio.sleep(4 * INTERVAL)
        await until(lambda: fleet.probed_since(began) == set(fleet.urls), "all are probed")
        assert [len(router.probed_since(began)) for router in fleet.routers] == [5, 5]
        kinds = [event.kind for event in await fleet.leader.registry.events(count=5000)]
        assert EventKind.REPLICA_UNHEALTHY not in kinds


async def test_a_participant_cut_off_from_redis_stops_probing(server: EmbeddedServer, namespace: str) -> None:
    """It goes on until others may have its share, and gets a share again when it is back."""
    expiry_seconds = 3.0
    async with (
        FaultyProxy(server.port) as proxy,
        sharing(server, namespace, routers=1, replicas=10, router_expiry_seconds=expiry_seconds) as fleet,
        Pauses() as pauses,
    ):
        leader = fleet.leader
        cut_off = await fleet.start(redis_url=proxy.url, router_expiry_seconds=expiry_seconds)
        await fleet.until_shared_by(fleet.routers)
        began = time.monotonic()
        proxy.refuses = True
        proxy.cut()
        await until(lambda: cut_off.probed_since(began + INTERVAL), "it goes on")
        await until(lambda: leader.plan.routers == {leader.key})
        await asyncio.sleep(2 * INTERVAL)
        assert not cut_off.probed_since(time.monotonic() - INTERVAL)
        limit = expiry_seconds + QUICK["heartbeat_seconds"] + INTERVAL
        assert fleet.longest_gap(began, time.monotonic()) < limit + 2.0 + pauses.seconds
        proxy.heal()
        back = time.monotonic()
        await fleet.until_shared_by(fleet.routers)
        await until(lambda: len(cut_off.probed_since(back)) == 5)


async def test_the_status_names_who_probes_each_replica(server: EmbeddedServer, namespace: str) -> None:
    async with sharing(server, namespace, routers=2, replicas=6) as fleet:
        await fleet.until_shared_by(fleet.routers)
        registry, plan = fleet.leader.registry, fleet.leader.plan
        expected = {url: plan.prober_of(url) for url in fleet.urls}
        async with Observer(registry.config) as observer:
            overview = await observer.overview()
        shown = overview_document(registry.config, overview)["replicas"]
        assert {one["url"]: one["prober"] for one in shown} == expected
        page = await shown_replicas(registry)
        assert {one["url"]: one["prober"] for one in page} == expected
        text = "\n".join(lines_of(overview_text(registry.config, overview)))
        assert "shared: " + ", ".join(f"{key} 3" for key in sorted(expected.values())[::3]) in text
        assert all(text.count(key) > 3 for key in set(expected.values()))
