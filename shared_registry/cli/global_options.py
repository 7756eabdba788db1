"""The options that are accepted before and after the command's name, and the settings that they give."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shared_registry.config.address import RegistryAddress, plain_address

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
            plain = plain_address(os.environ, redis_url=self.redis, namespace=self.namespace)
        return self.load(path) if plain is None else plain

    def load(self, path: Path | None = None, **overrides: Any) -> RouterConfig:
        """Return the settings in force. The command line overrides the environment, then the file, then the defaults.

        Args:
            path: The YAML file, if one is given.
            overrides: Settings from a command's own options; `None` for an option that was not given.

        Raises:
            ConfigError: The file cannot be read, or a setting is wrong.
        """
        return self.load_with_origins(path, **overrides).config

    def load_with_origins(self, path: Path | None = None, **overrides: Any) -> LoadedConfig:
        """Return the settings in force, and the source of each."""
        from shared_registry.config import load_config  # noqa: PLC0415  slow to import

        overrides |= {"redis_url": self.redis, "namespace": self.namespace}
        return load_config(path, overrides=overrides)
