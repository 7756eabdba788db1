"""The clients: every form of url, on real servers; connections, cancellation, and what failures are called."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, exceptions
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode

from shared_registry.admin.inspector import Inspector
from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded import server as embedded
from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.errors import ConfigError, KeyConflict, StoreError, StoreRefused, StoreUnavailable
from shared_registry.model import ProbeResult, ReplicaEndpoint, Source, Term
from shared_registry.store import client
from shared_registry.store.answers import new_token
from shared_registry.store.channel import bounded
from shared_registry.store.client import Client, Clients
from shared_registry.store.commands import Store
from shared_registry.store.failures import meaning_of
from shared_registry.store.keys import Keys
from shared_registry.store.reader import Reader
from shared_registry.store.replies import Elected
from shared_registry.store.verification import verify_server
from tests.support.faulty_proxy import FaultyProxy
from tests.support.space import THRESHOLDS, A, info
from tests.support.until import until

OwnServer = Callable[..., EmbeddedServer]


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Clients]:
    clients = client.connect(url, timeout_seconds=5.0, block_seconds=1.0)
    try:
        yield clients
    finally:
        await clients.close()


async def test_a_connection_with_what_is_no_reply_is_replaced(own_server: OwnServer) -> None:
    async with FaultyProxy(own_server().port) as proxy, connected(proxy.url) as clients:
        for redis in (clients.commands, clients.blocking):
            await redis.ping()
            proxy.adds = b"\r\n"
            with contextlib.suppress(exceptions.RedisError):
                await redis.ping()
            with contextlib.suppress(exceptions.RedisError):
                await redis.ping()
            await redis.ping()


async def use_everything(clients: Clients, namespace: str) -> None:
    """Run the commands that differ most in the keys that they touch, and every kind of read."""
    keys = Keys(namespace)
    store = Store(clients, keys, router="router~1", timeout_seconds=5.0)
    reader = Inspector(clients, keys, timeout_seconds=5.0)
    await verify_server(clients.commands, "any", timeout_seconds=5.0)
    (registered,) = await store.register(A, ReplicaEndpoint(A), mode=Source.EXPLICIT, request="first")
    elected = await store.campaign(new_token(), lease_seconds=60, seen_epoch=0)
    assert isinstance(elected, Elected)
    leader = await reader.leader()
    assert leader is not None
    await store.heartbeat(info("router~1"), expiry_seconds=60)
    await store.heartbeat(info("router~2"), expiry_seconds=60)
    token = await clients.commands.hget(keys.leader, "token")
    report = await store.report(
        Term(elected.epoch, token),
        1,
        [ProbeResult(A, "first", 1.0), ProbeResult("http://unknown", "x", 1.0)],
        THRESHOLDS,
    )
    assert (len(report.events), report.dropped) == (1, 1)
    snapshot = await reader.snapshot()
    assert snapshot.records.keys() == {A}
    assert await reader.wait_events(after=registered.id, seconds=5.0)
    assert (await reader.poll(after=registered.id))[0] == snapshot.head
    assert (await reader.wait_at_rest(after=registered.id, seconds=5.0))[0]
    assert (await reader.wait_at_rest(after=snapshot.head.revision, seconds=0.1))[1] in (None, snapshot.head)
    assert await reader.ready_urls() == [A]
    assert (await reader.inspect([A]))[0].ready_secondary == 0.0
    assert len(await reader.key_types()) == 9
    assert abs(await reader.server_time() - time.time()) < 5
    calls = [store.renew(token, lease_seconds=60) for _ in range(50)] + [reader.head() for _ in range(40)]
    assert len(await asyncio.gather(*calls)) == 90


async def test_a_plain_url_connects(server: EmbeddedServer, namespace: str) -> None:
    async with connected(server.url) as clients:
        await use_everything(clients, namespace)


async def test_a_unix_socket_connects(own_server: OwnServer, tmp_path: Path) -> None:
    path = Path("/tmp") / f"registry-{new_token()}.sock"  # tmp_path may be longer than such a path can be
    own_server(config={"unixsocket": str(path)})
    async with connected(f"unix://{path}?db=0") as clients:
        await use_everything(clients, "own")


async def test_a_url_may_carry_a_database_and_a_password(own_server: OwnServer) -> None:
    server = own_server(config={"requirepass": "p/w@"})
    async with connected(f"redis://:p%2Fw%40@127.0.0.1:{server.port}/3") as clients:
        await use_everything(clients, "own")
        with Redis(port=server.port, db=3, password="p/w@") as raw:
            assert raw.exists("sr:{own}:meta")


@pytest.fixture
def cluster(own_server: OwnServer) -> EmbeddedServer:
    """A Redis Cluster of one node that has every slot."""
    try:
        server = own_server(config={"cluster-enabled": "yes"})
    except StoreUnavailable as error:
        pytest.skip(f"this server cannot form a cluster: {error}")
    with Redis.from_url(server.url, decode_responses=True) as raw:
        raw.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        deadline = time.monotonic() + 20
        while "cluster_state:ok" not in str(raw.execute_command("CLUSTER", "INFO")).replace("': '", ":"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    return server


async def test_a_cluster_connects(cluster: EmbeddedServer) -> None:
    async with connected(f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.port}") as clients:
        await use_everything(clients, "own")
    adopted = RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", cluster.port)], decode_responses=True)
    await use_everything(client.adopt(adopted), "other")
    await adopted.aclose()


async def test_a_cluster_with_another_password_is_refused(own_server: OwnServer) -> None:
    try:
        server = own_server(config={"cluster-enabled": "yes", "requirepass": "right"})
    except StoreUnavailable as error:
        pytest.skip(f"this server cannot form a cluster: {error}")
    async with connected(f"redis+cluster://:wrong@127.0.0.1:{server.port}") as clients:
        with pytest.raises(StoreRefused, match="password"):
            await verify_server(clients.commands, "any", timeout_seconds=5.0)


@pytest.fixture
def sentinel_port(redis_binary: Path, own_server: OwnServer, tmp_path: Path) -> Iterator[int]:
    """A sentinel that watches one server under the name `mymaster`."""
    server, port = own_server(), embedded._free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(f"bind 127.0.0.1\nport {port}\nsentinel monitor mymaster 127.0.0.1 {server.port} 1\n")
    with (tmp_path / "log").open("wb") as log:
        process = BoundProcess([redis_binary, conf, "--sentinel"], cwd=tmp_path, output=log)
    try:
        deadline = time.monotonic() + 30
        with Redis(port=port) as raw:
            while not knows_master(raw):
                if process.poll() is not None:
                    pytest.skip(f"this server cannot be a sentinel: {(tmp_path / 'log').read_text()[-300:]}")
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield port
    finally:
        process.kill()


def knows_master(raw: Redis) -> bool:
    with contextlib.suppress(exceptions.RedisError):
        return bool(raw.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"))
    return False


async def test_a_sentinel_finds_the_primary(sentinel_port: int) -> None:
    async with connected(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel_port}/mymaster/0") as clients:
        await use_everything(clients, "own")


async def test_a_sentinel_that_does_not_know_the_master_fails(sentinel_port: int) -> None:
    async with connected(f"redis+sentinel://127.0.0.1:{sentinel_port}/other") as clients:
        with pytest.raises(StoreUnavailable, match="other"):
            await verify_server(clients.commands, "any", timeout_seconds=5.0)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:1/0",
        "unix:///nowhere/redis.sock",
        "redis+sentinel://127.0.0.1:1/mymaster",
        "redis+cluster://127.0.0.1:1",
    ],
)
async def test_a_server_that_is_not_there_is_unavailable(url: str) -> None:
    async with connected(url) as clients:
        with pytest.raises(StoreUnavailable):
            await verify_server(clients.commands, "any", timeout_seconds=5.0)


async def test_tls_is_used_where_the_url_says_so() -> None:
    async with connected("rediss://user:secret@127.0.0.1:1/2?ssl_cert_reqs=none") as clients:
        pool = clients.commands.connection_pool
        assert issubclass(pool.connection_class, SSLConnection)
        assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (2, "secret")


async def test_credentials_databases_and_hosts_are_read_from_the_url() -> None:
    async with connected("redis+sentinel://user:s%40cret@h1,[::1]:5/mymaster/3") as clients:
        pool = clients.commands.connection_pool
        wanted = {"db": 3, "username": "user", "password": "s@cret"}
        assert {name: pool.connection_kwargs[name] for name in wanted} == wanted
        hosts = [s.connection_pool.connection_kwargs for s in pool.sentinel_manager.sentinels]
        assert [(host["host"], host["port"]) for host in hosts] == [("h1", 26379), ("::1", 5)]
    async with connected("redis+cluster://user:s%40cret@h1:7000,h2") as clients:
        wanted = {"username": "user", "password": "s@cret"}
        options = clients.commands.connection_pool.connection_kwargs
        assert {name: options[name] for name in wanted} == wanted
        assert clients.commands.owner.hosts == (("h1", 7000), ("h2", 6379))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:6379", "scheme"),
        ("http://:secret@host", "scheme"),
        ("redis://host:port/0", "host:port"),
        ("redis://:secret@host:99999/0", "ports"),
        ("redis://:secret@host/mymaster", "database number"),
        ("redis://:secret@host?socket_timeout=soon", "socket_timeout"),
        ("rediss://:secret@host?ssl_ca_certs=/nowhere.pem", "/nowhere.pem cannot be used: No such file"),
        ("rediss://:secret@host?ssl_ca_path=/nowhere", "/nowhere cannot be used: No such file"),
        ("redis://:secret@host?no_such_option=1", "no_such_option"),
        ("unix://:secret@/run/redis.sock?no_such_option=1", "no_such_option"),
        ("redis+sentinel://:secret@h1,h2", "master"),
        ("redis+cluster://:secret@", "host:port"),
        ("redis+cluster://:secret@host/1", "database 0"),
    ],
)
def test_an_unusable_url_is_refused_at_once(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        client.connect(url, timeout_seconds=1.0, block_seconds=1.0)
    assert "secret" not in str(caught.value)


def test_a_url_without_tls_files_reads_no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificates of the system take some 20 ms to read, for each registry that is built."""
    monkeypatch.setattr(ssl, "create_default_context", lambda: pytest.fail("certificates were read"))
    client.connect("redis://host", timeout_seconds=1.0, block_seconds=1.0)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s@cret@host/0",
        "redis://user:cret@host",
        "redis://cret@host",
        "redis://host?password=cret",
        "rediss://:a:cret@host:1/0",
        "redis+sentinel://u:cret@h1,h2/master",
    ],
)
def test_a_url_is_shown_without_its_password(url: str) -> None:
    assert "cret" not in client.redacted(url)
    assert client.redacted(url).startswith(url.partition("://")[0])


async def test_a_call_cancelled_at_any_moment_ends_as_cancelled(server: EmbeddedServer, namespace: str) -> None:
    """A swallowed cancellation would leave a task running that its owner waits for."""
    async with connected(server.url) as clients:
        store = Store(clients, Keys(namespace), router="router~1", timeout_seconds=5.0)
        await store.renew("token", lease_seconds=60)
        for steps in range(20):
            task = asyncio.create_task(store.renew("token", lease_seconds=60))
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task


async def test_a_connection_is_returned_after_a_failure(server: EmbeddedServer, namespace: str) -> None:
    async with connected(server.url) as clients:
        store = Store(clients, Keys(namespace), router="router~1", timeout_seconds=5.0)
        for _ in range(3 * client.MAX_CONNECTIONS):
            task = asyncio.create_task(store.renew("token", lease_seconds=60))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert not await store.renew("token", lease_seconds=60)


async def test_a_registry_keeps_to_its_bound_of_connections(own_server: OwnServer) -> None:
    server = own_server()
    async with connected(server.url) as clients:
        store = Store(clients, Keys("own"), router="router~1", timeout_seconds=10.0)
        reader = Reader(clients, Keys("own"), timeout_seconds=10.0)
        calls: list[Any] = [store.renew("token", lease_seconds=60) for _ in range(100)]
        await asyncio.gather(*calls, *(reader.head() for _ in range(100)))
        with Redis.from_url(server.url) as raw:
            assert len(raw.client_list()) <= client.MAX_CONNECTIONS + 1


async def test_a_closed_client_leaves_no_connection(own_server: OwnServer) -> None:
    server = own_server()
    async with connected(server.url) as clients:
        await use_everything(clients, "own")
    with Redis.from_url(server.url) as raw:
        await until(lambda: len(raw.client_list()) == 1)


async def test_no_client_retries_and_blocking_reads_keep_their_connection(server: EmbeddedServer) -> None:
    """A blocking read may take longer than the timeout of other calls."""
    async with connected(server.url) as clients:
        for each in (clients.commands, clients.blocking):
            options = each.connection_pool.connection_kwargs
            assert options["retry"]._retries == 0
            assert options["protocol"] == 2
        reader = Reader(clients, Keys("nothing-here"), timeout_seconds=0.05)
        assert await reader.wait_events(after="0-0", seconds=0.3) == []


async def test_a_callers_client_is_used_and_left_open(server: EmbeddedServer, namespace: str) -> None:
    own = AsyncRedis.from_url(server.url, decode_responses=True, socket_timeout=3.0)
    clients = client.adopt(own)
    assert (clients.commands, clients.blocking, clients.longest_block_seconds) == (own, own, 1.5)
    assert clients.control is own
    await use_everything(clients, namespace)
    await clients.close()
    assert await own.ping()
    await own.aclose()


@pytest.mark.parametrize(
    "make",
    [
        lambda: AsyncRedis(host="127.0.0.1"),
        lambda: RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", 1)]),
    ],
)
async def test_a_client_that_returns_bytes_is_refused(make: Callable[[], Client]) -> None:
    with pytest.raises(ConfigError, match="decode_responses=True"):
        client.adopt(make())


async def test_a_server_that_may_drop_keys_is_warned_of(
    own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(own_server(config={"maxmemory-policy": "allkeys-lru"}).url) as clients:
        with caplog.at_level(logging.WARNING):
            await verify_server(clients.commands, "any", timeout_seconds=5.0)
    (record,) = caplog.records
    assert "allkeys-lru" in record.getMessage()
    assert "noeviction" in record.getMessage()


@pytest.mark.parametrize(
    ("version", "is_refused"), [("6.0.16", True), ("5.0", True), ("6.2.0", False), ("10.0", False)]
)
async def test_a_server_that_is_too_old_is_refused(version: str, is_refused: bool) -> None:
    class Old:
        async def info(self, section: str) -> dict[str, str]:
            return {"redis_version": version}

    outcome = pytest.raises(StoreRefused, match=version) if is_refused else contextlib.nullcontext()
    with outcome:
        await verify_server(Old(), "any", timeout_seconds=1.0)


IN_A_SCRIPT = "Error running script (call to f_0): @user_script:9: @user_script: 9: "


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.ConnectionError("Connection closed by server."), StoreUnavailable),
        (exceptions.MaxConnectionsError("Too many connections"), StoreUnavailable),
        (exceptions.TimeoutError("Timeout reading"), StoreUnavailable),
        (ConnectionResetError(), StoreUnavailable),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), StoreUnavailable),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), StoreUnavailable),
        (exceptions.ClusterDownError("CLUSTERDOWN The cluster is down"), StoreUnavailable),
        (exceptions.ResponseError("LOADING Redis is loading the dataset in memory"), StoreUnavailable),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), StoreUnavailable),
        (exceptions.ResponseError("UNBLOCKED force unblock from blocking operation"), StoreUnavailable),
        (exceptions.ResponseError(f"{IN_A_SCRIPT}-OOM command not allowed"), StoreUnavailable),
        (exceptions.ResponseError(f"{IN_A_SCRIPT}-READONLY You can't write"), StoreUnavailable),
        (exceptions.ResponseError(f"{IN_A_SCRIPT}-NOREPLICAS Not enough good replicas"), StoreUnavailable),
        (exceptions.ResponseError(f"{IN_A_SCRIPT}-MISCONF Redis is configured"), StoreUnavailable),
        (exceptions.AuthenticationError("invalid username-password pair"), StoreRefused),
        (exceptions.NoPermissionError("this user has no permissions"), StoreRefused),
        (exceptions.ResponseError("Protocol error: unauthenticated multibulk length"), StoreRefused),
        (exceptions.ResponseError("ACL failure in script: User u has no permissions"), StoreRefused),
        (
            exceptions.ResponseError(f"{IN_A_SCRIPT}The user executing the script can't run this command"),
            StoreRefused,
        ),
        (exceptions.ResponseError("unknown command 'EVALSHA'"), StoreRefused),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), KeyConflict),
        (exceptions.ResponseError("something else"), StoreError),
        (exceptions.ResponseError(f"{IN_A_SCRIPT}attempt to compare nil"), StoreError),
        (exceptions.ResponseError("BUSYGROUP Consumer Group name already exists"), StoreError),
        (exceptions.ResponseError(""), StoreError),
    ],
)
def test_every_redis_error_maps_to_one_of_ours(error: Exception, kind: type[StoreError]) -> None:
    meaning = meaning_of(error)
    assert type(meaning) is kind
    assert str(error) in str(meaning)


async def test_other_exceptions_pass_unchanged() -> None:
    with pytest.raises(KeyError):
        async with bounded(1.0):
            raise KeyError("mine")
    with pytest.raises(asyncio.CancelledError):
        async with bounded(1.0):
            raise asyncio.CancelledError


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "REDIS_URL", "redis://elsewhere")
    clients = client.connect("redis://127.0.0.1:6379", timeout_seconds=1.0, block_seconds=1.0)
    assert clients.commands.connection_pool.connection_kwargs["host"] == "127.0.0.1"
