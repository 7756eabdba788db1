"""The options that are accepted before and after the command's name, and the settings that they give."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shared_registry.config.address import RegistryAddress, short_address
from shared_registry.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from shared_registry.config import LoadedConfig, RouterConfig


class GlobalOptions:
    """The options that are accepted before and after the command's name."""

    __slots__ = ("as_json", "namespace", "redis")

    def __init__(self, redis: str | None = None, namespace: str | None = None, as_json: bool = False) -> None:  # noqa: FBT001, FBT002
        self.redis = redis
        self.namespace = namespace
        self.as_json = as_json

    def address(self, path: Path | None = None) -> RegistryAddress:
        """Return the settings that reading needs, from the same sources as `load`; much faster without a file.

        Raises:
            ConfigError: The file cannot be read, or a setting is wrong.
        """
        plain = None
        if path is None:
            plain = short_address(os.environ, redis_url=self.redis, namespace=self.namespace)
        return self.load(path) if plain is None else plain

    def load(self, path: Path | None = None, **overrides: Any) -> RouterConfig:
        """Return the settings in force. The command line overrides the environment, then the file, then the defaults.

        If the file has pools, they are those of the pool that the namespace names.

        Args:
            path: The YAML file, if one is given.
            overrides: Settings from a command's own options; `None` for an option that was not given.

        Raises:
            ConfigError: The file cannot be read, or a setting is wrong.
            UsageError: The file has several pools, and none was named.
        """
        loaded = self.load_with_origins(path, **overrides)
        return self._of_pool(loaded) if loaded.config.pools else loaded.config

    def _of_pool(self, loaded: LoadedConfig) -> RouterConfig:
        """Return the settings of one pool. Where no pool was named, and nothing else either, no router would be met."""
        from dataclasses import replace  # noqa: PLC0415  slow to import

        from shared_registry.config.draft import OriginKind  # noqa: PLC0415

        pools = loaded.config.pool_configs()
        origin, wanted = loaded.origins.get("namespace"), loaded.config.namespace
        is_named = origin is not None and origin.kind in (OriginKind.ENVIRONMENT, OriginKind.COMMAND_LINE)
        found = [
            one for name, one in pools.items() if wanted in (name, one.namespace) or (not is_named and len(pools) == 1)
        ]
        if len(found) == 1:
            return found[0] if self.redis is None else replace(found[0], redis_url=self.redis)
        if is_named and not found:
            return loaded.config
        names = ", ".join(sorted(one.namespace for one in pools.values()))
        raise UsageError(f"--namespace: name one of the pools of the settings; they have {names}")

    def load_with_origins(self, path: Path | None = None, **overrides: Any) -> LoadedConfig:
        """Return the settings in force, and the source of each."""
        from shared_registry.config import load_config  # noqa: PLC0415  slow to import

        overrides |= {"redis_url": self.redis, "namespace": self.namespace}
        return load_config(path, overrides=overrides)
