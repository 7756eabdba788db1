"""Where a router's settings come from: command line over environment over YAML file over defaults.

config = load_yaml("router.yaml")                          only the file
config = from_env(os.environ)                              only the environment, or on top of another config
loaded = load_config("router.yaml", overrides={...})       all of them, and where each value came from
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from shared_registry.config.draft import Draft, Origin, OriginKind
from shared_registry.config.env import read_env
from shared_registry.config.problems import Problem, unknown_setting
from shared_registry.config.settings import RouterConfig
from shared_registry.config.yaml_file import read_yaml

__all__ = ["LoadedConfig", "Origin", "OriginKind", "from_env", "load_config", "load_yaml"]

_DEFAULT = Origin(OriginKind.DEFAULT)
_COMMAND_LINE = Origin(OriginKind.COMMAND_LINE)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A config, and where each of its settings came from."""

    config: RouterConfig
    origins: Mapping[str, Origin]


def load_yaml(path: str | os.PathLike[str]) -> RouterConfig:
    """Return the config that a YAML file's `router` block describes; the file's form is told in `yaml_file`.

    Raises:
        ConfigError: The file or a value in it is wrong; the message names the file, the key and the remedy.
    """
    return read_yaml(path).build()


def from_env(environ: Mapping[str, str], base: RouterConfig | None = None) -> RouterConfig:
    """Return a config with the settings that `SHARED_REGISTRY_*` variables hold over those of another.

    Args:
        environ: The variables, such as `os.environ`.
        base: What the others are; by default the defaults.

    Raises:
        ConfigError: A value is wrong; the message names the variable.
    """
    draft = Draft() if base is None else Draft({item.name: getattr(base, item.name) for item in fields(base)})
    draft.update(read_env(environ))
    return draft.build()


def load_config(
    path: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> LoadedConfig:
    """Return the config in force, from all sources, with where each setting came from.

    Args:
        path: A YAML file; by default none.
        environ: The variables; by default those of this process.
        overrides: Settings by their names, typically from the command line; they win. `None` values count as absent.

    Raises:
        ConfigError: Anything is wrong; the message lists all of it, each with its source.
    """
    draft = Draft() if path is None else read_yaml(path)
    draft.update(read_env(os.environ if environ is None else environ))
    names = [item.name for item in fields(RouterConfig)]
    for name, value in (overrides or {}).items():
        if name not in names:
            draft.problems.append(Problem(unknown_setting(name, names), (), str(_COMMAND_LINE)))
        elif value is not None:
            draft.values[name] = value
            draft.origins[name] = _COMMAND_LINE
    config = draft.build()
    return LoadedConfig(config, MappingProxyType({name: draft.origins.get(name, _DEFAULT) for name in names}))
