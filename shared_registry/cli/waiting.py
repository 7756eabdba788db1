"""`shared-registry wait`: until enough replicas may take a session."""

from __future__ import annotations

import asyncio
import contextlib
import time

from shared_registry.admin.observer import Observer
from shared_registry.cli.access import unreachable
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreUnavailable

LOOK_SECONDS = 0.2


async def wait_ready(settings: RouterConfig, wanted: int, *, timeout_seconds: float) -> int:
    """Return how many replicas are ready, as soon as enough are, or when the time is up. Looks at least once.

    Raises:
        StoreUnavailable: Redis could not be reached when the time was up.
        StoreError: Redis refuses, which waiting does not change.
    """
    deadline = time.monotonic() + timeout_seconds
    async with contextlib.AsyncExitStack() as stack:
        observer: Observer | None = None
        while True:
            try:
                if observer is None:
                    observer = await stack.enter_async_context(Observer(settings))
                ready, trouble = await observer.ready_count(), None
            except StoreUnavailable as error:
                ready, trouble = 0, error
            left = deadline - time.monotonic()
            if (trouble is None and ready >= wanted) or left <= 0:
                break
            await asyncio.sleep(min(LOOK_SECONDS, left))
    if trouble is not None:
        raise unreachable(settings, trouble)
    return ready
