"""Keeps pages of other sites from reading the admin address through an operator's browser.

The address has no password: whoever reaches it may read it. A page of another site may not, although it runs in the
browser of somebody who reaches it. Browsers keep such a page from reading responses, unless its own name is made to
lead to this address (DNS rebinding). Its requests then name that host. Therefore a request is answered only if its
`Host` is an IP address, `localhost`, this machine, or a name of the settings.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared_registry.api.problems import ApiProblem

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Headers of every response."""


class HostGuard:
    """An ASGI application in front of another one, which refuses requests for other hosts and from other origins."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        """Guard an application.

        Args:
            app: The application.
            names: The further host names by which the address may be reached.
        """
        self._app = app
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in present)]
            await send(message)

        refusal = self._refusal_of(Headers(scope=scope))
        app = self._app if refusal is None else refusal.response()
        await app(scope, receive, send_with_headers)

    def _refusal_of(self, headers: Headers) -> ApiProblem | None:
        hosts = headers.getlist("host")
        host = _host_of(f"//{hosts[0]}") if len(hosts) == 1 else None
        if host is None or not (host in self._names or host.endswith(".localhost") or _is_address(host)):
            remedy = "use an IP address or localhost, or list the name in admin_names"
            return ApiProblem("not_allowed", "this host name is not known here", remedy)
        origin = headers.get("origin")
        if origin is not None and _netloc_of(origin) != hosts[0].lower():
            return ApiProblem("not_allowed", "pages of other origins may not use this address", "open it directly")
        return None


def _netloc_of(url: str) -> str | None:
    """Return the host and port of a url, in lower case; `None` if there are none."""
    try:
        return urlsplit(url).netloc.lower() or None
    except ValueError:
        return None


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
