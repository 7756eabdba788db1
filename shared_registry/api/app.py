"""The pages of the admin address, as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared_registry.api.access import Access, ReadGuard
from shared_registry.api.described import DescribedApi
from shared_registry.api.documented_pages import DOCUMENT_PATH
from shared_registry.api.envoy import discovery
from shared_registry.api.event_stream import EventStream
from shared_registry.api.guard import HostGuard
from shared_registry.api.live_data import LiveData
from shared_registry.api.page import FILES, file_of_page
from shared_registry.api.pick import pick
from shared_registry.api.pieces import PiecewiseResponse
from shared_registry.api.tokens import Tokens
from shared_registry.api.v1 import api_operations, api_routes, no_such_path, wrong_method
from shared_registry.config import RouterConfig
from shared_registry.proxy.answers import Answer
from shared_registry.proxy.app import Router
from shared_registry.telemetry.page import CONTENT_TYPE, MetricsPage


def admin_app(router: Router, config: RouterConfig, metrics: MetricsPage, live: LiveData, tokens: Tokens) -> Starlette:
    """Return the application that shows a router to operators and programs, and has the API.

    Args:
        router: The router.
        config: The settings with which it has started.
        metrics: The page of its metrics.
        live: The live data of the dashboard.
        tokens: The tokens of clients of the API.
    """
    access = Access(config, tokens)
    operations = api_operations(config.max_api_leases)
    described = DescribedApi(operations, access.is_open)
    names = [config.admin_host, *config.admin_names]
    app = Starlette(
        routes=[
            Route("/healthz", _page(router.healthz)),
            Route("/readyz", _page(router.readyz)),
            Route("/status", _page(router.status)),
            Route("/metrics", _metrics(metrics)),
            Route("/events", EventStream(live)),
            Route("/v1/pick", pick(router)),
            Route("/v3/discovery:endpoints", discovery(router), methods=["POST"]),
            *(Route(path, file_of_page) for path in FILES),
            Route(DOCUMENT_PATH, described.document),
            Route("/docs", described.page),
            *api_routes(router, access, operations),
        ],
        exception_handlers={404: _no_such_page, 405: _no_such_method},
        middleware=[Middleware(HostGuard, names=names), Middleware(ReadGuard, access=access)],
    )
    app.router.redirect_slashes = False
    return app


async def _no_such_page(request: Request, _: Exception) -> Response:
    """Answer for paths that no route has; those of routes do not reach beyond the end of a line."""
    return await no_such_path(request)


async def _no_such_method(_: Request, error: Exception) -> Response:
    allowed = (getattr(error, "headers", None) or {}).get("Allow", "GET")
    return wrong_method(allowed)


def _page(answer: Callable[[], Awaitable[Answer]]) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that answers as the page of the same name on the clients' port does."""

    async def respond(_: Request) -> Response:
        found = await answer()
        return PiecewiseResponse(found.content(), found.status, media_type="application/json")

    return respond


def _metrics(page: MetricsPage) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_: Request) -> Response:
        return PiecewiseResponse(await page.render(), headers={"content-type": CONTENT_TYPE})

    return respond
