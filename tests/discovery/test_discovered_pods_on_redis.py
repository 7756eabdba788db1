"""A whole registry that follows DNS and Kubernetes: what drains, what comes back, and what is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState
from tests.support.certificates import Authority
from tests.support.dns_server import NXDOMAIN, DnsServer, dns_server
from tests.support.kubernetes_api import KubernetesApi, endpoint, kubernetes_api
from tests.support.until import until

NAME = "replicas.example"


def config(server: EmbeddedServer, namespace: str, source: dict[str, Any]) -> RouterConfig:
    given: Any = [{"name": "pods", "interval_seconds": 0.1, **source}]
    return RouterConfig(redis_url=server.url, namespace=namespace, discovery=given)


def admin(registry: SharedReplicaRegistry, address: str) -> AdminState | None:
    replica = registry.get(f"http://{address}:8000")
    return replica.admin if replica is not None else None


@pytest.fixture
async def names() -> AsyncIterator[DnsServer]:
    async with dns_server() as names:
        yield names


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[KubernetesApi]:
    authority = Authority(tmp_path)
    (tmp_path / "token").write_text("first")
    async with kubernetes_api(authority.server()) as api:
        yield api


async def test_dns_failures_remove_nothing(server: EmbeddedServer, namespace: str, names: DnsServer) -> None:
    names.records[NAME, "A"] = ["127.0.0.1", "127.0.0.2"]
    source = {"kind": "dns", "host": NAME, "port": 8000, "nameservers": [names.address], "confirm_seconds": 0.5}
    async with SharedReplicaRegistry(config(server, namespace, source)) as registry:
        await until(lambda: len(registry.all()) == 2, "two replicas")
        for fault in ({"*": NXDOMAIN}, {}):
            names.faults = fault
            names.records = {(NAME, "TXT"): ['"x"']} if not fault else names.records
            asked = len(names.requests)
            await until(lambda seen=asked: len(names.requests) > seen + 20, "ten answers")  # type: ignore[misc]
            assert len(registry.all()) == 2
        names.records = {(NAME, "A"): ["127.0.0.2", "127.0.0.3"]}
        await until(lambda: admin(registry, "127.0.0.1") is None, "the removal")
        assert admin(registry, "127.0.0.3") is AdminState.ACTIVE


async def test_a_terminating_pod_drains(
    server: EmbeddedServer, namespace: str, api: KubernetesApi, tmp_path: Path
) -> None:
    one, two = "127.0.0.1", "127.0.0.2"
    await api.put("replicas-abc", endpoint(one, name="pod-1"), endpoint(two, name="pod-2"))
    source = {"kind": "kubernetes", "service": "replicas", "namespace": "models", "port": "http", "server": api.url}
    source |= {"ca_file": str(tmp_path / "authority.pem"), "token_file": str(tmp_path / "token")}
    async with SharedReplicaRegistry(config(server, namespace, source)) as registry:
        await until(lambda: len(registry.all()) == 2, "two replicas")
        assert {replica.record.source for replica in registry.all()} == {"kubernetes:pods"}
        await api.put("replicas-abc", endpoint(one, name="pod-1", terminating=True), endpoint(two, name="pod-2"))
        await until(lambda: admin(registry, one) is AdminState.DRAINING, "the drain")
        await api.put("replicas-abc", endpoint(one, name="pod-1"), endpoint(two, name="pod-2"))
        await until(lambda: admin(registry, one) is AdminState.ACTIVE, "the end of the drain")
        await registry.drain(f"http://{two}:8000", by="me")
        await api.put("replicas-abc", endpoint(one, name="pod-1"), endpoint(two, name="pod-2", terminating=True))
        await api.put("replicas-abc", endpoint(one, name="pod-1"), endpoint(two, name="pod-2"))
        await asyncio.sleep(0.5)
        assert admin(registry, two) is AdminState.DRAINING
        api.refuses = 503
        api.cut()
        await asyncio.sleep(0.5)
        assert len(registry.all()) == 2
        api.refuses = 0
        await api.put("replicas-abc", endpoint(one, name="pod-1"))
        await until(lambda: admin(registry, two) is None, "the removal")
        await api.put("replicas-abc", endpoint(one, name="pod-1"), endpoint("127.0.0.3", name="pod-2"))
        await until(lambda: admin(registry, "127.0.0.3") is AdminState.DRAINING, "a restarted pod stays drained")
