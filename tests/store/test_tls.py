"""TLS to servers, sentinels and clusters: real certificates, what is wrong with them, and files that change."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, exceptions

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.errors import StoreRefused, StoreUnavailable
from shared_registry.store import client
from shared_registry.store.client import Clients
from shared_registry.store.verification import verify_server
from tests.support.certificates import Authority
from tests.support.programs import free_port
from tests.support.space import A
from tests.support.until import until

pytestmark = pytest.mark.redis
TIMEOUT = 2.0
HASTE = 1.5
GOODBYE_SECONDS = 30.0  # how long asyncio waits for the answer
STARTUP_SECONDS = 60.0


@pytest.fixture(scope="session")
def tls_binary(redis_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server with TLS: the one to test against, or else the system's."""
    system = shutil.which("redis-server")
    authority = Authority(tmp_path_factory.mktemp("tls"))
    for binary in (redis_binary, *([Path(system)] if system else [])):
        with contextlib.suppress(StoreUnavailable), EmbeddedServer(binary=binary, config=tls_settings(authority)):
            return binary
    if os.environ.get("CI") == "true":
        pytest.fail("no server with TLS is installed")
    pytest.skip("no server with TLS is installed")


def tls_settings(authority: Authority, certificate: tuple[Path, Path] | None = None) -> dict[str, str | int]:
    own, key = map(str, certificate or authority.sign("server"))
    files = {"tls-cert-file": own, "tls-key-file": key, "tls-ca-cert-file": str(authority.ca)}
    return {"tls-port": free_port(), "tls-auth-clients": "no", **files}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@dataclass
class TlsServer:
    """A server with a port for TLS and one for plain connections."""

    server: EmbeddedServer
    port: int
    authority: Authority

    def url(self, scheme: str = "rediss", path: str = "", **options: object) -> str:
        options = {"ssl_ca_certs": self.authority.ca, **options}
        words = "&".join(f"{name}={text}" for name, text in options.items() if text)
        return f"{scheme}://127.0.0.1:{self.port}{path}?{words}"


@pytest.fixture
def tls_server(tls_binary: Path, authority: Authority) -> Iterator[Callable[..., TlsServer]]:
    """Start servers with that certificate; more settings by their names in redis.conf."""
    with contextlib.ExitStack() as stack:

        def start(certificate: tuple[Path, Path] | None = None, **config: str | int) -> TlsServer:
            settings = tls_settings(authority, certificate)
            settings |= {name.replace("_", "-"): text for name, text in config.items()}
            server = EmbeddedServer(binary=tls_binary, config=settings, startup_seconds=STARTUP_SECONDS)
            return TlsServer(stack.enter_context(server), int(settings["tls-port"]), authority)

        yield start


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@contextlib.asynccontextmanager
async def connected(url: str, name: str = "", timeout_seconds: float = TIMEOUT) -> AsyncIterator[Clients]:
    clients = client.connect(url, timeout_seconds=timeout_seconds, block_seconds=1.0, name=name)
    try:
        yield clients
    finally:
        await clients.close()


async def verify(url: str) -> None:
    async with connected(url) as clients:
        await verify_server(clients.commands, "any", timeout_seconds=TIMEOUT)


async def place_one(url: str) -> None:
    """Let a router register a replica and place a session on it."""
    config = RouterConfig(redis_url=url, namespace="tls", redis_timeout_seconds=TIMEOUT, replicas=[ReplicaEndpoint(A)])
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        await registry.record_success(registry.all()[0], recovery_threshold=1, latency_ms=1.0)
        lease = await registry.acquire(timeout=5)
        assert lease is not None
        await lease.release()


async def test_a_router_works_over_tls(tls_server: Callable[..., TlsServer]) -> None:
    server = tls_server(requirepass="p@ss")
    await place_one(server.url().replace("127.0.0.1", ":p%40ss@127.0.0.1"))
    with pytest.raises(StoreRefused, match="password"):
        await verify(server.url())


async def test_both_sides_may_show_certificates(tls_server: Callable[..., TlsServer], authority: Authority) -> None:
    server = tls_server(tls_auth_clients="yes")
    certificate, key = authority.sign("client")
    await place_one(server.url(ssl_certfile=certificate, ssl_keyfile=key))
    with pytest.raises(StoreUnavailable, match=r"client certificate.*ssl_certfile"):
        await verify(server.url())


async def test_an_unknown_authority_is_named_with_the_remedy(
    tls_server: Callable[..., TlsServer], tmp_path: Path
) -> None:
    server = tls_server()
    (tmp_path / "other").mkdir()
    for ca in (Authority(tmp_path / "other").ca, ""):
        with pytest.raises(StoreUnavailable, match=r"verify failed: self-signed.*ssl_ca_certs"):
            await verify(server.url(ssl_ca_certs=ca))
    await verify(server.url(ssl_ca_certs="", ssl_cert_reqs="none"))


async def test_an_expired_certificate_is_named(tls_server: Callable[..., TlsServer], authority: Authority) -> None:
    server = tls_server(authority.sign("server", days=-1))
    with pytest.raises(StoreUnavailable, match=r"certificate has expired.*renew"):
        await verify(server.url())


async def test_a_certificate_of_another_name_is_refused(
    tls_server: Callable[..., TlsServer], authority: Authority
) -> None:
    server = tls_server(authority.sign("elsewhere", "DNS:elsewhere"))
    with pytest.raises(StoreUnavailable, match=r"not valid for.*ssl_check_hostname=false"):
        await verify(server.url())
    await verify(server.url(ssl_check_hostname="false"))


@pytest.mark.parametrize(("scheme", "path"), [("redis", ""), ("redis+cluster", ""), ("redis+sentinel", "/main")])
async def test_plain_connections_to_a_tls_port_are_explained(
    tls_server: Callable[..., TlsServer], scheme: str, path: str
) -> None:
    with pytest.raises(StoreUnavailable, match="rediss://") as caught:
        await verify(f"{scheme}://127.0.0.1:{tls_server().port}{path}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("scheme", "path"), [("rediss", ""), ("rediss+cluster", ""), ("rediss+sentinel", "/main")])
async def test_tls_to_a_plain_port_is_explained(tls_server: Callable[..., TlsServer], scheme: str, path: str) -> None:
    server = tls_server()
    with pytest.raises(StoreUnavailable, match="TLS") as caught:
        await verify(f"{scheme}://127.0.0.1:{server.server.port}{path}")
    assert "redis://" in str(caught.value)


async def test_files_that_change_are_read_for_new_connections(
    tls_server: Callable[..., TlsServer], authority: Authority, tmp_path: Path
) -> None:
    server = tls_server(tls_auth_clients="yes")
    certificate, key = authority.sign("client", days=-1)
    async with connected(server.url(ssl_certfile=certificate, ssl_keyfile=key)) as clients:
        with pytest.raises(StoreUnavailable):
            await verify_server(clients.commands, "any", timeout_seconds=TIMEOUT)
        renewed = Authority.sign(authority, "renewed")
        for new, old in zip(renewed, (certificate, key), strict=True):
            shutil.copy(new, tmp_path / "new")
            (tmp_path / "new").replace(old)
        await verify_server(clients.commands, "any", timeout_seconds=TIMEOUT)


async def test_a_hanging_server_costs_no_descriptors(tls_server: Callable[..., TlsServer]) -> None:
    server = tls_server()
    async with connected(server.url(), timeout_seconds=HASTE) as clients:
        before = descriptors()
        await asyncio.gather(*(clients.commands.ping() for _ in range(5)))
        os.kill(server.server.pid, signal.SIGSTOP)
        calls = (verify_server(clients.commands, "any", timeout_seconds=HASTE) for _ in range(5))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        await until(lambda: not descriptors() - before, seconds=GOODBYE_SECONDS / 2)


async def test_closing_does_not_wait_for_a_hanging_server(tls_server: Callable[..., TlsServer]) -> None:
    server = tls_server()
    async with connected(server.url()) as clients:
        await clients.commands.ping()
        os.kill(server.server.pid, signal.SIGSTOP)
        async with asyncio.timeout(GOODBYE_SECONDS / 3):
            await clients.close()


async def test_a_cluster_works_over_tls(tls_server: Callable[..., TlsServer]) -> None:
    server = tls_server(cluster_enabled="yes", tls_cluster="yes", cluster_port=free_port())
    with Redis.from_url(server.server.url, decode_responses=True) as raw:
        raw.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        await until(lambda: "cluster_state:ok" in str(raw.execute_command("CLUSTER", "INFO")).replace("': '", ":"))
    await place_one(server.url("rediss+cluster"))


@contextlib.contextmanager
def sentinel(binary: Path, directory: Path, *lines: str) -> Iterator[None]:
    conf = directory / "sentinel.conf"
    conf.write_text("".join(f"{line}\n" for line in ("bind 127.0.0.1", *lines)))
    with (directory / "sentinel.log").open("wb") as log:
        process = BoundProcess([binary, conf, "--sentinel"], cwd=directory, output=log)
    try:
        yield
    finally:
        process.kill()


async def knows_the_master(**options: Any) -> None:
    def is_known() -> bool:
        with contextlib.suppress(exceptions.RedisError), Redis(**options) as raw:
            return bool(raw.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"))
        return False

    await until(is_known)


async def test_sentinels_work_over_tls(
    tls_server: Callable[..., TlsServer], tls_binary: Path, authority: Authority, tmp_path: Path
) -> None:
    server, port = tls_server(tls_replication="yes"), free_port()
    certificate, key = authority.sign("sentinel")
    lines = (
        f"port 0\ntls-port {port}\ntls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {authority.ca}",
        f"tls-auth-clients no\ntls-replication yes\nsentinel monitor main 127.0.0.1 {server.port} 1",
    )
    with sentinel(tls_binary, tmp_path, *lines):
        await knows_the_master(host="127.0.0.1", port=port, ssl=True, ssl_ca_certs=str(authority.ca))
        await place_one(f"rediss+sentinel://127.0.0.1:1,127.0.0.1:{port}/main?ssl_ca_certs={authority.ca}")


async def test_sentinels_have_a_password_of_their_own(
    own_server: Callable[..., EmbeddedServer], redis_binary: Path, tmp_path: Path
) -> None:
    server, port = own_server(config={"requirepass": "data"}), free_port()
    watch = f"port {port}\nsentinel monitor main 127.0.0.1 {server.port} 1\nsentinel auth-pass main data"
    with sentinel(redis_binary, tmp_path, watch, "requirepass guard"):
        await knows_the_master(port=port, password="guard")
        url = f"redis+sentinel://:data@127.0.0.1:{port}/main/0"
        await place_one(f"{url}?sentinel_password=guard")
        for wrong in ("", "?sentinel_password=wrong"):
            with pytest.raises(StoreRefused, match="sentinel_password") as caught:
                await verify(url + wrong)
            assert "guard" not in str(caught.value)
        with pytest.raises(StoreUnavailable, match=r"no sentinel names the master 'other'.*watches main"):
            await verify(f"redis+sentinel://:data@127.0.0.1:{port}/other?sentinel_password=guard")


async def test_connections_carry_the_routers_name(own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    async with connected(server.url, name="router 1") as clients, connected(server.url) as others:
        for each in (clients.commands, clients.blocking, clients.control, others.commands):
            await each.ping()
        with Redis.from_url(server.url, decode_responses=True) as raw:
            names = sorted(one["name"] for one in raw.client_list())
    assert names == ["", "shared-registry", *["shared-registry:router-1"] * 3]


async def test_a_user_who_may_not_set_a_name_has_none(own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    with Redis.from_url(server.url, decode_responses=True) as raw:
        raw.execute_command("ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all", "-client")
        async with connected(f"redis://ann:pw@127.0.0.1:{server.port}", name="router-1") as clients:
            assert await clients.commands.ping()
            assert "shared-registry" not in str(raw.client_list())


async def test_an_outage_is_told_as_one(own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    async with connected(server.url) as clients:
        await clients.commands.ping()
        server.kill()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await verify_server(clients.commands, "any", timeout_seconds=10 * TIMEOUT)
    assert "rediss" not in str(caught.value)
    assert time.monotonic() - started < 5 * TIMEOUT, "long before the time limit"
