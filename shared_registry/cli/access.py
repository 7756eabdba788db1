"""How a command gets at a registry: from outside, once, and with an error that says where it looked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from shared_registry.admin.observer import Observer
from shared_registry.admin.operator import Operator
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreUnavailable
from shared_registry.store.redis_url import mask_redis_url

T = TypeVar("T")


def observe(settings: RouterConfig, look: Callable[[Observer], Awaitable[T]]) -> T:
    """Connect, look, disconnect."""

    async def run() -> T:
        async with Observer(settings) as observer:
            return await look(observer)

    with explained(settings):
        return asyncio.run(run())


def operate(settings: RouterConfig, by: str | None, act: Callable[[Operator], Awaitable[T]]) -> T:
    """Connect, change something, disconnect."""

    async def run() -> T:
        async with Operator(settings, by=by or "") as operator:
            return await act(operator)

    with explained(settings):
        return asyncio.run(run())


@contextlib.contextmanager
def explained(settings: RouterConfig) -> Iterator[None]:
    """Let an error that Redis cannot be reached say which Redis was meant."""
    try:
        yield
    except StoreUnavailable as error:
        raise unreachable(settings, error) from error


def unreachable(settings: RouterConfig, error: StoreUnavailable) -> StoreUnavailable:
    """Return the error with the Redis that was meant."""
    trouble, where = str(error).rstrip("."), mask_redis_url(settings.redis_url)
    return StoreUnavailable(f"{trouble}; is redis_url {where} the right one? --redis gives another")


def place(settings: RouterConfig) -> dict[str, Any]:
    """Return how every document for programs begins: which registry it is about."""
    return {"redis": mask_redis_url(settings.redis_url), "namespace": settings.namespace}
