"""A primary that sentinels watch is replaced: every connection leads to the new one afterwards."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis, exceptions

from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded import server as embedded
from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.store.channel import bounded
from shared_registry.store.client import connect
from tests.faults.test_demotion import KEYS, Pair, pair, registry, uses
from tests.redis.support import A, until

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
                pair.demote()
                await uses(pair, one, other)
    finally:
        process.kill()


async def test_a_silent_first_sentinel_does_not_hide_the_second(
    redis_binary: Path, own_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    server = own_server()
    port = embedded._free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(f"bind 127.0.0.1\nport {port}\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    with (tmp_path / "log").open("wb") as log:
        process = BoundProcess([redis_binary, conf, "--sentinel"], cwd=tmp_path, output=log)
    try:
        with Redis(port=port, decode_responses=True) as sentinel, socket.create_server(("127.0.0.1", 0)) as silent:

            def knows_it() -> bool:
                if process.poll() is not None:
                    pytest.skip("this server cannot be a sentinel")
                with contextlib.suppress(exceptions.RedisError):
                    return primary_of(sentinel) == server.port
                return False

            await until(knows_it, seconds=30)
            hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{port}"
            clients = connect(f"redis+sentinel://{hosts}/main/0", timeout_seconds=4, block_seconds=1)
            try:
                async with bounded(4):
                    assert await clients.commands.ping()
            finally:
                await clients.close()
    finally:
        process.kill()


def begins(sentinel: Redis) -> bool:
    """Whether a failover begins: a sentinel refuses until it has heard enough of the replica."""
    with contextlib.suppress(exceptions.ResponseError):
        return bool(sentinel.execute_command("SENTINEL FAILOVER", "main"))
    return False


def primary_of(sentinel: Redis) -> int:
    return int(sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", "main")[1])
