"""A primary that sentinels watch is replaced: every connection leads to the new one afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, exceptions

from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded import server as embedded
from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.store.channel import bounded
from shared_registry.store.client import connect
from shared_registry.store.pools import RenewingSentinelPool
from tests.store.test_demotion import KEYS, Pair, pair, registry, uses
from tests.support.space import A
from tests.support.until import until

__all__ = ["pair"]


async def test_routers_follow_the_sentinels_to_the_new_primary(
    pair: Pair, redis_binary: Path, own_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    port = embedded._free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"bind 127.0.0.1\nport {port}\nsentinel monitor main 127.0.0.1 {pair.old.port} 1\n"
        "sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 6000\n"
    )
    with (tmp_path / "log").open("wb") as log:
        process = BoundProcess([redis_binary, conf, "--sentinel"], cwd=tmp_path, output=log)
    try:
        with Redis(port=port, decode_responses=True) as sentinel:

            def knows_both() -> bool:
                if process.poll() is not None:
                    pytest.skip("this server cannot be a sentinel")
                with contextlib.suppress(exceptions.RedisError):
                    return len(sentinel.execute_command("SENTINEL REPLICAS", "main")) == 1
                return False

            await until(knows_both, seconds=30)
            url = f"redis+sentinel://127.0.0.1:{port}/main/0"
            async with registry(url) as one, registry(url) as other:
                await until(lambda: bool(pair.raw_new.exists(KEYS.replica(A))), seconds=30)
                await until(lambda: begins(sentinel), seconds=30)
                await until(lambda: primary_of(sentinel) == pair.new.port, seconds=30)
                before = heartbeats(pair.raw_new)
                await until(lambda: all(heartbeats(pair.raw_new)[key] > at for key, at in before.items()), seconds=30)
                await asyncio.sleep(2)
                on_old, on_new = scripts_run(pair.raw_old), scripts_run(pair.raw_new)
                await until(lambda: scripts_run(pair.raw_new) >= on_new + 6)
                assert scripts_run(pair.raw_old) == on_old, "it is not demoted yet, and what is written there is lost"
                pair.demote()
                await uses(pair, one, other)
    finally:
        process.kill()


@pytest.fixture
async def sentinel_port(
    redis_binary: Path, own_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> AsyncIterator[int]:
    """A sentinel that knows the primary `main`."""
    server = own_server()
    port = embedded._free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(f"bind 127.0.0.1\nport {port}\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    with (tmp_path / "log").open("wb") as log:
        process = BoundProcess([redis_binary, conf, "--sentinel"], cwd=tmp_path, output=log)
    try:
        with Redis(port=port, decode_responses=True) as sentinel:

            def knows_it() -> bool:
                if process.poll() is not None:
                    pytest.skip("this server cannot be a sentinel")
                with contextlib.suppress(exceptions.RedisError):
                    return primary_of(sentinel) == server.port
                return False

            await until(knows_it, seconds=30)
        yield port
    finally:
        process.kill()


async def test_a_silent_first_sentinel_does_not_hide_the_second(sentinel_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{sentinel_port}"
        clients = connect(f"redis+sentinel://{hosts}/main/0", timeout_seconds=4, block_seconds=1)
        try:
            async with bounded(4):
                assert await clients.commands.ping()
        finally:
            await clients.close()


async def test_a_blocked_event_loop_condemns_no_sentinel(sentinel_port: int) -> None:
    """The loop is blocked when 20 clients have had 1 to 20 turns of it: in every stage of connecting and asking."""
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel_port}/main/0"
    for most in (5, 10, 15, 20):
        asking = []
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                clients = connect(url, timeout_seconds=1.5, block_seconds=1)
                stack.push_async_callback(clients.close)
                pool: RenewingSentinelPool = clients.commands.connection_pool
                asking.append(asyncio.ensure_future(pool.get_master_address()))
                await asyncio.sleep(0)
            for _ in range(most - 5):
                await asyncio.sleep(0)
            time.sleep(0.6)  # noqa: ASYNC251  longer than a sentinel's share
            assert all(await asyncio.gather(*asking))


def scripts_run(raw: Redis) -> int:
    calls = raw.info("commandstats")
    return sum(calls.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


def heartbeats(raw: Any) -> dict[str, float]:
    """Return until when each router lives by its last heartbeat."""
    return dict(raw.zrange(KEYS.routers, 0, -1, withscores=True))


def begins(sentinel: Redis) -> bool:
    """Whether a failover begins: a sentinel refuses until it has heard enough of the replica."""
    with contextlib.suppress(exceptions.ResponseError):
        return bool(sentinel.execute_command("SENTINEL FAILOVER", "main"))
    return False


def primary_of(sentinel: Redis) -> int:
    return int(sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", "main")[1])
