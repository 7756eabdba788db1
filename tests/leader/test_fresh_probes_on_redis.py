"""A replica in doubt is probed over new connections only: a kept one must not vouch for it."""

from __future__ import annotations

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.scripted_server import OK, Peer, ScriptedServer, scripted
from tests.support.until import until

SICK = OK.replace(b"200 OK", b"503 No")


async def test_an_unhealthy_replica_recovers_over_new_connections(server: EmbeddedServer, namespace: str) -> None:
    is_sick = False

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(SICK if is_sick else OK)

    async with scripted(script) as replica_server:
        config = RouterConfig(
            redis_url=server.url,
            namespace=namespace,
            replicas=[ReplicaEndpoint(replica_server.url)],
            health_check_interval_seconds=0.1,
            fast_interval_seconds=0.05,
            recovery_threshold=6,
        )
        async with SharedReplicaRegistry(config) as registry:
            [replica] = registry.all()
            await until(lambda: replica.is_healthy)
            is_sick = True
            await until(lambda: not replica.is_healthy)
            is_sick = False
            accepted = replica_server.accepted
            await until(lambda: replica.is_healthy)
            assert replica_server.accepted - accepted >= 5, "of six probes, one of which may have been under way"
            accepted, requests = replica_server.accepted, len(replica_server.requests)
            await until(lambda: len(replica_server.requests) >= requests + 12)
            assert replica_server.accepted - accepted <= 4, "and is kept again"


async def test_a_failed_session_makes_the_leader_connect_anew(server: EmbeddedServer, namespace: str) -> None:
    """The kept connection may still answer although the replica accepts no new one."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK)

    async with scripted(script) as replica_server:
        config = RouterConfig(
            redis_url=server.url,
            namespace=namespace,
            replicas=[ReplicaEndpoint(replica_server.url)],
            health_check_interval_seconds=60.0,
        )
        other = SharedReplicaRegistry(config, health_checks=False)
        async with SharedReplicaRegistry(config) as registry, other:
            [replica] = other.all()
            await until(lambda: registry.is_leader and replica.is_healthy)
            accepted = replica_server.accepted
            await other.report_outcome(replica, False, "refused")
            await until(lambda: replica_server.accepted == accepted + 1)
            assert replica.is_healthy


async def test_a_lone_routers_failed_session_makes_it_connect_anew(server: EmbeddedServer, namespace: str) -> None:
    """At the time at which the probe is due, since one router alone probes as the original does."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK)

    async with scripted(script) as replica_server:
        config = RouterConfig(
            redis_url=server.url,
            namespace=namespace,
            replicas=[ReplicaEndpoint(replica_server.url)],
            health_check_interval_seconds=0.2,
        )
        async with SharedReplicaRegistry(config) as registry:
            [replica] = registry.all()
            await until(lambda: registry.is_leader and replica.is_healthy)
            for _ in range(4):  # every sixth probe connects anew anyhow
                accepted = replica_server.accepted
                await registry.report_outcome(replica, False, "refused")
                await two_probes(replica_server)
                assert replica_server.accepted > accepted


async def two_probes(replica_server: ScriptedServer) -> None:
    before = len(replica_server.requests)
    await until(lambda: len(replica_server.requests) >= before + 2)
