"""Tells a request that its client is gone while nobody reads its body, for which ASGI has no message."""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.types import Scope

_EXTENSION = "shared_registry.departure"


def announce(scope: Scope, departed: asyncio.Future[None]) -> None:
    """Put into a request's scope what is done once its client is gone."""
    scope.setdefault("extensions", {})[_EXTENSION] = {"departed": departed}


def departure_of(scope: Scope) -> asyncio.Future[None] | None:
    """Return what is done once a request's client is gone; `None` with a server that does not tell."""
    told = scope.get("extensions", {}).get(_EXTENSION)
    return None if told is None else cast("asyncio.Future[None]", told["departed"])
