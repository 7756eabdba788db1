"""The pool of a router that a request or a load balancer names."""

from __future__ import annotations

from shared_registry.proxy.app import Router
from shared_registry.proxy.pool import Pool


def pool_named(router: Router, name: str) -> Pool | None:
    """Return the pool with this name; a router without pools has one for every name. `None` if there is none."""
    return router.pools.get("") or router.pools.get(name)


def can_tell(pool: Pool) -> bool:
    """Whether what the router knows of a pool is current enough to act on it, as it is for `select()`."""
    return pool.registry.is_started and not pool.registry.is_stale
