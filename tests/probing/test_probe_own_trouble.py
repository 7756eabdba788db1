"""Probes that this process cannot make: the replica is not asked, and nothing is said of it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest

from shared_registry.probing import HttpProbe, HttpProber, guarded
from shared_registry.probing.own_trouble import OwnTrouble
from tests.support.descriptors import out_of_descriptors
from tests.support.scripted_server import LONG, OK, Peer, answer_all, scripted, several_turns
from tests.support.until import until

CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def answer_and_close(peer: Peer) -> None:
    await peer.request()
    await peer.send(CLOSE)


async def answer_then_close_when_idle(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK)
    await asyncio.sleep(0.01)


async def expect_trouble(prober: HttpProber, url: str) -> None:
    with pytest.raises(OwnTrouble, match=r"^too many open files$"):
        await prober(f"{url}/health", timeout=LONG)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_without_a_descriptor_no_replica_is_asked(host: str) -> None:
    async with scripted(answer_and_close) as server, HttpProber() as prober:
        url = server.url.replace("127.0.0.1", host)
        assert (await prober(f"{url}/health", timeout=LONG))[1] is None
        await until(lambda: server.open == 0)
        await several_turns()
        for _ in range(3):
            with out_of_descriptors():
                await expect_trouble(prober, url)
        assert (await prober(f"{url}/health", timeout=LONG))[1] is None, "and afterwards all is well"
    assert server.accepted == 2


async def test_a_kept_connection_needs_no_descriptor() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        with out_of_descriptors():
            for _ in range(10):
                assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        assert server.accepted == 1, "nor does it end when a new one would be due"
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
    assert server.accepted == 2


async def test_a_connection_that_the_replica_closed_cannot_be_replaced() -> None:
    async with scripted(answer_then_close_when_idle) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        await until(lambda: server.open == 0)
        await several_turns()
        with out_of_descriptors():
            await expect_trouble(prober, server.url)


async def test_a_replica_that_answers_badly_still_fails() -> None:
    async def unwell(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        while True:
            await peer.request()
            body = b"[Errno 24] Too many open files"
            await peer.send(b"HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async with scripted(unwell) as server, HttpProber() as prober:
        assert (await guarded(prober, f"{server.url}/health", LONG)).error is None
        with out_of_descriptors():
            outcome = await guarded(prober, f"{server.url}/health", LONG)
        assert (outcome.error, outcome.trouble) == ("HTTP 503", None)


async def test_authorities_that_could_not_be_read_are_read_later(
    server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The ssl module passes over a file that it cannot open: no replica would be verified any more."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    async with scripted(answer_all, tls=server_tls) as server, HttpProber() as prober:
        await asyncio.to_thread(lambda: None)
        with out_of_descriptors():
            await expect_trouble(prober, server.url)
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None


@pytest.mark.parametrize("spare", [0, 2])  # 2: for both ends, which are in this process
async def test_an_uncheckable_certificate_is_no_failure(server_tls: ssl.SSLContext, tmp_path: Path, spare: int) -> None:
    """Authorities in a folder are opened when a certificate is checked."""
    context = ssl.create_default_context(capath=str(tmp_path))
    async with scripted(answer_all, tls=server_tls) as server, HttpProber(ssl_context=context) as prober:
        error = (await prober(f"{server.url}/health", timeout=LONG))[1]
        assert error == "ConnectError: certificate verify failed: self-signed certificate"
        with out_of_descriptors(spare=spare):
            await expect_trouble(prober, server.url)


async def raise_it(url: str, *, timeout: float) -> tuple[float, str | None]:
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        await client.get(url, timeout=timeout)
    return 1.0, None


async def return_it(url: str, *, timeout: float) -> tuple[float, str | None]:
    try:
        return await raise_it(url, timeout=timeout)
    except Exception as error:  # noqa: BLE001  as many probes do
        return 1.0, f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("probe", [raise_it, return_it])
async def test_a_callers_own_probe_may_raise_or_return_trouble(probe: HttpProbe) -> None:
    async with scripted(answer_and_close) as server:
        assert (await guarded(probe, f"{server.url}/health", LONG)).error is None
        with out_of_descriptors():
            outcome = await guarded(probe, f"{server.url}/health", LONG)
    assert (outcome.error, str(outcome.trouble)) == (None, "too many open files")
    outcome = await guarded(probe, f"{server.url}/health", LONG)
    assert outcome.error is not None, "nobody listens there any more"
