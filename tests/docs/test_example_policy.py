"""The policy of examples/policies on real registries: by name in this process, by an entry point in a program."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from examples.policies.same_zone import label_first
from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.selection import policies, register_policy
from tests.support.programs import EXAMPLES, SECONDS, answer, free_port, mock_replica, program
from tests.support.until import until

A1, A2, B1 = (f"http://{name}:8000" for name in ("a1", "a2", "b1"))
ZONES = {A1: "a", A2: "a", B1: "b"}


class Fleet:
    """Probes that fail where the test says."""

    def __init__(self) -> None:
        self.down: set[str] = set()

    async def probe(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.0, "refused" if any(url.startswith(down) for down in self.down) else None


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(policies._policies)
    for zone in ("a", "b"):
        register_policy(f"zone_{zone}", label_first("zone", zone))
    yield
    policies._policies.clear()
    policies._policies.update(before)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
async def routers(server: EmbeddedServer, namespace: str, fleet: Fleet) -> AsyncIterator[list[SharedReplicaRegistry]]:
    """A router in zone a and one in zone b."""
    async with AsyncExitStack() as stack:
        running = []
        for zone in ("a", "b"):
            config = RouterConfig(
                redis_url=server.url,
                namespace=namespace,
                replicas=[ReplicaEndpoint(url, labels={"zone": where}) for url, where in ZONES.items()],
                policy=f"zone_{zone}",
                health_check_interval_seconds=0.05,
                fast_interval_seconds=0.05,
                failure_threshold=1,
            )
            running.append(await stack.enter_async_context(SharedReplicaRegistry(config, http_get=fleet.probe)))
        await until(lambda: all(replica.is_healthy for registry in running for replica in registry.all()))
        yield running


def shares(registry: SharedReplicaRegistry, *exclude: str) -> Counter[str]:
    return Counter(replica.key for _ in range(12) if (replica := registry.select(exclude=exclude)))


async def test_each_router_prefers_its_own_zone(routers: list[SharedReplicaRegistry], fleet: Fleet) -> None:
    in_a, in_b = routers
    assert shares(in_a) == {A1: 6, A2: 6}
    assert shares(in_b) == {B1: 12}
    assert shares(in_a, A1) == {A2: 12}
    assert shares(in_a, A1, A2) == {B1: 12}
    assert shares(in_b, B1) == {A1: 6, A2: 6}
    assert not shares(in_b, A1, A2, B1)
    fleet.down = {A1, A2}
    await until(lambda: shares(in_a) == {B1: 12})
    fleet.down = {B1}
    await until(lambda: shares(in_b) == {A1: 6, A2: 6})


async def test_a_changed_label_moves_a_replica_at_once(routers: list[SharedReplicaRegistry]) -> None:
    in_a, in_b = routers
    await in_a.register(A2, labels={"zone": "b"})
    assert shares(in_a) == {A1: 12}
    await until(lambda: shares(in_b) == {A2: 6, B1: 6})
    await in_a.register(A2, labels={})
    assert shares(in_a) == {A1: 12}
    await until(lambda: shares(in_b) == {B1: 12})


def test_a_program_finds_the_policy_by_an_entry_point(server: EmbeddedServer, namespace: str, tmp_path: Path) -> None:
    """As where a package with nothing but the example is installed."""
    package = tmp_path / "same_zone-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: same-zone\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[shared_registry.policies]\nsame_zone = same_zone:same_zone\n")
    (tmp_path / "same_zone.py").write_text((EXAMPLES / "policies" / "same_zone.py").read_text())
    with ExitStack() as stack:
        urls = {zone: stack.enter_context(mock_replica(zone)) for zone in ("a", "b")}
        replicas = [{"url": url, "labels": {"zone": zone}} for zone, url in urls.items()]
        port = free_port()
        app = ("-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port), "--log-level", "warning")
        variables = {
            "SHARED_REGISTRY_REDIS_URL": server.url,
            "SHARED_REGISTRY_NAMESPACE": namespace,
            "SHARED_REGISTRY_HEALTH_CHECK_INTERVAL_SECONDS": "0.2",
            "SHARED_REGISTRY_REPLICAS": json.dumps(replicas),
            "SHARED_REGISTRY_POLICY": "same_zone",
            "PYTHONPATH": str(tmp_path),
            "ZONE": "b",
        }
        stack.enter_context(program(*app, "starlette_app:app", **variables))
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + SECONDS
        while {one["status"] for one in answer(f"{base}/replicas").json()["replicas"]} != {"healthy"}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(4):
            sent_to = answer(f"{base}/generate", status=307, method="POST").headers["location"]
            assert sent_to == f"{urls['b']}/v1/generate"
