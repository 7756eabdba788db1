"""However a registry's life begins and ends, nothing of it is left: no task, connection, thread, or entry in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from redis import asyncio as redis_asyncio

from shared_registry import (
    ReplicaEndpoint,
    RouterConfig,
    Saturated,
    SharedReplicaRegistry,
    StoreUnavailable,
    UsageError,
)
from shared_registry.embedded import EmbeddedServer
from shared_registry.registry.life import Life
from shared_registry.store.keys import Keys
from tests.support.command import environment
from tests.support.forking_process import A, healthy_probe
from tests.support.until import SECONDS, until, wait_for

IGNORED = "ignore:'asyncio.iscoroutinefunction' is deprecated:DeprecationWarning"
"""What redis-py causes with Python 3.14."""

Build = Callable[..., SharedReplicaRegistry]
LOOP_ENDS_EARLY = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Python reports what an event loop left open when it was closed."""


@pytest.fixture
def build(server: EmbeddedServer, namespace: str) -> Build:
    """Build registries whose connections carry the name of the test."""

    def build(*, url: str = server.url, expiry_seconds: float = 60.0, **options: Any) -> SharedReplicaRegistry:
        config = RouterConfig(
            redis_url=url,
            namespace=namespace,
            router_id=namespace[:60],
            replicas=[ReplicaEndpoint(A, capacity=1)],
            heartbeat_seconds=0.2,
            refresh_seconds=0.2,
            router_expiry_seconds=expiry_seconds,
            redis_timeout_seconds=10.0,
        )
        return SharedReplicaRegistry(config, http_get=healthy_probe, **options)

    return build


class Traces:
    """What a registry may leave behind."""

    def __init__(self, server: EmbeddedServer, namespace: str) -> None:
        self.namespace = namespace
        self.raw = Redis.from_url(server.url, decode_responses=True)
        self.threads = set(threading.enumerate())

    def routers(self) -> list[str]:
        return list(map(str, self.raw.zrange(Keys(self.namespace).routers, 0, -1)))

    def connections(self) -> list[dict[str, str]]:
        return [one for one in self.raw.client_list() if one["name"].startswith(self.namespace[:60])]

    def leader(self) -> object:
        return self.raw.hget(Keys(self.namespace).leader, "router")

    def new_threads(self) -> tuple[object, ...]:
        """Threads that were not there before."""
        return tuple(thread.name for thread in threading.enumerate() if thread not in self.threads)

    def none(self) -> bool:
        return not (self.routers() or self.leader() or self.connections() or self.new_threads())


@pytest.fixture
def traces(server: EmbeddedServer, namespace: str) -> Iterator[Traces]:
    """Find what is left of the registries of a test."""
    traces = Traces(server, namespace)
    yield traces
    traces.raw.close()


@pytest.fixture
async def nothing_left(traces: Traces) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Return a check that nothing is left, which is also made at the end."""
    others = asyncio.all_tasks()

    async def nothing_left() -> None:
        assert not traces.routers()
        assert traces.leader() is None
        left = asyncio.all_tasks() - others - {asyncio.current_task()}
        assert left == set()
        await until(traces.none, "no connection or thread is left")

    yield nothing_left
    await nothing_left()


async def test_of_two_starts_at_once_one_is_refused(build: Build, nothing_left: object) -> None:
    registry = build()
    first, second = await asyncio.gather(registry.start(), registry.start(), return_exceptions=True)
    assert first is None
    assert isinstance(second, UsageError)
    assert "started already" in str(second)
    assert registry.is_started, "the refused start disturbed nothing"
    await registry.stop()


async def test_a_stop_ends_a_start_that_waits(build: Build, own_server: Any, server: EmbeddedServer) -> None:
    others = asyncio.all_tasks()
    away = own_server()
    away.kill()
    registry = build(url=away.url)
    starting = asyncio.create_task(registry.start())
    await until(lambda: len(asyncio.all_tasks() - others) > 1)
    await registry.stop()
    with pytest.raises(UsageError, match=r"stopped during start\(\)"):
        await starting
    assert not registry.is_started
    await asyncio.to_thread(away.start)
    assert asyncio.all_tasks() == others
    raw = Redis.from_url(away.url)
    assert raw.keys() == []
    raw.close()


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_a_stop_at_any_point_of_start_leaves_nothing(
    build: Build, nothing_left: Callable[[], Awaitable[None]], steps: int
) -> None:
    registry = build()
    starting = asyncio.create_task(registry.start())
    for _ in range(steps):
        await asyncio.sleep(0)
    await registry.stop()
    await nothing_left() if starting.done() else None
    with contextlib.suppress(UsageError):
        await starting
    if registry.is_started:  # the stop came before the start
        assert steps == 0
        await registry.stop()


async def test_a_cancelled_or_late_start_leaves_nothing(
    build: Build, nothing_left: Callable[[], Awaitable[None]]
) -> None:
    registry = build()
    for steps in range(0, 60, 3):
        starting = asyncio.create_task(registry.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if registry.is_started:
            await registry.stop()
        await nothing_left()
    with pytest.raises(StoreUnavailable, match="within 0 s"):
        await registry.start(timeout_seconds=0)


@pytest.mark.parametrize("steps", range(0, 40, 2))
async def test_a_stop_after_a_cancelled_one_does_the_rest(build: Build, nothing_left: object, steps: int) -> None:
    registry = build()
    await registry.start()
    await until(lambda: registry.is_leader)
    first = asyncio.create_task(registry.stop())
    for _ in range(steps):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    if steps:
        assert not registry.is_started
    await registry.stop()


async def test_a_cancelled_stop_goes_on_by_itself(build: Build, traces: Traces, nothing_left: object) -> None:
    registry = build()
    await registry.start()
    stopping = asyncio.create_task(registry.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    await until(lambda: not traces.routers())
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("shared_registry ")])


async def test_stops_at_once_all_wait_for_the_end(
    build: Build, traces: Traces, nothing_left: Callable[[], Awaitable[None]]
) -> None:
    registry = build()
    await registry.start()
    await until(lambda: registry.is_leader)
    stops = [asyncio.create_task(registry.stop()) for _ in range(5)]
    await asyncio.wait(stops, return_when=asyncio.FIRST_COMPLETED)
    assert not traces.routers()
    await asyncio.gather(*stops)
    await nothing_left()
    await registry.stop()


async def test_a_start_during_a_stop_follows_it(build: Build, traces: Traces, nothing_left: object) -> None:
    registry = build()
    await registry.start()
    former = registry.router_key
    stopping = asyncio.create_task(registry.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    results = await asyncio.gather(registry.start(), registry.start(), return_exceptions=True)
    assert sorted(isinstance(one, UsageError) for one in results) == [False, True]
    assert registry.is_started
    assert traces.routers() == [registry.router_key] != [former]
    await (await registry.acquire(timeout=SECONDS)).release()
    await registry.stop()


async def test_a_stopped_registry_shows_its_last_view(build: Build, nothing_left: object) -> None:
    registry = build()
    async with registry:
        await until(lambda: registry.select() is not None)
        lease = await registry.acquire()
    selected = registry.select()
    assert selected is not None
    assert selected.url == A
    assert [one.url for one in registry.all()] == [A]
    with pytest.raises(UsageError, match="is not started"):
        await registry.acquire()
    with pytest.raises(UsageError, match="is not started"):
        await registry.wait_ready()
    await lease.release()
    await registry.record_failure(selected, failure_threshold=3, reason="refused")
    await registry.drain(A, by="me")
    assert (await registry.events())[-1].by == "me"
    await registry.stop()


async def test_waiting_for_health_ends_with_the_first_verdict(
    build: Build, nothing_left: object, caplog: pytest.LogCaptureFixture
) -> None:
    registry = build()
    await registry.start(wait_healthy=SECONDS)
    assert registry.select() is not None
    await registry.stop()
    without = build(health_checks=False)
    await without.disable(A)
    with caplog.at_level(logging.WARNING, "shared_registry"):
        await without.start(wait_healthy=0.05)
    assert "no replica can be selected 0.05 s after the start" in caplog.text
    assert without.is_started
    await without.stop()


async def test_a_stop_ends_a_start_that_waits_for_health(build: Build, nothing_left: object) -> None:
    registry = build(health_checks=False)
    starting = asyncio.create_task(registry.start(wait_healthy=SECONDS))
    await until(lambda: registry.is_started)
    await registry.stop()
    with pytest.raises(UsageError, match=r"the registry was stopped during start\(\)"):
        await starting


async def use(registry: SharedReplicaRegistry) -> None:
    """Take the one slot, and wait for it once more."""
    lease = await registry.acquire(timeout=SECONDS)
    with pytest.raises(Saturated):
        await registry.acquire()
    waiting = asyncio.create_task(registry.acquire(timeout=SECONDS))
    await asyncio.sleep(0.01)
    await lease.release()
    await (await waiting).release()


def test_a_registry_works_in_several_event_loops(build: Build, traces: Traces) -> None:
    registry = build()

    async def run(*, stops: bool) -> None:
        await registry.start()
        await use(registry)
        if stops:
            await registry.stop()

    for stops in (True, False, False, True):
        asyncio.run(run(stops=stops))
        wait_for(traces.none, "the end of the loop was the end of the router")
        assert not registry.is_started


@LOOP_ENDS_EARLY
def test_what_a_closed_loop_left_goes_with_the_next(build: Build, traces: Traces) -> None:
    registry = build()
    for verb in ("start", "stop"):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(registry.start())
        (former,) = traces.routers()
        loop.close()

        async def go_on(verb: str = verb, former: str = former) -> None:
            with pytest.raises(UsageError, match="is not started"):
                await registry.acquire()
            if verb == "start":
                await registry.start()
                assert traces.routers() == [registry.router_key] != [former]
                await use(registry)
            await registry.stop()

        asyncio.run(go_on())
        gc.collect()
        wait_for(traces.none)


def test_a_registry_of_a_running_loop_is_refused_elsewhere(build: Build, traces: Traces) -> None:
    registry = build()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(registry.start())

    async def refuse() -> None:
        for attempt in (registry.start, registry.stop, registry.acquire):
            with pytest.raises(UsageError, match="another event loop"):
                await attempt()

    asyncio.run(refuse())
    loop.run_until_complete(use(registry))
    loop.run_until_complete(registry.stop())
    loop.close()
    wait_for(traces.none)


def test_a_client_of_another_loop_is_refused_by_name(build: Build, server: EmbeddedServer, traces: Traces) -> None:
    client = redis_asyncio.Redis.from_url(server.url, decode_responses=True)
    registry = build(redis=client)

    async def run() -> None:
        async with registry:
            await use(registry)
        await client.aclose()

    asyncio.run(run())
    with pytest.raises(UsageError, match="build client and registry in this one"):
        asyncio.run(run())
    assert not traces.routers()


@LOOP_ENDS_EARLY
def test_calls_without_a_start_are_bound_to_no_loop(build: Build, traces: Traces) -> None:
    registry = build()

    async def read() -> None:
        await registry.events()

    async def read_and_stop() -> None:
        await registry.events()
        await registry.stop()

    asyncio.run(read_and_stop())
    wait_for(traces.none)
    asyncio.run(read())

    async def run() -> None:
        async with registry:
            await use(registry)

    asyncio.run(run())
    gc.collect()
    wait_for(traces.none)


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "1 / 0"])
def test_a_program_that_ends_without_stop_leaves_nothing(
    server: EmbeddedServer, namespace: str, traces: Traces, end: str
) -> None:
    program = f"""
import asyncio, sys
from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry

async def main():
    registry = SharedReplicaRegistry(RouterConfig(
        redis_url={server.url!r}, namespace={namespace!r}, router_id={namespace[:60]!r}, router_expiry_seconds=60,
        replicas=[ReplicaEndpoint("http://127.0.0.1:9")]))
    await registry.start()
    await asyncio.sleep(0.1)
    {end}

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-W", IGNORED, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
        check=False,
    )
    assert done.returncode == {"": 0, "sys.exit(3)": 3}.get(end, 1), done.stderr
    if not done.returncode or end.startswith("sys"):
        assert done.stderr == ""
    assert "shared_registry/registry" not in done.stderr
    wait_for(traces.none)


async def test_an_end_that_is_asked_for_twice_is_not_disturbed() -> None:
    may_close, closings = asyncio.Event(), []

    async def join() -> None:
        pass

    async def close() -> None:
        await may_close.wait()
        closings.append("done")

    life = Life("life", join=join, work=asyncio.Event().wait, close=close)  # type: ignore[arg-type]
    await life.joined()
    for _ in range(3):
        life.end()
        for _ in range(5):
            await asyncio.sleep(0)
    assert (life.is_running, life.is_ending, life.is_over) == (False, True, False)
    may_close.set()
    await life.over()
    assert closings == ["done"]


async def test_a_life_ended_before_its_first_step_closes_too() -> None:
    closings = []

    async def close() -> None:
        closings.append("done")

    life = Life("life", close=close)
    life.end()
    await life.over()
    assert closings == ["done"]
