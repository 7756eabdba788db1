"""The files of the dashboard. They need no other host and no build."""

from __future__ import annotations

import functools
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FILES = {
    "/": ("dashboard.html", "text/html"),
    "/dashboard.css": ("dashboard.css", "text/css"),
    "/dashboard.js": ("dashboard.js", "text/javascript"),
}
"""Each path with its file and its type."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FOLDER = Path(__file__).with_name("dashboard")


async def file_of_page(request: Request) -> Response:
    """Answer with a file of the page."""
    name, kind = FILES[request.url.path]
    return Response(_content(name), media_type=kind, headers={"content-security-policy": POLICY})


@functools.cache
def _content(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
