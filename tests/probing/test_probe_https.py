"""Probes of https replicas: verified always, kept alive like any other."""

from __future__ import annotations

import asyncio
import errno
import ssl

import pytest

from shared_registry.config import RouterConfig
from shared_registry.probing import HttpProber
from shared_registry.probing import tls as tls_module
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.tls import default_context
from tests.support.scripted_server import LONG, OK, Peer, answer_all, scripted
from tests.support.until import until


async def test_a_self_signed_certificate_is_a_clear_failure(server_tls: ssl.SSLContext) -> None:
    async with scripted(answer_all, tls=server_tls) as server, HttpProber() as prober:
        _, error = await prober(f"{server.url}/health", timeout=LONG)
        assert error == "ConnectError: certificate verify failed: self-signed certificate"
        await until(lambda: server.open == 0)


async def test_a_certificate_for_somebody_else_is_a_clear_failure(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext
) -> None:
    async with scripted(answer_all, tls=server_tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        _, error = await prober(f"{server.url.replace('127.0.0.1', 'localhost')}/health", timeout=LONG)
        assert error is not None
        refused = "connection refused, "  # by ::1, where that is a localhost, too
        assert error.replace(refused, "").startswith("ConnectError: certificate verify failed: Hostname mismatch")


async def test_a_trusted_certificate_keeps_one_connection(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext
) -> None:
    async with scripted(answer_all, tls=server_tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        for _ in range(3):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        assert server.accepted == 1
        prober.forget(server.url)
        await until(lambda: server.open == 0)


async def test_a_connection_closed_by_the_replica_is_replaced(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()

    async with scripted(script, tls=server_tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        for _ in range(4):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        assert server.accepted == 4


async def test_https_to_an_http_replica_is_a_clear_failure() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    async with scripted(script) as server, HttpProber() as prober:
        _, error = await prober(f"{server.url.replace('http', 'https')}/health", timeout=LONG)
        assert error is not None
        assert error.startswith("ConnectError: TLS: ")
        await until(lambda: server.open == 0)


async def test_the_authorities_are_read_once_and_only_for_https(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = 0

    def load(_: RouterConfig) -> ssl.SSLContext:
        nonlocal loaded
        loaded += 1
        return trusting_tls

    monkeypatch.setattr(tls_module, "default_context", load)
    async with (
        scripted(answer_all) as plain,
        scripted(answer_all, tls=server_tls) as server,
        scripted(answer_all, tls=server_tls) as other,
        HttpProber() as prober,
    ):
        assert (await prober(f"{plain.url}/health", timeout=LONG))[1] is None
        assert loaded == 0
        urls = (server.url, other.url)
        for _ in range(2):
            results = await asyncio.gather(*(prober(f"{url}/health", timeout=LONG) for url in urls))
            assert [error for _, error in results] == [None, None]
            prober.retain([])
        assert loaded == 1


async def test_unreadable_authorities_are_own_trouble_and_read_again(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[ssl.SSLContext | OSError] = [PermissionError(errno.EACCES, "no", "/secret"), trusting_tls]

    def load(_: RouterConfig) -> ssl.SSLContext:
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    monkeypatch.setattr(tls_module, "default_context", load)
    async with scripted(answer_all, tls=server_tls) as server, HttpProber() as prober:
        with pytest.raises(OwnTrouble, match=r"^TLS settings of this router: permission denied$"):
            await prober(f"{server.url}/health", timeout=LONG)
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None


def test_the_default_verifies_peers_and_their_names() -> None:
    context = default_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
