"""Mirrors under faults: at the end every one equals the truth, and on the way none shows what never was."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared_registry import RegistryError, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.effort import some_of
from tests.support.faulty_proxy import FaultyProxy
from tests.support.watched_mirrors import Watched, truth, watched

CHANGES = some_of(1000)
MIRRORS = 4
URLS = [f"http://10.0.0.{number}:8000" for number in range(1, 13)]
NAMESPACE = "faults"
RECOVERY_LIMIT_SECONDS = 20.0


def config(url: str) -> RouterConfig:
    return RouterConfig(
        redis_url=url,
        namespace=NAMESPACE,
        refresh_seconds=0.2,
        heartbeat_seconds=0.2,
        redis_timeout_seconds=0.5,
        replicas=[ReplicaEndpoint(URLS[0], primary=True)],
    )


@contextlib.asynccontextmanager
async def cluster(server: EmbeddedServer) -> AsyncIterator[tuple[SharedReplicaRegistry, FaultyProxy, list[Watched]]]:
    """Yield a writer with a clean connection, and mirrors behind the proxy."""
    async with FaultyProxy(server.port) as proxy, contextlib.AsyncExitStack() as stack:
        writer = await stack.enter_async_context(SharedReplicaRegistry(config(server.url), health_checks=False))
        yield writer, proxy, [await stack.enter_async_context(watched(config(proxy.url))) for _ in range(MIRRORS)]


async def change(writer: SharedReplicaRegistry, rng: random.Random) -> None:
    """Make one random change; one that cannot be made now is no failure."""
    url = rng.choice(URLS)
    verbs: list[Callable[[], Awaitable[object]]] = [
        lambda: writer.register(ReplicaEndpoint(url, primary=rng.random() < 0.3, capacity=rng.randrange(3))),
        lambda: writer.register(url),
        lambda: writer.deregister(url),
        lambda: writer.drain(url, reason=str(rng.random())),
        lambda: writer.disable(url),
        lambda: writer.enable(url),
    ]
    replica = writer.get(url)
    if replica is not None:
        verbs += 3 * [lambda: writer.record_success(replica, recovery_threshold=1, latency_ms=1.0)]
        verbs += 3 * [lambda: writer.record_failure(replica, failure_threshold=1, reason="test")]
    with contextlib.suppress(RegistryError):
        await rng.choice(verbs)()


async def make_changes(writer: SharedReplicaRegistry, rng: random.Random, count: int = CHANGES) -> None:
    for _ in range(count):
        await change(writer, rng)
        await asyncio.sleep(0)


async def all_show_the_truth(writer: SharedReplicaRegistry, mirrors: list[Watched]) -> None:
    """Wait until every mirror shows what Redis holds.

    Raises:
        TimeoutError: That took too long.
    """
    async with asyncio.timeout(RECOVERY_LIMIT_SECONDS):
        while True:
            with contextlib.suppress(RegistryError):
                wanted = await truth(writer, NAMESPACE)
                history_ids = {one.registry.history_id for one in mirrors} | {writer.history_id}
                if len(history_ids) == 1 and all(one.shows() == wanted for one in mirrors):
                    return
            await asyncio.sleep(0.01)


async def assert_all_recover(
    what: str, writer: SharedReplicaRegistry, mirrors: list[Watched], *, history_went_back: bool = False
) -> None:
    """Wait until every mirror shows the truth, print how long it took, and look at what was seen on the way."""
    started = time.monotonic()
    try:
        await all_show_the_truth(writer, mirrors)
    except TimeoutError:
        pytest.fail(f"{[one.shows() for one in mirrors]} did not all become {await truth(writer, NAMESPACE)}")
    seconds = time.monotonic() - started
    print(f"\n{what}: all mirrors equal the truth {seconds:.2f} s after the last fault")  # noqa: T201  it is a figure
    for one in mirrors:
        assert one.backward_steps == [] or history_went_back
        assert one.registry.select() is None or one.registry.select() in one.registry.all()
    assert await writer.check() == []


def network_faults(proxy: FaultyProxy) -> list[Callable[[], None]]:
    def set_one(name: str, value: object) -> Callable[[], None]:
        return lambda: setattr(proxy, name, value)

    return [
        proxy.cut,
        proxy.cut,
        proxy.heal,
        set_one("cuts_at_reply", True),
        set_one("delay_seconds", 0.02),
        set_one("piece_bytes", 7),
        set_one("loses_commands", True),
        set_one("loses_replies", True),
        set_one("refuses", True),
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_mirrors_recover_from_network_faults(own_server: Callable[..., EmbeddedServer], seed: int) -> None:
    rng = random.Random(seed)
    async with cluster(own_server()) as (writer, proxy, mirrors):
        faults = network_faults(proxy)
        changes = asyncio.create_task(make_changes(writer, rng))
        while not changes.done():
            rng.choice(faults)()
            await asyncio.wait((changes,), timeout=rng.random() * 0.1)
        proxy.heal()
        proxy.cut()
        await changes
        await assert_all_recover("network faults", writer, mirrors)


async def kill_clients(redis: Redis) -> None:
    await redis.client_kill_filter(_type="normal", skipme=True)


async def flush_scripts(redis: Redis) -> None:
    await redis.script_flush()


async def trim_to_nothing(redis: Redis) -> None:
    await redis.xtrim(Keys(NAMESPACE).events, maxlen=0, approximate=False)


async def delete_stream(redis: Redis) -> None:
    await redis.delete(Keys(NAMESPACE).events)


async def flush_all(redis: Redis) -> None:
    await redis.flushall()


@pytest.mark.parametrize("fault", [kill_clients, flush_scripts, trim_to_nothing, delete_stream, flush_all])
async def test_mirrors_recover_from_faults_of_the_server(
    own_server: Callable[..., EmbeddedServer], fault: Callable[[Redis], Awaitable[None]]
) -> None:
    rng = random.Random(fault.__name__)
    server = own_server()
    async with cluster(server) as (writer, _, mirrors), Redis.from_url(server.url) as redis:
        for _ in range(10):
            await fault(redis)
            await make_changes(writer, rng, CHANGES // 10)
        await assert_all_recover(fault.__name__, writer, mirrors)


async def restart_with_data(server: EmbeddedServer, _copy: Path) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def restart_empty(server: EmbeddedServer, _copy: Path) -> None:
    await asyncio.to_thread(server.kill)
    (server.data_dir / "dump.rdb").unlink(missing_ok=True)
    shutil.rmtree(server.data_dir / "appendonlydir", ignore_errors=True)
    (server.data_dir / "appendonly.aof").unlink(missing_ok=True)
    await asyncio.to_thread(server.start)


async def restart_with_older_copy(server: EmbeddedServer, copy: Path) -> None:
    await asyncio.to_thread(server.kill)
    shutil.copy(copy, server.data_dir / "dump.rdb")
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize(
    ("restart", "persistence"),
    [
        (restart_with_data, {"appendonly": "yes", "appendfsync": "always"}),
        (restart_empty, {}),
        (restart_with_older_copy, {}),
    ],
)
async def test_mirrors_recover_from_restarts(
    own_server: Callable[..., EmbeddedServer],
    tmp_path: Path,
    restart: Callable[[EmbeddedServer, Path], Awaitable[None]],
    persistence: dict[str, str],
) -> None:
    rng = random.Random(restart.__name__)
    server = own_server(config=persistence, data_dir=tmp_path / "data")
    copy = tmp_path / "older.rdb"
    async with cluster(server) as (writer, _, mirrors):
        await make_changes(writer, rng, 50)
        async with Redis.from_url(server.url) as redis:
            await redis.save()
        shutil.copy(server.data_dir / "dump.rdb", copy)
        for _ in range(3):
            await make_changes(writer, rng, 100)
            if restart is restart_with_older_copy:
                await restart(server, copy)
            else:
                await all_show_the_truth(writer, mirrors)  # what is still on its way may rightly change a selection
                selected = [one.registry.select() for one in mirrors]
                await restart(server, copy)
                assert [one.registry.select() for one in mirrors] == selected
        went_back = restart is restart_with_older_copy
        await assert_all_recover(restart.__name__, writer, mirrors, history_went_back=went_back)
