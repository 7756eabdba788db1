"""A registry in an application: changed settings take effect while it runs, as far as they can."""

from __future__ import annotations

import dataclasses

import pytest

from shared_registry import ConfigError, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.until import until

URL, OTHER = "http://127.0.0.1:1", "http://127.0.0.1:2"


@pytest.fixture
def config(server: EmbeddedServer, namespace: str) -> RouterConfig:
    return RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        replicas=[ReplicaEndpoint(URL)],
        fast_interval_seconds=0.05,
        health_check_interval_seconds=0.05,
    )


def statuses(registry: SharedReplicaRegistry) -> list[str]:
    return [replica.health.status.value for replica in registry.all()]


async def test_it_probes_anew_and_registers_what_is_new(config: RouterConfig) -> None:
    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        return 0.1, None if url.endswith("/new") else "500"

    async with SharedReplicaRegistry(config, http_get=probe) as registry:
        await until(lambda: registry.all()[0].health.consecutive_failures > 0, "it is probed")
        result = registry.reload(
            dataclasses.replace(
                config,
                health_check_path="/new",
                replicas=[ReplicaEndpoint(URL, weight=2.0), ReplicaEndpoint(OTHER)],
                max_queue=5,
            )
        )
        assert result.changed == ("replicas", "health_check_path")
        assert result.postponed == ("max_queue",)
        await until(lambda: statuses(registry) == ["healthy"] * 2, "both are healthy by the new path")
        assert [replica.endpoint.weight for replica in registry.all()] == [2.0, 1.0]
        assert registry.config.max_queue == config.max_queue


async def test_operators_changes_win_over_a_reload(config: RouterConfig) -> None:
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        await registry.register(URL, weight=5.0)
        await registry.register(OTHER)
        await registry.deregister(OTHER)
        third = "http://127.0.0.1:3"
        registry.reload(dataclasses.replace(config, replicas=[ReplicaEndpoint(one) for one in (URL, OTHER, third)]))
        await until(lambda: len(registry.all()) == 2, "the new one is registered")
        assert [(one.url, one.endpoint.weight) for one in registry.all()] == [(URL, 5.0), (third, 1.0)]


async def test_settings_that_do_not_fit_change_nothing(config: RouterConfig) -> None:
    registry = SharedReplicaRegistry(config)
    with pytest.raises(ConfigError, match="renew_interval_seconds"):
        registry.reload(Bad())
    assert registry.config == config


class Bad:
    """Somebody else's config object."""

    lease_seconds = 1.0
    renew_interval_seconds = 1.0
    failure_threshold = 9


async def test_a_reload_before_the_start_is_used_by_it(config: RouterConfig) -> None:
    registry = SharedReplicaRegistry(config, health_checks=False)
    registry.reload(dataclasses.replace(config, replicas=[ReplicaEndpoint(OTHER)]))
    async with registry:
        assert [one.url for one in registry.all()] == [OTHER]
