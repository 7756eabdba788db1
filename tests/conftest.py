"""Real servers for tests, and time that stands still. A server is ours alone, and gone afterwards, whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded.server_binary import find_server_binary
from shared_registry.errors import ConfigError
from tests.support.effort import use_profile
from tests.support.fake_clock import FakeClock
from tests.support.faulty_proxy import FaultyProxy
from tests.support.space import Space, on_server

TESTS = Path(__file__).parent
STARTUP_SECONDS = 60.0
"""Within which a server has to start, on a machine that is busy with other tests."""
LONGEST = (
    "store/test_cluster_failover.py",
    "failover/test_sentinels.py",
    "failover/test_cluster.py",
    "cluster/test_out_of_descriptors.py",
    "cli/test_cli.py",
    "simulation/test_simulation.py",
    "leases/test_refused_writes.py",
    "demo/test_demo.py",
    "registry/test_busy_router.py",
    "proxy/test_queue.py",
    "telemetry/test_alerts.py",
    "store/test_demotion.py",
    "proxy/test_stopping.py",
    "cluster/test_leadership.py",
    "proxy/test_redis_connections.py",
    "proxy/test_framing.py",
    "mirror/test_lost_twice.py",
    "leases/test_leases_under_faults.py",
    "store/test_sentinel_failover.py",
    "fastvideo/test_original_health_loop.py",
)
"""The files that take longest begin first: begun late, one of them would run alone in the end."""

SLOW = (
    "announcing/test_announcements_under_faults.py",
    "announcing/test_dead_pods.py",
    "api/test_dashboard.py",
    "cli/test_cli_live.py",
    "cli/test_cli_operating.py",
    "cluster",
    "demo",
    "docs/test_examples.py",
    "docs/test_quickstart.py",
    "failover",
    "fastvideo/test_original_behaviour.py",
    "fastvideo/test_original_health_loop.py",
    "leases/test_refused_writes.py",
    "mirror/test_lost_twice.py",
    "mirror/test_mirror_under_faults.py",
    "model",
    "packaging",
    "probing/test_shared_probing_on_redis.py",
    "proxy/programs/test_chromium.py",
    "proxy/programs/test_edges.py",
    "proxy/test_queue.py",
    "registry/test_busy_router.py",
    "registry/test_health_rules_at_random.py",
    "registry/test_replica_scripts.py",
    "simulation/test_taken_out.py",
    "store/test_cluster_failover.py",
    "store/test_refusal_scripts.py",
    "store/test_repeated_scripts.py",
    "store/test_rights.py",
    "store/test_usual_scripts.py",
    "telemetry/test_alerts.py",
)
"""Folders and files that together take as long as all others: `make test` leaves them out, `make test-all` does not."""

use_profile()  # before any test module is imported, whose decorators take it over


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m does not choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that starts a server as `redis`, which CI runs again with other servers; begin with `LONGEST`."""
    for item in items:
        if item.get_closest_marker("alone") and item.path.parent.name != "cluster":
            raise pytest.UsageError(f"{item.nodeid}: .ci/test looks for tests that run alone in tests/cluster only")
        path = item.path.relative_to(TESTS).as_posix()
        if path in SLOW or path.partition("/")[0] in SLOW:
            item.add_marker("slow")
        if "redis_binary" in getattr(item, "fixturenames", ()):
            item.add_marker("redis")
    if missing := [name for name in (*LONGEST, *SLOW) if not (TESTS / name).exists()]:
        raise pytest.UsageError(f"tests/conftest.py: LONGEST or SLOW name what is not there: {', '.join(missing)}")
    ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def redis_binary() -> Path:
    """The server program to test against: SHARED_REGISTRY_TEST_SERVER, otherwise the embedded one."""
    chosen = os.environ.get("SHARED_REGISTRY_TEST_SERVER")
    if chosen:
        if not os.access(chosen, os.X_OK):
            pytest.fail(f"SHARED_REGISTRY_TEST_SERVER={chosen} is not a program")
        return Path(chosen)
    try:
        return find_server_binary()
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def server(redis_binary: Path) -> Iterator[EmbeddedServer]:
    """One server for the whole run. Tests share it: keep to `namespace`, and leave its settings alone."""
    with EmbeddedServer(binary=redis_binary, startup_seconds=STARTUP_SECONDS) as server:
        yield server


@pytest.fixture
def own_server(redis_binary: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    """Start a server for one test, which may kill, pause and restart it. Takes `EmbeddedServer`'s arguments."""
    usual = {"binary": redis_binary, "startup_seconds": STARTUP_SECONDS}
    with contextlib.ExitStack() as servers:

        def start(**options: Any) -> EmbeddedServer:
            server = servers.enter_context(EmbeddedServer(**{**usual, **options}))
            servers.callback(server.kill)  # in the end: a stop takes a tenth of a second, and nothing of it is needed
            return server

        yield start


@pytest.fixture
def namespace(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[str]:
    """A namespace on `server` that is this test's alone, named after it; its keys are deleted afterwards."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.name)[:40]
    namespace = f"{name}.{secrets.token_hex(6)}"
    yield namespace
    with Redis.from_url(server.url) as client:
        for key in client.scan_iter(match=f"sr:{{{namespace}}}:*", count=1000):
            client.delete(key)


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    """The namespace of this test, for commands, looks and damage."""
    async with on_server(server.url, namespace) as space:
        yield space


@pytest.fixture
async def stays_sound(space: Space) -> AsyncIterator[None]:
    """Check in the end that nothing in `space` contradicts anything else there."""
    yield
    assert await find_violations(space.reader, space.keys) == []


@pytest.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    """A way to `server` that breaks as the test says."""
    async with FaultyProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
