"""TLS to clients: sessions of both kinds, certificates that change or are wrong, and clients that do no handshake."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import httpx
import pytest
import pytest_asyncio
import websockets
from websockets.asyncio.client import ClientConnection, connect

from shared_registry.aio import from_files
from shared_registry.aio.stop_signals import StopRequest
from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint
from shared_registry.proxy import client_tls
from shared_registry.proxy import server as server_module
from shared_registry.proxy.client_tls import server_context
from shared_registry.proxy.descriptors import GUESTS, Descriptors
from tests.proxy.conftest import FAST, SECONDS, RunningRouter, StartRouter, all_healthy, running_router
from tests.support.backend import Backend, RawBackend
from tests.support.certificates import Authority
from tests.support.tls_sessions import ResumingClient
from tests.support.until import until

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Pki:
    """An authority, a server's certificate of it, and what clients need to trust it."""

    def __init__(self, folder: Path, name: str = "one") -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.authority = Authority(self.folder)
        self.certificate, self.key = self.authority.sign("router")

    @property
    def settings(self) -> dict[str, str]:
        return {"tls_certificate_file": str(self.certificate), "tls_key_file": str(self.key)}

    def client(self, own: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.ca)
        if own is not None:
            context.load_cert_chain(*own)
        return context


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest_asyncio.fixture(loop_scope="module")
async def replica() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def secure(router: RunningRouter, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*router.address, ssl=context)


async def test_sessions_of_both_kinds_use_tls(start_router: StartRouter, replica: Backend, pki: Pki) -> None:
    router = await start_router(replica.url, verify=pki.client(), **pki.settings)
    assert router.url.startswith("https://")
    assert (await router.status())["url"] == router.url
    seen = (await router.http.post("/", content=b"x" * 1_000_000)).json()
    assert seen["body"] == "x" * 1_000_000
    assert ["x-forwarded-proto", "https"] in seen["headers"]
    assert ["x-forwarded-for", "127.0.0.1"] in seen["headers"]
    async with connect(f"{router.ws}/v1/stream", ssl=pki.client(), proxy=None) as client:
        await client.send(b"y" * 1_000_000)
        assert await client.recv() == b"y" * 1_000_000
    assert await asyncio.wait_for(replica.closes.get(), SECONDS) == (1000, "")


async def test_http_1_1_is_agreed_on_and_old_tls_refused(start_router: StartRouter, replica: Backend, pki: Pki) -> None:
    router = await start_router(replica.url, verify=pki.client(), **pki.settings)
    context = pki.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await secure(router, context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.close()
    old = pki.client()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await secure(router, old)


async def test_a_client_without_tls_is_disconnected(start_router: StartRouter, replica: Backend, pki: Pki) -> None:
    router = await start_router(replica.url, verify=pki.client(), **pki.settings)
    for sent in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01garbage" + bytes(100), b"\0" * 5000):
        reader, writer = await asyncio.open_connection(*router.address)
        writer.write(sent)
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in await asyncio.wait_for(reader.read(), SECONDS)
        writer.close()
    assert (await router.http.get("/healthz")).status_code == 200


async def test_a_handshake_that_hangs_is_ended(start_router: StartRouter, replica: Backend, pki: Pki) -> None:
    router = await start_router(replica.url, is_awaited=False, header_timeout_seconds=0.5, **pki.settings)
    reader, writer = await asyncio.open_connection(*router.address)
    writer.write(b"\x16\x03\x01\x02\x00")
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""
    writer.close()


async def test_hanging_handshakes_neither_hide_the_router_nor_delay_its_stop(
    start_router: StartRouter, replica: Backend, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are guests, for lack of room: of those only a few may be there at a time."""
    router = await start_router(replica.url, verify=pki.client(), header_timeout_seconds=600.0, **pki.settings)
    await router.http.aclose()
    monkeypatch.setattr("shared_registry.proxy.descriptors.Descriptors.have_room", lambda *_, **__: False)
    hanging = [await asyncio.open_connection(*router.address) for _ in range(3 * GUESTS)]
    async with httpx.AsyncClient(base_url=router.url, verify=pki.client(), timeout=SECONDS) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/other")).status_code == 503
    router.stop.ask()
    router.stop.ask()
    await asyncio.wait_for(asyncio.shield(router.serving), SECONDS)
    for reader, writer in hanging:
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""
        writer.close()


async def test_failed_handshakes_push_no_slow_guest_out(
    start_router: StartRouter, replica: Backend, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await start_router(replica.url, verify=pki.client(), **pki.settings)
    monkeypatch.setattr("shared_registry.proxy.descriptors.Descriptors.have_room", lambda *_, **__: False)
    slow, slow_writer = await asyncio.open_connection(*router.address)
    for _ in range(2 * GUESTS):
        reader, writer = await asyncio.open_connection(*router.address)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), SECONDS)
        writer.close()
    await asyncio.wait_for(slow_writer.start_tls(pki.client(), server_hostname="127.0.0.1"), SECONDS)
    slow_writer.write(HEALTH)
    assert (await asyncio.wait_for(slow.readline(), SECONDS)) == b"HTTP/1.1 200 OK\r\n"
    slow_writer.close()


async def test_one_newcomer_costs_one_idle_connection(
    start_router: StartRouter, replica: Backend, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a TLS connection needs the client's answer, for which no room can wait."""
    router = await start_router(replica.url, verify=pki.client(), **pki.settings)
    await router.http.aclose()
    idle = [await secure(router, pki.client()) for _ in range(4)]
    for reader, writer in idle:
        writer.write(HEALTH)
        await asyncio.wait_for(reader.readuntil(b"}"), SECONDS)
        cast("asyncio.Transport", writer.transport).pause_reading()  # so that nothing answers the end of a connection

    def have_room(self: Descriptors, *, more: int, sessions: int) -> bool:
        return self.clients is not None and self.clients() + more <= len(idle)

    monkeypatch.setattr(Descriptors, "have_room", have_room)
    async with httpx.AsyncClient(base_url=router.url, verify=pki.client(), timeout=SECONDS) as http:
        assert (await http.get("/who")).status_code == 200
    answers = 0
    for reader, writer in idle:
        cast("asyncio.Transport", writer.transport).resume_reading()
        with contextlib.suppress(ConnectionError):
            writer.write(HEALTH)
            answers += bool(await asyncio.wait_for(reader.read(1000), SECONDS))
        writer.close()
    assert answers == len(idle) - 1


async def test_a_client_that_still_sends_gets_its_early_response(
    start_router: StartRouter, replica: Backend, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_registry.proxy.client.LINGER_SECONDS", SECONDS)
    router = await start_router(replica.url, verify=pki.client(), **pki.settings)

    def send_all_then_receive() -> bytes:
        address = router.address
        with (
            socket.create_connection(address, SECONDS) as raw,
            pki.client().wrap_socket(raw, server_hostname=address[0]) as s,
        ):
            s.sendall(b"POST /status HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 50000000\r\n\r\n")
            for _ in range(100):
                s.sendall(bytes(100_000))
            return s.recv(100)

    assert (await asyncio.to_thread(send_all_then_receive)).startswith(b"HTTP/1.1 405 ")


async def test_a_broken_response_does_not_look_complete(start_router: StartRouter, pki: Pki) -> None:
    async def half(data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await writer.drain()
        writer.close()

    async with RawBackend(half) as replica:
        router = await start_router(replica.url, verify=pki.client(), **pki.settings)
        reader, writer = await secure(router, pki.client())
        writer.write(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await asyncio.wait_for(reader.read(), SECONDS)
        writer.close()


async def test_without_a_certificate_of_the_authority_no_client_enters(
    start_router: StartRouter, replica: Backend, pki: Pki, tmp_path: Path
) -> None:
    clients = Pki(tmp_path, "clients")
    own = clients.authority.sign("client")
    settings = pki.settings | {"tls_client_ca_file": str(clients.authority.ca)}
    router = await start_router(replica.url, verify=pki.client(own), **settings)
    assert (await router.http.get("/who")).status_code == 200
    for context in (pki.client(), pki.client(pki.authority.sign("stranger"))):
        async with httpx.AsyncClient(base_url=router.url, verify=context, timeout=SECONDS) as http:
            with pytest.raises(httpx.TransportError):
                await http.get("/healthz")
        with pytest.raises((ssl.SSLError, OSError, websockets.InvalidMessage)):
            await connect(f"{router.ws}/v1/stream", ssl=context, proxy=None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_resumed_session_ends_with_its_certificate(
    start_router: StartRouter,
    replica: Backend,
    pki: Pki,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: ssl.TLSVersion,
) -> None:
    clients = Pki(tmp_path, "clients")
    settings = pki.settings | {"tls_client_ca_file": str(clients.authority.ca)}
    router = await start_router(replica.url, is_awaited=False, **settings)
    own = clients.authority.sign("client", days=2)
    context = pki.client(own)
    context.minimum_version = context.maximum_version = version
    client = ResumingClient(context, router.address)
    request = HEALTH.replace(b"Host: a", b"Host: a\r\nConnection: close")
    for is_resumed in (False, True):
        found, answer = await asyncio.to_thread(client.request, request, SECONDS)
        assert found is is_resumed
        assert answer.startswith(b"HTTP/1.1 200 ")
    certificate = ssl._ssl._test_decode_cert(str(own[0]))  # type: ignore[attr-defined]
    after = ssl.cert_time_to_seconds(certificate["notAfter"]) + 1.0
    monkeypatch.setattr(client_tls, "now", lambda: after)
    assert (await asyncio.to_thread(client.request, request, SECONDS))[1] == b""


async def test_changed_files_serve_new_connections_and_broken_ones_nobody(
    start_router: StartRouter,
    replica: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(from_files, "CHECK_SECONDS", 0.05)
    caplog.set_level(logging.INFO)
    one, other = Pki(tmp_path), Pki(tmp_path, "other")
    router = await start_router(replica.url, verify=one.client(), **one.settings)
    async with connect(f"{router.ws}/v1/stream", ssl=one.client(), proxy=None) as session:
        one.certificate.write_bytes(other.certificate.read_bytes())  # its key has not arrived yet
        await until(lambda: is_logged(caplog, "the former TLS files for clients stay in use"), "the files are unusable")
        (await secure(router, one.client()))[1].close()
        one.key.write_bytes(other.key.read_bytes())
        await until(lambda: is_logged(caplog, "TLS files for clients were read again"), "the new files are in use")
        (await secure(router, other.client()))[1].close()
        with pytest.raises(ssl.SSLError):
            await secure(router, one.client())
        await session.send("still here")
        assert await session.recv() == "still here"
    assert (await router.http.get("/healthz")).status_code == 200  # over the connection from before


async def is_logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return any(text in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"tls_certificate_file": "absent"}, "tls_certificate_file: cannot read absent (No such file or directory)"),
        ({"tls_key_file": "absent"}, "tls_key_file: cannot read absent (No such file"),
        ({"tls_client_ca_file": "absent"}, "tls_client_ca_file: cannot read absent"),
        ({"tls_certificate_file": "garbage"}, "tls_certificate_file: garbage with "),
        ({"tls_key_file": "garbage"}, "cannot be used"),
        ({"tls_key_file": "other"}, "key values mismatch"),
        ({"tls_client_ca_file": "garbage"}, "tls_client_ca_file: garbage cannot be used"),
    ],
)
async def test_files_that_cannot_be_used_are_named(
    server: EmbeddedServer, pki: Pki, tmp_path: Path, broken: dict[str, str], message: str
) -> None:
    (tmp_path / "garbage").write_text("garbage")
    (tmp_path / "other").write_bytes(Pki(tmp_path, "others").key.read_bytes())
    with contextlib.chdir(tmp_path):
        config = RouterConfig(redis_url=server.url, **FAST, **(pki.settings | broken))  # type: ignore[arg-type]
        with pytest.raises(ConfigError) as refused:
            server_context(config)
        assert message in str(refused.value)
        with pytest.raises(ConfigError):
            await server_module.serve_clients(config, StopRequest(), on_listening=lambda _: None)


async def test_a_waiting_client_learns_its_positions(
    server: EmbeddedServer, namespace: str, replica: Backend, pki: Pki
) -> None:
    """What is written over TLS passes another buffer, which must not look like a client that does not read."""
    config = RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        replicas=[ReplicaEndpoint(replica.url, capacity=1)],
        **(FAST | pki.settings | {"queue_timeout_seconds": 60.0}),
    )
    async with running_router(config, verify=pki.client()) as router, contextlib.AsyncExitStack() as stack:
        await until(lambda: all_healthy(router, 1), "the replica is healthy")
        sessions = []
        for number in range(3):
            session = await stack.enter_async_context(connect(f"{router.ws}/", ssl=pki.client(), proxy=None))
            if number:
                assert await position_of(session) == number
            await session.send(str(number))
            sessions.append(session)
        assert await asyncio.wait_for(sessions[0].recv(), SECONDS) == "0"
        await sessions[0].close()
        while (told := await asyncio.wait_for(sessions[1].recv(), SECONDS)) != "1":
            assert json.loads(told)["type"] == "queue_status"
        while await position_of(sessions[2]) != 1:
            pass


async def position_of(session: ClientConnection) -> int:
    return int(json.loads(await asyncio.wait_for(session.recv(), SECONDS))["position"])
