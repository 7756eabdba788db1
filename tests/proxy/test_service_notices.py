"""A router process as a service of systemd: when it is ready, that it reloads, lives and stops."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from shared_registry.embedded import EmbeddedServer
from shared_registry.proxy.service_notices import END_SECONDS
from tests.proxy.conftest import SECONDS, RouterProcess, StartProcess
from tests.support.backend import Backend
from tests.support.command import descendants
from tests.support.service_manager import ServiceManager
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with ServiceManager() as manager:
        yield manager


def service(manager: ServiceManager, **variables: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.name, **variables}


async def ended(router: RouterProcess) -> int:
    return await asyncio.to_thread(router.command.process.wait, SECONDS)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_service_is_ready_reloads_and_stops(
    start_process: StartProcess, backend: Backend, manager: ServiceManager, workers: int
) -> None:
    router = await start_process(backend.url, environ=service(manager), workers=workers, grace_seconds=7)
    await until(lambda: manager.has("READY"), "it is ready")
    assert manager.has("STATUS", f"serving on {router.url}")
    router.command.process.send_signal(signal.SIGHUP)
    await until(lambda: manager.has("RELOADING"), "it reloads")
    await until(lambda: manager.read()[-1] == {"READY": "1"}, "it has reloaded")
    router.command.process.send_signal(signal.SIGTERM)
    await until(lambda: manager.has("STOPPING"), "it stops")
    assert manager.has("EXTEND_TIMEOUT_USEC", str(round((7 + END_SECONDS) * 1e6)))
    assert await ended(router) == 0
    assert manager.read()[-1].keys() == {"STOPPING", "STATUS", "EXTEND_TIMEOUT_USEC"}
    assert manager.signs_of_life == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_missing_redis_delays_readiness_for_seconds_only(
    start_process: StartProcess, own_server: Callable[..., EmbeddedServer], manager: ServiceManager, workers: int
) -> None:
    redis = own_server()
    redis.stop()
    router = await start_process(redis_url=redis.url, environ=service(manager), workers=workers, wanted="waiting for")
    await manager.quiet_for(1.0)
    assert not manager.has("READY")
    await until(lambda: manager.has("READY"), "it is ready all the same")
    assert manager.has("STATUS", f"serving on {router.url}; waiting for Redis")
    redis.start()
    await until(lambda: manager.has("STATUS", f"serving on {router.url}"), "the status follows")


async def test_a_router_stopped_before_it_was_ready_never_says_so(
    start_process: StartProcess, own_server: Callable[..., EmbeddedServer], manager: ServiceManager
) -> None:
    redis = own_server()
    redis.stop()
    router = await start_process(redis_url=redis.url, environ=service(manager), wanted="waiting for")
    router.command.process.send_signal(signal.SIGTERM)
    assert await ended(router) == 0
    assert manager.has("STOPPING")
    assert not manager.has("READY")


async def test_signs_of_life_come_until_the_process_hangs(
    start_process: StartProcess, backend: Backend, manager: ServiceManager
) -> None:
    router = await start_process(backend.url, environ=service(manager, WATCHDOG_USEC="300000"))

    def has_lived() -> bool:
        manager.read()
        return manager.signs_of_life >= 5

    await until(has_lived, "signs of life come")
    process = router.command.process
    process.send_signal(signal.SIGSTOP)
    await until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T", "it hangs")
    manager.read()
    before = manager.signs_of_life
    await manager.quiet_for(0.5)
    assert manager.signs_of_life == before
    process.send_signal(signal.SIGCONT)
    await until(lambda: manager.read() and manager.signs_of_life > before, "it lives again")


async def test_a_worker_that_hangs_is_replaced_by_another(
    start_process: StartProcess, backend: Backend, manager: ServiceManager
) -> None:
    router = await start_process(backend.url, environ=service(manager, WATCHDOG_USEC="8000000"), workers=2)
    await until(lambda: manager.has("READY"), "it is ready")
    before = set(descendants(router.command.process.pid))
    victim = min(before)
    os.kill(victim, signal.SIGSTOP)
    await until(lambda: router.has_said("has not responded for 8 s; killing it"), "the watchdog ends it")

    def is_replaced() -> bool:
        now = set(descendants(router.command.process.pid))
        return len(now) == 2 and victim not in now

    await until(is_replaced, "another worker takes its place")
    assert before - {victim} < set(descendants(router.command.process.pid))
