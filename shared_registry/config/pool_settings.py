"""The settings of each pool: the router's, with those of the pool in their place."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from shared_registry.config.pool_rules import CONDITIONS, PoolRule
from shared_registry.config.problems import InvalidSettings, Problem, nearest
from shared_registry.config.registry_settings import RegistrySettings

if TYPE_CHECKING:
    from shared_registry.config.settings import RouterConfig

OF_A_POOL = frozenset(item.name for item in fields(RegistrySettings)) - {"host", "port", "router_id"} | {
    "connect_timeout_seconds",
    "first_byte_timeout_seconds",
    "replica_idle_seconds",
    "routes",
    "placement",
    "session_key",
    "on_lost",
    "queue_timeout_seconds",
    "max_frame_bytes",
    "websocket_ping_seconds",
}
"""The settings that a pool may have. All others belong to the process, or to its connections with clients."""


def pool_configs(config: RouterConfig) -> dict[str, RouterConfig]:
    """Return the config of each pool by its name.

    The namespace of a pool is its name, unless it has the setting `namespace`.

    Raises:
        InvalidSettings: A pool has a wrong setting, or two pools share a namespace.
    """
    found: dict[str, RouterConfig] = {}
    problems: list[Problem] = []
    if config.pools and config.replicas:
        problems.append(Problem("replicas: while there are pools, each replica belongs to one; move them there"))
    if config.pools and config.discovery:
        problems.append(Problem("discovery: while there are pools, each source belongs to one; move it there"))
    owners: dict[tuple[str, str], str] = {}
    for pool in config.pools:
        unknown = [_unknown(pool, name) for name in pool.settings if name not in OF_A_POOL]
        if unknown:
            problems += unknown
            continue
        try:
            made = replace(
                config, **{"namespace": pool.name, "replicas": [], "discovery": (), **pool.settings, "pools": ()}
            )
        except InvalidSettings as error:
            problems += [Problem(f"pools: {pool.name}: {problem.text}") for problem in error.problems]
            continue
        owner = owners.setdefault((made.redis_url, made.namespace), pool.name)
        if owner != pool.name:
            problems.append(Problem(f"pools: {owner} and {pool.name} share the namespace {made.namespace}"))
        found[pool.name] = made
    if problems:
        raise InvalidSettings(problems)
    return found


def _unknown(pool: PoolRule, name: str) -> Problem:
    guess = nearest(name, [*OF_A_POOL, *CONDITIONS])
    hint = f"did you mean {guess}?" if guess else "it belongs to the router as a whole, or is none"
    return Problem(f"pools: {pool.name} cannot have {name}; {hint}")
