"""What real routers measure of themselves, and tell operators with their heartbeats."""

from __future__ import annotations

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.observer import Observer
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import RouterInfo
from tests.support.space import A
from tests.support.until import until

SECONDS = 30


async def test_heartbeats_tell_ages_of_the_view_and_of_probes(server: EmbeddedServer, namespace: str) -> None:
    async def answers(url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.0, None

    config = RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        replicas=[ReplicaEndpoint(A)],
        heartbeat_seconds=0.1,
        health_check_interval_seconds=0.1,
    )
    async with (
        SharedReplicaRegistry(config, http_get=answers) as prober,
        SharedReplicaRegistry(config, health_checks=False),
        Observer(config) as observer,
    ):

        async def described() -> list[RouterInfo]:
            """Return the one that probes first."""
            routers = [one.info for one in (await observer.routers()).routers]
            return sorted(routers, key=lambda info: info.probe_print == "")

        async def is_all_measured() -> bool:
            probing, other = await described()
            return None not in (probing.view_age_seconds, probing.probe_age_seconds, other.view_age_seconds)

        async def is_lag_measured() -> bool:
            return (await described())[0].probe_lag_seconds is not None

        await until(lambda: prober.is_leader)
        await until(is_all_measured)
        probing, other = await described()
        assert 0 <= (probing.probe_age_seconds or 0) < SECONDS
        assert 0 <= (other.view_age_seconds or 0) < SECONDS
        assert (other.probe_age_seconds, other.probe_lag_seconds) == (None, None)
        await until(is_lag_measured)  # some heartbeats fall between two probes
