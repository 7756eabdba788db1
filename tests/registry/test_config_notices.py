"""What a config asks for and does not get is logged once at the start, by name and reason."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer

A, B = "http://replica-a:8000", "http://replica-b:8000"
Notices = Callable[[], list[str]]
Build = Callable[..., SharedReplicaRegistry]


@pytest.fixture
def build(server: EmbeddedServer, namespace: str) -> Build:
    def build(*replicas: ReplicaEndpoint | str) -> SharedReplicaRegistry:
        specs = [ReplicaEndpoint(one) if isinstance(one, str) else one for one in replicas]
        config = RouterConfig(redis_url=server.url, namespace=namespace, replicas=specs)
        return SharedReplicaRegistry(config, health_checks=False)

    return build


@pytest.fixture
def notices(caplog: pytest.LogCaptureFixture) -> Notices:
    """Return the notices logged since the last call."""
    caplog.set_level(logging.INFO, "shared_registry")

    def notices() -> list[str]:
        found = [one.getMessage() for one in caplog.records if one.getMessage().startswith("config: ")]
        caplog.clear()
        return found

    return notices


async def test_a_removed_replica_is_named_with_who_and_why(build: Build, notices: Notices) -> None:
    async with build(ReplicaEndpoint(A, "gpu-1"), B) as registry:
        assert notices() == []
        await registry.deregister(A, by="ops@host", reason="sold")
    for _ in range(2):
        async with build(A, B) as registry:
            (notice,) = notices()
            assert notice.startswith(f"config: replica gpu-1 {A} was removed at 20")
            assert " UTC by ops@host (sold) and stays removed; delete it from the config, or" in notice
            assert [one.url for one in registry.all()] == [B]
    async with build(B) as registry:
        await registry.register(A, by="ops@host")
    async with build(A, B):
        assert notices() == [], "an operator has added it again"


async def test_overridden_attributes_are_named_with_both_values(build: Build, notices: Notices) -> None:
    async with build(A) as registry:
        await registry.register(ReplicaEndpoint(A, capacity=5), by="ops@host")
    async with build(ReplicaEndpoint(A, "gpu-1", weight=7, order=3)) as registry:
        (notice,) = notices()
        assert registry.all()[0].endpoint.weight == 1.0
    assert notice == (
        f"config: replica gpu-1 {A} stays as an operator has set it: name None is registered, 'gpu-1' configured; "
        "weight 1.0 is registered, 7.0 configured; capacity 5 is registered, 0 configured; "
        "order 0 is registered, 3 configured; change it with `shared-registry add`"
    )
    async with build(ReplicaEndpoint(A, capacity=5)):
        assert notices() == [], "the config asks for what the operator has set"


async def test_configs_that_disagree_are_reported(build: Build, notices: Notices) -> None:
    async with build(ReplicaEndpoint(A, weight=2)) as first:
        assert notices() == []
        async with build(ReplicaEndpoint(A, weight=3)):
            (notice,) = notices()
            assert f"replica {A} was registered from another config, and now has the values of this one" in notice
            assert "weight 2.0 is registered, 3.0 configured" in notice
            event = (await first.events())[-1]
            assert (event.kind.value, event.by) == ("replica_updated", "config")
    async with build(ReplicaEndpoint(A, weight=3)):
        assert notices() == []
