"""Replicas with https urls: sessions are encrypted, and go to nobody whose certificate is not trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.probing import conftest as probe_fixtures
from tests.proxy.conftest import StartRouter
from tests.support.backend import Backend

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
