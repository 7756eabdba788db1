"""The router's own pages. The router answers every spelling of their paths, and never passes them to a replica.

A client that requests such a page asks about this router. Replicas have pages of the same names, and many servers treat
other spellings as the same path. If the router passed such a request on, the client would take a replica's figures for
those of the router.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from shared_registry.proxy.answers import Answer, error_answer

Page = Callable[[], Awaitable[Answer]]

METHODS = ("GET", "HEAD")


class OwnPages:
    """Answers the requests for the router's own pages."""

    def __init__(self, pages: Mapping[str, Page | None]) -> None:
        """Create the pages.

        Args:
            pages: The pages by path, in lower case. `None` reserves a path, and all paths below it, that has no page.
        """
        self._pages = {path.encode(): page for path, page in pages.items()}
        self._reserved = tuple(path.encode() + b"/" for path, page in pages.items() if page is None)

    def path_of(self, path: bytes) -> bytes | None:
        """Return the path of the router's own page that a normal path means; `None` if it belongs to the replicas."""
        if path in self._pages:
            return path
        if not path.startswith(self._reserved):
            return None
        return next(reserved[:-1] for reserved in self._reserved if path.startswith(reserved))

    async def answer(self, path: bytes, method: str, *, is_websocket: bool) -> Answer:
        """Return the answer to a request for one of the pages.

        Args:
            path: The page's path, as `path_of` returns it.
            method: The request's method.
            is_websocket: Whether the request is the handshake of a WebSocket.
        """
        name, page = path.decode(), self._pages[path]
        if is_websocket:
            return error_answer(404, "not_found", f"{name} is the router's own page and takes no WebSocket")
        if page is None:
            return error_answer(404, "not_found", f"this router has no page {name}")
        if method not in METHODS:
            text = f"{name} is the router's own page: it can be read with {' or '.join(METHODS)}"
            return error_answer(405, "method_not_allowed", text, fields=((b"allow", ", ".join(METHODS).encode()),))
        return await page()
