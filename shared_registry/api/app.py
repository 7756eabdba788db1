"""The pages of the admin address, as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared_registry.api.event_stream import EventStream
from shared_registry.api.guard import HostGuard
from shared_registry.api.live_data import LiveData
from shared_registry.api.page import FILES, file_of_page
from shared_registry.api.pieces import PiecewiseResponse
from shared_registry.config import RouterConfig
from shared_registry.proxy.answers import Answer
from shared_registry.proxy.app import Router
from shared_registry.telemetry.page import CONTENT_TYPE, MetricsPage


def admin_app(router: Router, config: RouterConfig, metrics: MetricsPage, live: LiveData) -> Starlette:
    """Return the application that shows a router to operators and programs. It changes nothing.

    Args:
        router: The router.
        config: The settings with which it has started.
        metrics: The page of its metrics.
        live: The live data of the dashboard.
    """
    names = [config.admin_host, *config.admin_names]
    return Starlette(
        routes=[
            Route("/healthz", _page(router.healthz)),
            Route("/readyz", _page(router.readyz)),
            Route("/status", _page(router.status)),
            Route("/metrics", _metrics(metrics)),
            Route("/events", EventStream(live)),
            *(Route(path, file_of_page) for path in FILES),
        ],
        middleware=[Middleware(HostGuard, names=names)],
    )


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
