"""The router's own pages. The router answers every spelling of their paths, and never passes them to a replica.

A client that requests such a page asks about this router. Replicas have pages of the same names, and many servers treat
other spellings as the same path. If the router passed such a request on, the client would take a replica's figures for
those of the router.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote_to_bytes

from shared_registry.proxy.answers import Answer, refusal

Page = Callable[[], Awaitable[Answer]]

METHODS = ("GET", "HEAD")
KNOWN_PATHS, LONGEST_KNOWN = 1024, 256
"""How many paths are remembered in their normal form, and the longest of them."""
MOST_DECODINGS = 4
"""How often a path is decoded. Each proxy and server in front of a replica's application may decode it once."""
_IGNORED = bytes(range(0x21)) + b"\x7f"
"""Control characters and white space, which some servers strip from the parts of a path."""
_END = re.compile(rb"[?#\0]")
_PARAMETERS = re.compile(rb";[^/]*")


class OwnPages:
    """Answers the requests for the router's own pages."""

    def __init__(self, pages: Mapping[str, Page | None]) -> None:
        """Create the pages.

        Args:
            pages: The pages by path, in lower case. `None` reserves a path, and all paths below it, that has no page.
        """
        self._pages = {path.encode(): page for path, page in pages.items()}
        self._reserved = tuple(path.encode() + b"/" for path, page in pages.items() if page is None)

    def path_of(self, raw_path: bytes) -> bytes | None:
        """Return the path of the router's own page that a raw path means; `None` if it belongs to the replicas."""
        path = _known_path(raw_path) if len(raw_path) <= LONGEST_KNOWN else normal_path(raw_path)
        if path in self._pages:
            return path
        return next((reserved[:-1] for reserved in self._reserved if path.startswith(reserved)), None)

    async def answer(self, path: bytes, method: str, *, is_websocket: bool) -> Answer:
        """Return the answer to a request for one of the pages.

        Args:
            path: The page's path, as `path_of` returns it.
            method: The request's method.
            is_websocket: Whether the request is the handshake of a WebSocket.
        """
        name, page = path.decode(), self._pages[path]
        if is_websocket:
            return refusal(404, "not_found", f"{name} is the router's own page and takes no WebSocket")
        if page is None:
            return refusal(404, "not_found", f"this router has no page {name}")
        if method not in METHODS:
            text = f"{name} is the router's own page: it can be read with {' or '.join(METHODS)}"
            return refusal(405, "method_not_allowed", text, fields=((b"allow", ", ".join(METHODS).encode()),))
        return await page()


@functools.lru_cache(KNOWN_PATHS)
def _known_path(raw_path: bytes) -> bytes:
    return normal_path(raw_path)


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
