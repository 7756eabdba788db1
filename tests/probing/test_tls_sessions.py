"""New connections to a replica resume its TLS session, for some time, and never while the replica is in doubt."""

from __future__ import annotations

import os
import ssl
import sys
import time
from pathlib import Path

import pytest

from shared_registry.config import RouterConfig
from shared_registry.probing import HttpProber, tls_socket
from shared_registry.probing import tls as tls_module
from tests.support.certificates import Authority
from tests.support.nginx import nginx_with_tls
from tests.support.prompt_probe import prompt
from tests.support.scripted_server import LONG, Peer, scripted
from tests.support.until import until


class Handshakes:
    """Answers one probe a connection, and notes whether each connection has resumed a session."""

    def __init__(self) -> None:
        self.resumed: list[bool] = []

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        self.resumed.append(peer.tls.session_reused)
        await peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")


def trusting(certificate: Path) -> RouterConfig:
    return RouterConfig(replica_tls_ca_file=str(certificate))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_new_connections_resume_the_session(certificate: Path, version: ssl.TLSVersion) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    tls.maximum_version = version
    seen = Handshakes()
    async with scripted(seen, tls=tls) as server, HttpProber(trusting(certificate)) as prober:
        for _ in range(4):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
    assert seen.resumed == [False, True, True, True]


async def test_a_replica_in_doubt_is_verified_anew(server_tls: ssl.SSLContext, certificate: Path) -> None:
    seen = Handshakes()
    async with scripted(seen, tls=server_tls) as server, HttpProber(trusting(certificate)) as prober:
        for fresh in (False, True, False):
            assert (await prober.ask(f"{server.url}/health", timeout=LONG, fresh=fresh)).error is None
    assert seen.resumed == [False, False, True]


async def test_a_session_is_resumed_for_some_time_only(
    server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Handshakes()
    async with scripted(seen, tls=server_tls) as server, HttpProber(trusting(certificate)) as prober:
        for seconds in (0.0, LONG, LONG):
            monkeypatch.setattr(tls_socket, "RESUMPTION_SECONDS", seconds)
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
    assert seen.resumed == [False, False, True]


async def test_no_session_outlives_the_certificate(
    server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, now = Handshakes(), time.time()
    async with scripted(seen, tls=server_tls) as server, HttpProber(trusting(certificate)) as prober:
        for days in (0, 0, 3, 3):
            monkeypatch.setattr(time, "time", lambda: now + days * 86_400)  # noqa: B023
            fresh = len(seen.resumed) == 2
            assert (await prober.ask(f"{server.url}/health", timeout=LONG, fresh=fresh)).error is None
    assert seen.resumed == [False, True, False, False]


async def test_without_verification_no_certificate_limits_a_session(server_tls: ssl.SSLContext) -> None:
    seen = Handshakes()
    async with (
        scripted(seen, tls=server_tls) as server,
        HttpProber(RouterConfig(replica_tls_verify=False)) as prober,
    ):
        for _ in range(2):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
    assert seen.resumed == [False, True]


async def test_no_replica_gets_the_session_of_another(server_tls: ssl.SSLContext, certificate: Path) -> None:
    seen = Handshakes()
    async with (
        scripted(seen, tls=server_tls) as server,
        scripted(seen, tls=server_tls) as other,
        HttpProber(trusting(certificate)) as prober,
    ):
        for url in (server.url, other.url):
            assert (await prober(f"{url}/health", timeout=LONG))[1] is None
    assert seen.resumed == [False, False]


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a new connection needs a task")


@needs_linux
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_new_connections_without_a_task_resume_it(
    certificate: Path, trusting_tls: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    tls.maximum_version = version
    seen = Handshakes()
    async with scripted(seen, tls=tls) as server, HttpProber(ssl_context=trusting_tls) as prober:
        for fresh in (False, False, False, True, False):
            assert (await prompt(prober, f"{server.url}/health", fresh=fresh)).error is None
    assert seen.resumed == [False, True, True, False, True]


@needs_linux
async def test_the_session_of_replaced_files_is_not_resumed(
    server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_module, "CHECK_SECONDS", 0.0)
    seen = Handshakes()
    async with scripted(seen, tls=server_tls) as server, HttpProber(trusting(certificate)) as prober:
        url = f"{server.url}/health"
        assert (await prober(url, timeout=LONG))[1] is None
        assert (await prompt(prober, url)).error is None
        before = prober._origins.tls.ready()
        os.utime(certificate)
        await until(lambda: prober._origins.tls.ready() is not before)
        for _ in range(2):
            assert (await prompt(prober, url)).error is None
    assert seen.resumed == [False, True, False, True]


@needs_linux
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_nginx_resumes_the_sessions_of_probes(tmp_path: Path, version: str) -> None:
    authority = Authority(tmp_path)
    config = RouterConfig(replica_tls_ca_file=str(authority.ca))
    async with nginx_with_tls(tmp_path, authority.sign("replica"), version) as (url, log), HttpProber(config) as prober:
        assert (await prober(f"{url}/health", timeout=LONG))[1] is None
        for _ in range(3):
            assert (await prompt(prober, f"{url}/health")).error is None
        assert (await prober(f"{url}/health", timeout=LONG))[1] is None
        await until(lambda: len(log.read_text().splitlines()) == 5)
    first, *others = log.read_text().splitlines()
    assert first == f"{version} ."
    assert set(others) == {f"{version} r"}
