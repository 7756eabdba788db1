"""Clients that claim to come from elsewhere: only trusted proxies are believed, by replicas and by ejection alike."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from shared_registry.proxy.outcomes import OutcomeReports
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLAIMS = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Proto": "https",
    "X-Real-IP": "6.6.6.6",
    "Forwarded": "for=6.6.6.6",
}


async def seen_of(router: RunningRouter, address: str) -> dict[str, str]:
    """Return the headers that a replica gets of a client at this address, which claims to be another one."""
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(base_url=router.url, transport=transport, timeout=SECONDS) as client:
        response = await client.get("/", headers=CLAIMS)
        headers: list[list[str]] = response.json()["headers"]
        return {name: value for name, value in headers if "forwarded" in name or name == "x-real-ip"}


async def test_only_the_listed_proxy_is_believed(start_router: StartRouter) -> None:
    async with Backend() as replica:
        router = await start_router(replica.url, trusted_proxies=["127.0.0.5"])
        assert await seen_of(router, "127.0.0.5") == {
            "x-forwarded-for": "6.6.6.6, 127.0.0.5",
            "x-forwarded-proto": "https",
            "x-forwarded-host": router.url.removeprefix("http://"),
            "x-real-ip": "6.6.6.6",
            "forwarded": "for=6.6.6.6, for=127.0.0.5;proto=http",
        }
        assert await seen_of(router, "127.0.0.6") == {
            "x-forwarded-for": "127.0.0.6",
            "x-forwarded-proto": "http",
            "x-forwarded-host": router.url.removeprefix("http://"),
        }


@pytest.mark.parametrize(
    ("settings", "clients"),
    [
        ({}, {"10.9.9.1", "10.9.9.2"}),
        ({"trusted_proxies": "none"}, {"127.0.0.1"}),
        ({"trusted_proxies": ["127.0.0.1", "10.9.9.2"]}, {"10.9.9.1", "6.6.6.6"}),
    ],
)
async def test_nobody_invents_clients_whose_sessions_fail(
    start_router: StartRouter, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], clients: set[str]
) -> None:
    """An ejection needs failures of several clients, so one client must not be able to be several."""
    reported: set[str] = set()
    monkeypatch.setattr(OutcomeReports, "responded", lambda *_, client: reported.add(client))
    async with Backend() as replica:
        router = await start_router(replica.url, **settings)
        for claimed in ("10.9.9.1", "6.6.6.6, 10.9.9.2"):
            response = await router.http.get("/answer?status=500", headers={"X-Forwarded-For": claimed})
            assert response.status_code == 500
    assert reported == clients
