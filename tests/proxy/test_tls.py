"""Replicas with https urls: sessions are encrypted, and go to nobody whose certificate is not trusted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.probing import conftest as probe_fixtures
from tests.proxy.conftest import StartRouter
from tests.support.backend import Backend
from tests.support.certificates import Authority
from tests.support.scripted_server import several_turns

pytestmark = pytest.mark.asyncio(loop_scope="module")

certificate = probe_fixtures.certificate


async def test_sessions_of_both_kinds_are_encrypted(
    start_router: StartRouter,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with Backend(certificate=certificate) as replica:
        router = await start_router(replica.url)
        assert (await router.http.post("/", content=b"secret")).json()["body"] == "secret"
        assert replica.scopes[-1]["scheme"] == "https"
        async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
            await client.send("secret")
            assert await client.recv() == "secret"
        assert replica.scopes[-1]["scheme"] == "wss"


async def test_a_replica_with_an_untrusted_certificate_gets_no_session(
    start_router: StartRouter,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Backend(certificate=certificate) as replica:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        router = await start_router(replica.url, health_check_interval_seconds=3600.0)
        monkeypatch.delenv("SSL_CERT_FILE")  # probes have read it by now, sessions have not
        response = await router.http.get("/")
        assert (response.status_code, response.json()["code"]) == (502, "gpu_unavailable")
        async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
            assert json.loads(await client.recv())["code"] == "gpu_unavailable"
        assert replica.scopes == []


async def test_sessions_use_the_tls_settings_and_changed_files(
    start_router: StartRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_registry.probing.tls.CHECK_SECONDS", 0.0)
    authority = Authority(tmp_path)
    (tmp_path / "new").mkdir()
    new = Authority(tmp_path / "new")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(authority.ca.read_bytes())
    settings = {"replica_tls_ca_file": str(bundle), "replica_tls_server_name": "replica.internal"}

    def both_files(signer: Authority) -> Path:
        certificate, key = signer.sign("replica", "DNS:replica.internal")
        both = signer.folder / "both.pem"
        both.write_text(certificate.read_text() + key.read_text())
        return both

    async with Backend(certificate=both_files(authority)) as replica:
        router = await start_router(replica.url, **settings)
        assert (await router.http.post("/", content=b"secret")).json()["body"] == "secret"
        async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
            await client.send("secret")
            assert await client.recv() == "secret"
        port = replica.port
    moved = Backend(certificate=both_files(new))
    moved.port = port
    async with moved:
        bundle.write_bytes(new.ca.read_bytes())

        async def is_served() -> bool:
            return (await router.http.get("/")).status_code == 200

        async with asyncio.timeout(30):
            while not await is_served():
                await several_turns()
        async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
            await client.send("secret")
            assert await client.recv() == "secret"
