"""The router's own pages. The router answers every spelling of their paths, and never passes them to a replica.

A client that requests such a page asks about this router. Replicas have pages of the same names, and many servers treat
other spellings as the same path. If the router passed such a request on, the client would take a replica's figures for
those of the router.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared_registry.proxy.descriptors import is_of_guest

Page = Callable[[Request], Awaitable[Response]]

METHODS = ("GET", "HEAD")
MOST_DECODINGS = 4
"""How often a path is decoded. Each proxy and server in front of a replica's application may decode it once."""
_IGNORED = bytes(range(0x21)) + b"\x7f"
"""Control characters and white space, which some servers strip from the parts of a path."""
_END = re.compile(rb"[?#\0]")
_PARAMETERS = re.compile(rb";[^/]*")


class OwnPages:
    """The ASGI application in front of the proxies. It answers the router's own pages, and passes on all else."""

    def __init__(self, pages: Mapping[str, Page | None], *, http: ASGIApp, websocket: ASGIApp) -> None:
        """Create the application.

        Args:
            pages: The pages by path, in lower case. `None` reserves a path, and all paths below it, that has no page.
            http: The application for all other HTTP requests.
            websocket: The application for all other WebSockets.
        """
        self._pages = {path.encode(): page for path, page in pages.items()}
        self._reserved = tuple(path.encode() + b"/" for path, page in pages.items() if page is None)
        self._others = {"http": http, "websocket": websocket}

    def path_of(self, raw_path: bytes) -> bytes | None:
        """Return the path of the router's own page that a raw path means; `None` if it belongs to the replicas."""
        path = normal_path(raw_path)
        if path in self._pages:
            return path
        return next((reserved[:-1] for reserved in self._reserved if path.startswith(reserved)), None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        path = self.path_of(scope["raw_path"])
        if path is None and is_of_guest(scope):
            await _error(
                503,
                "gpu_unavailable",
                "this router has no room for more clients; try again soon",
                {"retry-after": "1"},
                retryable=True,
            )(scope, receive, send)
        elif path is None:
            await self._others[scope["type"]](scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # websocket.connect
            await _error(404, "not_found", f"{path.decode()} is the router's own page and takes no WebSocket")(
                scope, receive, send
            )
        else:
            response = await self._answer(path, self._pages[path], Request(scope, receive))
            if any(name == b"expect" for name, _ in scope["headers"]):
                response.headers["connection"] = "close"  # it is unknown whether the client sends its body now
            await response(scope, receive, send)

    async def _answer(self, path: bytes, page: Page | None, request: Request) -> Response:
        if page is None:
            return _error(404, "not_found", f"this router has no page {path.decode()}")
        if request.method not in METHODS:
            text = f"{path.decode()} is the router's own page: it can be read with {' or '.join(METHODS)}"
            return _error(405, "method_not_allowed", text, {"allow": ", ".join(METHODS)})
        return await page(request)


def normal_path(raw_path: bytes) -> bytes:
    """Return a path as the most lenient servers interpret it: decoded, with `..` resolved, and in lower case."""
    path = _decoded(raw_path) if b"%" in raw_path else raw_path
    kept: list[bytes] = []
    for segment in _PARAMETERS.sub(b"", path.replace(b"\\", b"/")).split(b"/"):
        name = segment.strip(_IGNORED)
        if name == b"..":
            kept = kept[:-1]
        elif name not in (b"", b"."):
            kept.append(name)
    return b"/" + b"/".join(kept).lower()


def _decoded(path: bytes) -> bytes:
    for _ in range(MOST_DECODINGS):
        decoded = unquote_to_bytes(path)
        if decoded == path:
            break
        path = decoded
    return _END.split(path, 1)[0]


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None, *, retryable: bool = False
) -> JSONResponse:
    frame = {"type": "error", "code": code, "message": message, "retryable": retryable}
    return JSONResponse(frame, status, headers)
