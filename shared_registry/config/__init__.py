"""The settings of a router: their meaning, the rules between them, and the sources of their values."""

from shared_registry.config.problems import InvalidSettings, Problem
from shared_registry.config.settings import SHARED_SETTINGS, RouterConfig, validate_endpoint
from shared_registry.config.sources import LoadedConfig, Origin, OriginKind, from_env, load_config, load_yaml

__all__ = [
    "SHARED_SETTINGS",
    "InvalidSettings",
    "LoadedConfig",
    "Origin",
    "OriginKind",
    "Problem",
    "RouterConfig",
    "from_env",
    "load_config",
    "load_yaml",
    "validate_endpoint",
]
