"""`shared-registry wait`: waits until enough replicas are ready."""

from __future__ import annotations

import asyncio
import contextlib
import time

from shared_registry.admin.observer import Observer
from shared_registry.cli.access import unreachable
from shared_registry.config.address import RegistryAddress
from shared_registry.errors import StoreUnavailable

POLL_SECONDS = 0.2


async def wait_ready(settings: RegistryAddress, wanted: int, *, timeout_seconds: float) -> int:
    """Wait until `wanted` replicas are ready, or until the timeout, and return the number of ready replicas.

    The number is read at least once. While Redis cannot be reached, it is tried again.

    Raises:
        StoreUnavailable: Redis could not be reached when the time was up.
        StoreError: Redis refused the command; this is raised at once, since waiting would not help.
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
            await asyncio.sleep(min(POLL_SECONDS, left))
    if trouble is not None:
        raise unreachable(settings, trouble)
    return ready
