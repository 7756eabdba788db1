"""Probes of https replicas without a task say the same as those with one, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import sys
from pathlib import Path

import pytest

from shared_registry.config import RouterConfig
from shared_registry.probing import HttpProber, budget
from shared_registry.probing.origins import EXCHANGES_PER_CONNECTION
from shared_registry.probing.plain_socket import PlainSockets
from shared_registry.probing.tls_socket import TlsSession, TlsSocket
from tests.support.certificates import Authority
from tests.support.prompt_probe import RESPONSES, prompt, sending
from tests.support.scripted_server import (
    LONG,
    OK,
    SHORT,
    Peer,
    Script,
    answer_all,
    scripted,
    several_turns,
    stay_silent,
)
from tests.support.until import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a new connection needs a task")


async def close_at_once(_: Peer) -> None:
    """A script: the connection ends in the handshake."""


async def reset_at_once(peer: Peer) -> None:
    peer.reset()


async def speak_without_tls(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await peer.gone()


async def break_tls(peer: Peer) -> None:
    """A script: send what is no record, over the connection's socket."""
    await peer.request()
    os.write(peer.socket_number, b"x" * 100)
    await peer.gone()


async def expect_the_same(script: Script, tls: ssl.SSLContext | None, trusting: ssl.SSLContext | None) -> str | None:
    """Probe with a task and without one, and return what both say."""
    async with scripted(script, tls=tls) as server:
        url = server.url.replace("http:", "https:") + "/health"
        async with HttpProber(ssl_context=trusting) as prober:
            expected = await prober.ask(url, timeout=LONG)
            if trusting is None:  # the files are read now
                assert (await prompt(prober, url)).error == expected.error
        if trusting is not None:
            async with HttpProber(ssl_context=trusting) as prober:
                found = await prompt(prober, url)
            assert (found.error, found.trouble, found.address) == (expected.error, None, expected.address)
        await until(lambda: server.open == 0)
    return expected.error


ENDED_BY_THE_CONNECTION = ("until the end", "of old")
"""The server's test tool ends these without an end of TLS, which event loops take in different ways."""


@pytest.mark.parametrize("name", [name for name in RESPONSES if name not in ENDED_BY_THE_CONNECTION])
async def test_any_response_by_tls_means_the_same(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext, name: str
) -> None:
    await expect_the_same(sending(RESPONSES[name]), server_tls, trusting_tls)


@pytest.mark.parametrize("name", ENDED_BY_THE_CONNECTION)
async def test_a_body_may_end_with_the_connection(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext, name: str
) -> None:
    async with (
        scripted(sending(RESPONSES[name]), tls=server_tls) as server,
        HttpProber(ssl_context=trusting_tls) as prober,
    ):
        assert (await prompt(prober, f"{server.url}/health")).error is None


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (close_at_once, "ConnectError: connection reset by peer"),
        (reset_at_once, "ConnectError: connection reset by peer"),
        (speak_without_tls, "ConnectError: TLS: wrong version number"),
    ],
)
async def test_a_broken_handshake_is_told_in_the_same_words(
    trusting_tls: ssl.SSLContext, script: Script, error: str
) -> None:
    assert await expect_the_same(script, None, trusting_tls) == error


async def test_broken_tls_is_told_in_the_same_words(server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext) -> None:
    assert await expect_the_same(break_tls, server_tls, trusting_tls) == "ReadError: TLS: wrong version number"


async def test_a_certificate_is_verified_without_a_task(server_tls: ssl.SSLContext) -> None:
    error = await expect_the_same(answer_all, server_tls, None)
    assert error == "ConnectError: certificate verify failed: self-signed certificate"


async def test_the_name_in_a_certificate_is_verified_without_a_task(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    authority = Authority(tmp_path_factory.mktemp("names"))
    trusting = ssl.create_default_context(cafile=authority.ca)
    error = await expect_the_same(answer_all, authority.server(alternatives="DNS:other"), trusting)
    assert "certificate is not valid for '127.0.0.1'" in str(error)
    config = RouterConfig(replica_tls_server_name="other")
    tls = authority.server(alternatives="DNS:other")
    async with scripted(answer_all, tls=tls) as server, HttpProber(config, ssl_context=trusting) as prober:
        assert (await prompt(prober, f"{server.url}/health")).error is None


async def test_a_replica_is_told_why_its_certificate_is_refused(server_tls: ssl.SSLContext) -> None:
    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as accepted, server_tls.wrap_socket(accepted, server_side=True) as secure:
            secure.recv(1)

    untrusting = ssl.create_default_context()
    untrusting.maximum_version = ssl.TLSVersion.TLSv1_2  # later ones verify after the server's part is done
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LONG)
        served = asyncio.create_task(asyncio.to_thread(serve, listener))
        async with HttpProber(ssl_context=untrusting) as prober:
            await prompt(prober, f"https://127.0.0.1:{listener.getsockname()[1]}/health")
            with pytest.raises(ssl.SSLError, match="alert unknown ca"):
                await served


async def test_a_timeout_in_the_handshake_is_one_of_connecting(trusting_tls: ssl.SSLContext) -> None:
    async with scripted(stay_silent) as server, HttpProber(ssl_context=trusting_tls) as prober:
        found = await prompt(prober, server.url.replace("http", "https"), SHORT)
        assert found.error == f"timeout after {SHORT}s while connecting"
        await until(lambda: server.open == 0)


async def test_a_tls_connection_carries_six_and_is_replaced(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext
) -> None:
    async with scripted(answer_all, tls=server_tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        for count in range(2 * EXCHANGES_PER_CONNECTION):
            assert (await prompt(prober, f"{server.url}/health")).error is None
            assert server.accepted == 1 + count // EXCHANGES_PER_CONNECTION
        await until(lambda: server.open == 1)
        assert (await prompt(prober, f"{server.url}/health", fresh=True)).error is None
        assert server.accepted == 3
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None, "a task uses it on"
        assert server.accepted == 3


async def test_a_response_may_arrive_in_many_records(server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.drip(OK)
        await peer.gone()

    async with scripted(script, tls=server_tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        assert (await prompt(prober, f"{server.url}/health")).error is None


async def test_data_may_arrive_with_the_end_of_the_handshake(certificate: Path, trusting_tls: ssl.SSLContext) -> None:
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(certificate)
    server_tls.maximum_version = ssl.TLSVersion.TLSv1_2  # later ones end the handshake on the client's side

    def serve(listener: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server_tls.wrap_bio(incoming, outgoing, server_side=True)
        with listener.accept()[0] as accepted:
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    accepted.sendall(outgoing.read())
                    incoming.write(accepted.recv(65536))
                else:
                    break
            tls.write(OK)
            accepted.sendall(outgoing.read())
            while accepted.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LONG)
        served = asyncio.create_task(asyncio.to_thread(serve, listener))
        async with HttpProber(ssl_context=trusting_tls) as prober:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}/health"
            assert (await prompt(prober, url)).error is None
        await served


async def test_several_records_may_arrive_together(server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext) -> None:
    body = b"x" * 40_000
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(response)
        await peer.gone()

    async with scripted(script, tls=server_tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        assert (await prompt(prober, f"{server.url}/health")).error is None


async def test_a_request_larger_than_a_record_is_sent_whole(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext
) -> None:
    size, received = 60_000, list[int]()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            received.append(len(await peer.body(size)))
            await peer.send(OK)

    config = RouterConfig(health_check_method="POST", health_check_request_body="x" * size)
    async with scripted(script, tls=server_tls) as server, HttpProber(config, ssl_context=trusting_tls) as prober:
        for _ in range(2):
            assert (await prompt(prober, f"{server.url}/health")).error is None
    assert received == [size, size]


async def test_an_idle_tls_connection_that_ends_is_replaced(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext
) -> None:
    may_end = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await may_end.wait()

    async with scripted(script, tls=server_tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        assert (await prompt(prober, f"{server.url}/health")).error is None
        may_end.set()
        await until(lambda: server.open == 0)
        await several_turns()
        assert (await prompt(prober, f"{server.url}/health")).error is None
        assert server.accepted == 2


async def test_beyond_the_budget_no_tls_connection_is_kept(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "most_kept", lambda: 0)
    async with scripted(answer_all, tls=server_tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        for count in range(1, 3):
            assert (await prompt(prober, f"{server.url}/health")).error is None
            await until(lambda: server.open == 0)
            assert server.accepted == count


async def test_closed_tls_connections_leave_nothing_behind(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext
) -> None:
    """Each would keep tens of kilobytes until the garbage collector runs, which is rare in a router."""

    def alive() -> int:
        return sum(isinstance(found, TlsSocket | ssl.SSLObject) for found in gc.get_objects())

    async with scripted(sending(OK), tls=server_tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        gc.collect()
        gc.disable()
        try:
            before = alive()
            for _ in range(5):
                assert (await prompt(prober, f"{server.url}/health", fresh=True)).error is None
            prober.forget(f"{server.url}/health")
            await until(lambda: server.open == 0)
            await until(lambda: alive() <= before)
        finally:
            gc.enable()


async def test_what_cannot_be_encrypted_is_told_later(server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext) -> None:
    class Ended(asyncio.Protocol):
        is_open = False

        def __init__(self) -> None:
            self.errors: list[Exception | None] = []

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.is_open = True

        def connection_lost(self, error: Exception | None) -> None:
            self.errors.append(error)

    sockets, ended = PlainSockets(1), Ended()
    async with scripted(stay_silent, tls=server_tls) as server:
        port = int(server.url.rpartition(":")[2])
        carrier = TlsSocket(
            ended,
            lambda protocol: sockets.connect("127.0.0.1", port, protocol),
            trusting_tls,
            "127.0.0.1",
            resumed=None,
            session=TlsSession(),
        )
        await until(lambda: ended.is_open)
        with contextlib.suppress(ssl.SSLError):
            carrier._tls.unwrap()
        carrier.write(b"too late")
        assert ended.errors == []
        await until(lambda: ended.errors)
        [error] = ended.errors  # none where the server has ended the connection just before
        assert error is None or isinstance(error, ssl.SSLError)
    sockets.close()
