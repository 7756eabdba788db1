"""A router that has nothing to do: each time that it wakes costs CPU, so that it wakes seldom."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import shared_registry
from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import StartRouter
from tests.support.until import until, wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEARTBEATS = 4
MOST_AT_A_HEARTBEAT = 5
PACKAGE = str(Path(shared_registry.__file__).parent)


@contextmanager
def leading_elsewhere(config: RouterConfig) -> Iterator[None]:
    """Let a router of another thread be the leader."""
    ending, leads = threading.Event(), threading.Event()

    async def lead() -> None:
        async with SharedReplicaRegistry(config) as registry:
            await until(lambda: registry.is_leader)
            leads.set()
            await asyncio.to_thread(ending.wait)

    thread = threading.Thread(target=lambda: asyncio.run(lead()))
    thread.start()
    try:
        wait_for(leads.is_set, "it leads")
        yield
    finally:
        ending.set()
        thread.join()


class Alarms:
    """Counts the timers of the package that went off in a loop, by the file that has set them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        for name in ("call_later", "call_at"):
            monkeypatch.setattr(loop, name, self._counted(getattr(loop, name)), raising=False)

    def _counted(self, schedule: Callable[..., Any]) -> Callable[..., Any]:
        def scheduled(when: float, callback: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
            place = _place(sys._getframe(1))

            def went_off(*given: Any) -> None:
                if place:
                    self.counts[place] += 1
                callback(*given)

            return schedule(when, went_off, *arguments, **more)

        return scheduled


def _place(frame: FrameType | None) -> str:
    """Return the highest file of the package on the stack that is not of `aio/`; empty if there is none."""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) and "/aio/" not in path:
            return path.removeprefix(PACKAGE)
        frame = frame.f_back
    return ""


async def test_a_router_with_nothing_to_do_wakes_seldom(
    start_router: StartRouter, server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seldom: dict[str, Any] = {
        "health_check_interval_seconds": 3600.0,
        "fast_interval_seconds": 1800.0,
        "heartbeat_seconds": 1.0,
    }
    config = RouterConfig(
        redis_url=server.url, namespace=namespace, replicas=[ReplicaEndpoint("http://127.0.0.1:9")], **seldom
    )
    with leading_elsewhere(config):
        router = await start_router(is_awaited=False, **seldom, lease_seconds=3.0, refresh_seconds=1.0, admin_port=0)
        await until(router.router.joined.is_set, "it has joined")
        alarms = Alarms(asyncio.get_running_loop(), monkeypatch)
        await until(lambda: alarms.counts["/registry/membership.py"], "a heartbeat")
        alarms.counts.clear()
        await until(lambda: alarms.counts["/registry/membership.py"] >= HEARTBEATS, "heartbeats")
    assert alarms.counts.total() <= HEARTBEATS * MOST_AT_A_HEARTBEAT, alarms.counts
