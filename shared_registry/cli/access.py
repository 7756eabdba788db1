"""Connects a command to a registry for one operation. If Redis cannot be reached, the error names its address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from shared_registry.admin.observer import Observer
from shared_registry.config.address import RegistryAddress
from shared_registry.errors import StoreUnavailable
from shared_registry.store.redis_url import mask_redis_url

if TYPE_CHECKING:
    from shared_registry.admin.operator import Operator
    from shared_registry.config import RouterConfig

T = TypeVar("T")


def observe(settings: RegistryAddress, read: Callable[[Observer], Awaitable[T]]) -> T:
    """Connect an `Observer`, read the registry with it, disconnect, and return what `read` returned.

    Raises:
        StoreUnavailable: Redis cannot be reached; the message names its address.
    """

    async def run() -> T:
        async with Observer(settings) as observer:
            return await read(observer)

    with explained(settings):
        return asyncio.run(run())


def operate(settings: RouterConfig, by: str | None, act: Callable[[Operator], Awaitable[T]]) -> T:
    """Connect an `Operator`, change the registry with it, disconnect, and return what `act` returned.

    Args:
        settings: The registry's address.
        by: The author of the change; if it is empty or `None`, the operator's default.
        act: The change.

    Raises:
        StoreUnavailable: Redis cannot be reached; the message names its address.
    """
    from shared_registry.admin.operator import Operator  # noqa: PLC0415  slow to import, and most commands only read

    async def run() -> T:
        async with Operator(settings, by=by or "") as operator:
            return await act(operator)

    with explained(settings):
        return asyncio.run(run())


@contextlib.contextmanager
def explained(settings: RegistryAddress) -> Iterator[None]:
    """Add the address of Redis to any `StoreUnavailable` that the block raises."""
    try:
        yield
    except StoreUnavailable as error:
        raise unreachable(settings, error) from error


def unreachable(settings: RegistryAddress, error: StoreUnavailable) -> StoreUnavailable:
    """Return a copy of the error whose message names the address of Redis, and asks about it if nothing answered."""
    from shared_registry.store.failover import is_read_only  # noqa: PLC0415  slow to import, and few commands fail
    from shared_registry.store.failures import was_refused  # noqa: PLC0415

    trouble, where = str(error).rstrip("."), mask_redis_url(settings.redis_url)
    if was_refused(error) and not is_read_only(error.__cause__):
        return StoreUnavailable(f"{trouble}; redis_url is {where}")
    return StoreUnavailable(f"{trouble}; is redis_url {where} the right one? --redis gives another")


def address_document(settings: RegistryAddress) -> dict[str, Any]:
    """Return the first fields of every JSON document: the registry's Redis and namespace."""
    return {"redis": mask_redis_url(settings.redis_url), "namespace": settings.namespace}
