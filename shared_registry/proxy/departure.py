"""Reports to a request that its client has left while its body is not read; ASGI has no message for this."""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.types import Scope

_EXTENSION = "shared_registry.departure"


def announce(scope: Scope, departed: asyncio.Future[None]) -> None:
    """Put a future into a request's scope. The server completes it when the client has left."""
    scope.setdefault("extensions", {})[_EXTENSION] = {"departed": departed}


def departure_of(scope: Scope) -> asyncio.Future[None] | None:
    """Return the future that completes when a request's client has left; `None` if the server does not provide it."""
    extension = scope.get("extensions", {}).get(_EXTENSION)
    return None if extension is None else cast("asyncio.Future[None]", extension["departed"])
