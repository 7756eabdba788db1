"""The event loop of a router process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def serving_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop factory if uvloop is installed, and otherwise `None`."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop
