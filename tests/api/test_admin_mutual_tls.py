"""Certificates of clients, which replace tokens at the admin address."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.certificates import Authority
from tests.support.tls_sessions import ResumingClient
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOKEN = "sk-lease-0123456789"
EVENTS = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Site:
    """An authority of routers, one of clients, and the settings of a router that knows both."""

    def __init__(self, folder: Path) -> None:
        (folder / "own").mkdir()
        (folder / "clients").mkdir()
        self.own, self.clients = Authority(folder / "own"), Authority(folder / "clients")
        self.certificate, self.key = self.own.sign("router")
        self.trusted = folder / "trusted.pem"
        self.trusted.write_bytes(self.clients.ca.read_bytes())
        self.settings: dict[str, Any] = {
            "tls_certificate_file": str(self.certificate),
            "tls_key_file": str(self.key),
            "admin_client_ca_file": str(self.trusted),
            "admin_tokens": [f"go: {TOKEN} lease"],
            "is_awaited": False,
        }

    def client(self, router: RunningRouter, authority: Authority | None, name: str = "ann") -> httpx.AsyncClient:
        context = self.context(authority, name)
        return httpx.AsyncClient(base_url=router.admin_url, verify=context, trust_env=False, timeout=SECONDS)

    def context(self, authority: Authority | None, name: str = "ann") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.own.ca))
        if authority is not None:
            context.load_cert_chain(*authority.sign(name))
        return context


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def started(start: StartRouter, backend: Backend, settings: dict[str, Any]) -> RunningRouter:
    router = await start(backend.url, **settings)
    registry = router.router.pools[""].registry
    await until(lambda: registry.select() is not None, "the router serves")
    return router


async def status(client: httpx.AsyncClient, method: str = "PUT", path: str = "/v1/replicas/http://127.0.0.2:1") -> int:
    answer = await client.request(method, path, json={})
    return answer.status_code


async def test_a_certificate_replaces_a_token(start_with_admin: StartRouter, backend: Backend, site: Site) -> None:
    router = await started(start_with_admin, backend, site.settings)
    assert router.admin_url.startswith("https://")
    async with site.client(router, site.clients) as ann, site.client(router, None) as nobody:
        assert await status(ann) == 200
        events = (await ann.get("/v1/events")).json()["events"]  # the latest may be of the first probe
        assert "ann" in [event["by"] for event in events if event["kind"] == "replica_registered"]
        assert await status(nobody) == 401
        nobody.headers["Authorization"] = f"Bearer {TOKEN}"
        assert await status(nobody) == 403
        assert await status(nobody, "POST", "/v1/leases") in (200, 503)
        ann.headers["Authorization"] = "Bearer sk-unknown-0123456789"
        assert await status(ann) == 401
        assert (await nobody.get("/healthz")).status_code == 200


async def test_certificates_of_others_are_refused(start_with_admin: StartRouter, backend: Backend, site: Site) -> None:
    router = await started(start_with_admin, backend, site.settings)
    async with site.client(router, site.own, "stranger") as stranger:
        with pytest.raises(httpx.TransportError):
            await stranger.get("/healthz")
    async with httpx.AsyncClient(trust_env=False) as plain:
        with pytest.raises(httpx.TransportError):
            await plain.get(router.admin_url.replace("https", "http") + "/healthz")


async def test_certificates_allow_what_the_settings_say(
    start_with_admin: StartRouter, backend: Backend, site: Site
) -> None:
    for allowed, expected in (("none", 403), ("announce", 403), ("operate", 200)):
        settings = {**site.settings, "admin_client_access": allowed}
        router = await started(start_with_admin, backend, settings)
        async with site.client(router, site.clients) as ann:
            assert await status(ann) == expected, allowed


async def test_changed_files_are_used(
    start_with_admin: StartRouter, backend: Backend, site: Site, tmp_path: Path
) -> None:
    router = await started(start_with_admin, backend, site.settings)
    (tmp_path / "others").mkdir()
    others = Authority(tmp_path / "others")

    async def is_known(authority: Authority) -> bool:
        try:
            async with site.client(router, authority) as client:
                return await status(client) == 200
        except httpx.TransportError:
            return False

    assert await is_known(site.clients)
    assert not await is_known(others)
    site.trusted.write_bytes(others.ca.read_bytes())
    await until(lambda: is_known(others), "the new authority is trusted")
    assert not await is_known(site.clients)
    site.own.sign("router", "IP:127.0.0.9")  # overwrites the router's certificate
    await until(lambda: cannot_verify(site, router), "the new certificate is used")


async def cannot_verify(site: Site, router: RunningRouter) -> bool:
    try:
        async with site.client(router, None) as client:
            await client.get("/healthz")
    except httpx.ConnectError as error:
        return "certificate" in str(error)
    return False


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_authority_that_is_gone_ends_resumed_sessions(
    start_with_admin: StartRouter, backend: Backend, site: Site, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    router = await started(start_with_admin, backend, site.settings | {"admin_access": "none"})
    context = site.context(site.clients)
    context.minimum_version = context.maximum_version = version
    url = httpx.URL(router.admin_url)
    client = ResumingClient(context, (url.host, url.port or 0))
    for is_resumed in (False, True):
        found, answer = await asyncio.to_thread(client.request, EVENTS, SECONDS)
        assert found is is_resumed
        assert answer.startswith(b"HTTP/1.1 200 ")
    (tmp_path / "others").mkdir()
    site.trusted.write_bytes(Authority(tmp_path / "others").ca.read_bytes())

    async def is_refused() -> bool:
        return (await asyncio.to_thread(client.request, EVENTS, SECONDS))[1] == b""

    await until(is_refused, "its certificate is verified again")
