"""Reads a router's settings. The command line overrides the environment, then the YAML file, then the defaults.

config = load_yaml("router.yaml")                          only the file
config = from_env(os.environ)                              only the environment, or the environment over another config
loaded = load_config("router.yaml", overrides={...})       all sources, with the source of each value
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

__all__ = ["LoadedConfig", "Origin", "OriginKind", "from_env", "load_config", "load_yaml"]

_DEFAULT = Origin(OriginKind.DEFAULT)
_COMMAND_LINE = Origin(OriginKind.COMMAND_LINE)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A config, and the source of each of its settings."""

    config: RouterConfig
    origins: Mapping[str, Origin]


def load_yaml(path: str | os.PathLike[str]) -> RouterConfig:
    """Return the config that a YAML file's `router` block describes; `yaml_file` documents the file's form.

    Raises:
        ConfigError: The file or a value in it is wrong; the message names the file, the key and the remedy.
    """
    return _read_file(path).build()


def from_env(environ: Mapping[str, str], base: RouterConfig | None = None) -> RouterConfig:
    """Return a config in which the `SHARED_REGISTRY_*` variables override the settings of another config.

    Args:
        environ: The variables, such as `os.environ`.
        base: The config to override; by default one with the default settings.

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
    """Return the config in force, from all sources, with the source of each setting.

    Args:
        path: A YAML file; by default none.
        environ: The variables; by default those of this process.
        overrides: Settings by name, typically from the command line. They override all other sources. A `None` value
            counts as absent.

    Raises:
        ConfigError: A setting or the file is wrong; the message lists all problems, each with its source.
    """
    draft = Draft() if path is None else _read_file(path)
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


def _read_file(path: str | os.PathLike[str]) -> Draft:
    from shared_registry.config.yaml_file import read_yaml  # noqa: PLC0415  slow to import, and commands need no file

    return read_yaml(path)
