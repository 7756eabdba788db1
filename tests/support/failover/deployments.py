"""How people run Redis: one server, a pair behind sentinels, a pair behind one address, a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.errors import StoreUnavailable
from tests.support.faulty_proxy import FaultyProxy
from tests.support.programs import free_port
from tests.support.redis_cluster import RedisCluster, formed
from tests.support.until import until

StartServer = Callable[..., EmbeddedServer]
SENTINELS = 3
PROMPT = {"repl-diskless-sync-delay": 0}


class Deployment:
    """One server, which the other deployments extend.

    Attributes:
        servers: All servers. The first one is the primary in the beginning.
        raws: A client of each of them.
        primary: The number of the present primary.
        namespace: The namespace that the routers use.
    """

    namespace = "failover"

    def __init__(self, servers: list[EmbeddedServer], url: str = "") -> None:
        self.servers = servers
        self.raws: list[Any] = [Redis.from_url(each.url, decode_responses=True, socket_timeout=5) for each in servers]
        self.primary = 0
        self.url = url or servers[0].url

    @property
    def server(self) -> EmbeddedServer:
        return self.servers[self.primary]

    @property
    def raw(self) -> Any:
        """A client of the present primary."""
        return self.raws[self.primary]

    def close(self) -> None:
        for raw in self.raws:
            raw.close()

    def is_in_sync(self, replica: int) -> bool:
        """Return whether a server is a replica that has all data."""
        with contextlib.suppress(RedisError):
            return bool(self.raws[replica].info("replication").get("master_link_status") == "up")
        return False

    async def copied(self) -> None:
        """Wait until the replica has what was written until now."""

        def is_copied() -> bool:
            self.raw.set("written-last", 1)
            return bool(self.raw.wait(1, 2000) == 1)

        await until(is_copied)


class SentinelDeployment(Deployment):
    """A primary and its replica, watched by sentinels."""

    def __init__(self, servers: list[EmbeddedServer], ports: list[int]) -> None:
        super().__init__(servers, "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/main/0")
        self._sentinels: list[Any] = [Redis(port=port, decode_responses=True, socket_timeout=5) for port in ports]

    def close(self) -> None:
        super().close()
        for sentinel in self._sentinels:
            sentinel.close()

    def named(self) -> set[int]:
        """Return the ports that the sentinels name as the primary's."""
        ports = set()
        for sentinel in self._sentinels:
            with contextlib.suppress(RedisError):
                ports.add(int(sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", "main")[1]))
        return ports

    async def until_new_is_named(self) -> None:
        """Wait until a sentinel names the other server, which is the primary from then on."""
        new = self.servers[1 - self.primary].port
        await until(lambda: new in self.named(), "a sentinel names the new primary", 60)
        self.primary = 1 - self.primary

    async def until_known(self) -> None:
        """Wait until every sentinel knows the replica and the other sentinels."""
        await until(self._know_all, "the sentinels know each other", 60)

    def _know_all(self) -> bool:
        with contextlib.suppress(RedisError, IndexError):
            for sentinel in self._sentinels:
                (state,) = sentinel.sentinel_masters().values()
                if state["num-other-sentinels"] != SENTINELS - 1 or state["num-slaves"] != 1:
                    return False
            return True
        return False

    async def begin_failover(self) -> None:
        """Order a planned failover. A sentinel refuses until it knows enough of the replica."""

        def begins() -> bool:
            with contextlib.suppress(ResponseError):
                return bool(self._sentinels[0].execute_command("SENTINEL FAILOVER", "main"))
            return False

        await until(begins, "the failover begins", 60)


class OneAddress(Deployment):
    """A primary and its replica behind one address, which leads to the one or the other."""

    def __init__(self, servers: list[EmbeddedServer], address: FaultyProxy) -> None:
        super().__init__(servers, address.url)
        self.address = address


class ClusterDeployment(Deployment):
    """Three shards of a cluster, each a primary and its replica. The namespace is in the first slots of shard 0."""

    def __init__(self, cluster: RedisCluster) -> None:
        super().__init__(list(cluster.nodes), cluster.url)
        self.cluster = cluster
        self.namespace = cluster.namespace_in_first(LOW_SLOTS)

    def id_of(self, node: int) -> str:
        return str(self.raws[node].execute_command("CLUSTER", "MYID"))


LOW_SLOTS = 20
"""So many slots are moved together with the one of the namespace."""


@contextlib.asynccontextmanager
async def standalone(start: StartServer, directory: Path, binary: Path) -> AsyncIterator[Deployment]:
    """Run one server, which saves its data when it ends."""
    server = start(config={"save": "3600 1"})
    with contextlib.closing(Deployment([server])) as deployment:
        yield deployment


@contextlib.asynccontextmanager
async def sentinels(start: StartServer, directory: Path, binary: Path) -> AsyncIterator[Deployment]:
    """Run a pair and its sentinels."""
    servers = _pair(start)
    ports = [free_port() for _ in range(SENTINELS)]
    with contextlib.ExitStack() as stack:
        for port in ports:
            conf, log = directory / f"sentinel-{port}.conf", directory / f"sentinel-{port}.log"
            conf.write_text(
                f"bind 127.0.0.1\nport {port}\nsentinel monitor main 127.0.0.1 {servers[0].port} 2\n"
                "sentinel down-after-milliseconds main 1500\nsentinel failover-timeout main 10000\n"
            )
            file = stack.enter_context(log.open("wb"))
            process = BoundProcess([binary, conf, "--sentinel"], cwd=directory, output=file)
            stack.callback(process.kill)
        await asyncio.sleep(0.2)
        if process.poll() is not None:
            pytest.skip("this server cannot be a sentinel")
        deployment = stack.enter_context(contextlib.closing(SentinelDeployment(servers, ports)))
        await until(lambda: deployment.is_in_sync(1), seconds=60)
        yield deployment


@contextlib.asynccontextmanager
async def one_address(start: StartServer, directory: Path, binary: Path) -> AsyncIterator[Deployment]:
    """Run a pair behind one address."""
    servers = _pair(start)
    async with FaultyProxy(servers[0].port) as address:
        with contextlib.closing(OneAddress(servers, address)) as deployment:
            await until(lambda: deployment.is_in_sync(1), seconds=60)
            yield deployment


@contextlib.asynccontextmanager
async def cluster(start: StartServer, directory: Path, binary: Path) -> AsyncIterator[Deployment]:
    """Run a cluster."""
    try:
        nodes = await formed(start)
    except StoreUnavailable as error:
        pytest.skip(f"this server cannot form a cluster: {error}")
    with contextlib.closing(nodes), contextlib.closing(ClusterDeployment(nodes)) as deployment:
        yield deployment


def _pair(start: StartServer) -> list[EmbeddedServer]:
    servers = [start(config=PROMPT) for _ in range(2)]
    with Redis.from_url(servers[1].url) as raw:
        raw.replicaof("127.0.0.1", servers[0].port)
    return servers
