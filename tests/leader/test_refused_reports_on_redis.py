"""Redis renews the lead and takes no reports: at `maxmemory`, or from a user without the right."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from shared_registry.embedded import EmbeddedServer
from shared_registry.leader.reports import UNREPORTED
from tests.support.sharing_routers import Sharing, sharing
from tests.support.until import until

NAMESPACE = "refused"
LASTING = {"lease_seconds": 6.0, "router_expiry_seconds": 15.0}
"""So long that a machine that stands still ends no lease."""
TOO_OLD_SECONDS = 2.0
"""Twice as old as results may be that are still reported: a probe's time limit and an interval."""


def raw(server: EmbeddedServer) -> Any:
    return Redis.from_url(server.url, decode_responses=True)


def events(server: EmbeddedServer) -> list[dict[str, str]]:
    return [fields for _, fields in raw(server).xrange(f"sr:{{{NAMESPACE}}}:events")]


def resignations(server: EmbeddedServer) -> list[str]:
    return [fields.get("reason", "") for fields in events(server) if fields["kind"] == "leader_resigned"]


def all_healthy(fleet: Sharing) -> bool:
    return all(len(fleet.healthy(router)) == len(fleet.urls) for router in fleet.routers)


@pytest.mark.parametrize("probing", ["leader", "shared"])
async def test_at_maxmemory_the_lead_ends_and_nothing_is_replayed(
    own_server: Callable[..., EmbeddedServer], probing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can be elected at `maxmemory` either, so that one resignation is all."""
    server = own_server()
    async with sharing(server, NAMESPACE, routers=2, replicas=3, probing=probing, **LASTING) as fleet:
        if probing == "shared":
            await fleet.until_shared_by(fleet.routers)
        first, sick = await fleet.until_led(), fleet.replicas.replica(fleet.hosts[1])
        raw(server).config_set("maxmemory", 1)
        sick.status = 503
        with caplog.at_level(logging.WARNING):
            await until(lambda: not first.registry.is_leader)
            await until(lambda: any("Redis takes no probe results" in text for text in caplog.messages))
        sick.status = 200
        await asyncio.sleep(TOO_OLD_SECONDS)
        probes = [len(router.probes) for router in fleet.routers]
        raw(server).config_set("maxmemory", 0)
        await until(lambda: any(router.registry.is_leader for router in fleet.routers))
        await until(lambda: sum(len(router.probes) for router in fleet.routers) > sum(probes) + 6)
        await until(lambda: all_healthy(fleet))
        kinds = [fields["kind"] for fields in events(server)]
        assert "replica_unhealthy" not in kinds
        assert "replica_suspected" not in kinds
        assert [reason.startswith(UNREPORTED) for reason in resignations(server)] == [True]


async def test_a_lone_leader_goes_on_and_says_so(
    own_server: Callable[..., EmbeddedServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    async with sharing(server, NAMESPACE, routers=1, replicas=3, probing="leader", **LASTING) as fleet:
        raw(server).config_set("maxmemory", 1)
        with caplog.at_level(logging.WARNING):
            await until(lambda: any("no other router can lead" in text for text in caplog.messages))
        assert fleet.routers[0].registry.is_leader
        raw(server).config_set("maxmemory", 0)
        sick = fleet.replicas.replica(fleet.hosts[1])
        sick.status = 503
        await until(lambda: not all_healthy(fleet))
        assert resignations(server) == []


def limit(server: EmbeddedServer, user: str) -> None:
    """Take from a user the right to write the hashes of replicas, which reports need and renewals do not."""
    prefix = f"sr:{{{NAMESPACE}}}:"
    others = [f"~{prefix}{pattern}" for pattern in ("[^r]*", "r[^e]*", "re[^p]*", "replicas")]
    raw(server).execute_command("ACL", "SETUSER", user, "resetkeys", f"%R~{prefix}replica:*", *others)


async def test_another_router_leads_if_the_leaders_user_lacks_a_right(
    own_server: Callable[..., EmbeddedServer],
) -> None:
    server = own_server()
    raw(server).execute_command("ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~*", "&*")
    url = server.url.replace("redis://", "redis://limited:secret@")
    async with sharing(server, NAMESPACE, routers=1, replicas=3, probing="leader", redis_url=url, **LASTING) as fleet:
        second = await fleet.start(probing="leader", **LASTING)
        try:
            limit(server, "limited")
        except ResponseError:
            pytest.skip("this server has no rights for reading alone")
        await until(lambda: second.registry.is_leader)
        fleet.replicas.replica(fleet.hosts[1]).status = 503
        await until(lambda: not all_healthy(fleet))
        assert len(resignations(server)) == 1


async def test_the_lead_does_not_go_round_without_the_right(
    own_server: Callable[..., EmbeddedServer], caplog: pytest.LogCaptureFixture
) -> None:
    """The second leader sees why the first one resigned, fares alike, and stays."""
    server = own_server()
    async with sharing(server, NAMESPACE, routers=3, replicas=3, probing="leader", **LASTING) as fleet:
        first = await fleet.until_led()
        try:
            limit(server, "default")
        except ResponseError:
            pytest.skip("this server has no rights for reading alone")
        with caplog.at_level(logging.WARNING):
            await until(lambda: any(router.registry.is_leader for router in fleet.routers if router is not first))
            second = await fleet.until_led()
            said = len(caplog.messages)
            await until(lambda: any(UNREPORTED in text for text in caplog.messages[said:]))
            probed = len(second.probes)
            await until(lambda: len(second.probes) >= probed + 30)
        assert second.registry.is_leader
        assert len(resignations(server)) == 1
