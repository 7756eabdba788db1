"""The OpenAPI document, and the page that shows it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.routing import Route

from shared_registry.api.app import admin_app
from shared_registry.api.live_data import LiveData
from shared_registry.api.page import FILES
from shared_registry.api.tokens import Tokens
from shared_registry.api.v1 import ByMethod
from shared_registry.config import RouterConfig
from shared_registry.telemetry.counting import Counting
from shared_registry.telemetry.page import MetricsPage
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
FOR_PEOPLE = {*FILES, "/events", "/docs", "/v1/{rest}"}
"""What browsers load, and the answer to unknown paths."""


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def document_of(admin: httpx.AsyncClient) -> dict[str, Any]:
    answer = await admin.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


async def test_the_document_has_each_route_and_no_other(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    running = await start_with_admin(backend.url)
    config, router = RouterConfig(), running.router
    app = admin_app(router, config, MetricsPage(router, Counting(router)), LiveData(router), Tokens(config))
    served = set()
    for route in app.routes:
        assert isinstance(route, Route)
        path = route.path.replace(":path}", "}")
        methods = route.endpoint.methods if isinstance(route.endpoint, ByMethod) else (route.methods or {"GET"})
        served |= {(path, method) for method in methods if method != "HEAD" and path not in FOR_PEOPLE}
    document = await document_of(admin_of(running))
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert described == served
    assert {route.path.replace(":path}", "}") for route in app.routes if isinstance(route, Route)} >= FOR_PEOPLE


async def test_the_document_names_each_schema_and_operation_once(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    document = await document_of(admin_of(await start_with_admin(backend.url)))
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    names = [one["operationId"] for one in operations]
    assert len(set(names)) == len(names)
    used = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert used <= document["components"]["schemas"].keys()
    assert all(one["summary"].endswith(".") for one in operations)


async def test_the_document_says_what_needs_a_token(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    for access, is_open in (("none", [False, False]), ("read", [True, False]), ("operate", [True, True])):
        settings: dict[str, Any] = {"admin_access": access, "admin_tokens": ["ann: sk-read-0123456789 read"]}
        admin = admin_of(await start_with_admin(backend.url, **settings))
        admin.headers["Authorization"] = "Bearer sk-read-0123456789"
        paths = (await document_of(admin))["paths"]
        operations = [paths["/v1/replicas"]["get"], paths["/v1/leases"]["post"]]
        assert [{} in one["security"] for one in operations] == is_open
        assert {} in paths["/healthz"]["get"]["security"]


async def test_the_page_shows_all_and_needs_no_other_host(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url))
    page = await admin.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"(src|href)=.?(https?:)?//", page.text)
    document = await document_of(admin)
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page.text
    for name in document["components"]["schemas"]:
        assert f"<h2 id={name}>" in page.text


async def test_paths_and_methods_that_are_not_there_get_problems(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url))
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/status/", 404),
        ("DELETE", "/v1/replicas/a%0Ab", 404),
        ("POST", "/status", 405),
        ("PATCH", "/v1/replicas/a", 405),
    ):
        answer = await admin.request(method, path)
        assert answer.status_code == status, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert bool(answer.headers.get("allow")) == (status == 405)
