"""The settings of a router: their meaning, the rules between them, and the sources of their values.

The names below are imported on use: the rules take long to import, and `address` does without them.
"""

from importlib import import_module

TYPE_CHECKING = False  # what type checkers take for true
if TYPE_CHECKING:
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

_HOMES = {
    "problems": ("InvalidSettings", "Problem"),
    "settings": ("SHARED_SETTINGS", "RouterConfig", "validate_endpoint"),
    "sources": ("LoadedConfig", "Origin", "OriginKind", "from_env", "load_config", "load_yaml"),
}


def __getattr__(name: str) -> object:
    """Import a name at its first use (PEP 562)."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return found
