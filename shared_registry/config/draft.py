"""Settings before they become a `RouterConfig`: the raw values, the source of each, and the problems found so far."""

from __future__ import annotations

import enum
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from shared_registry.config.json_text import read_json
from shared_registry.config.problems import InvalidSettings, Problem
from shared_registry.config.settings import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint


class OriginKind(enum.Enum):
    """The kinds of sources of a setting. Each overrides those before it."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a setting's value.

    Attributes:
        kind: The kind of source.
        place: The key and the file, or the variable, as text for people.
    """

    kind: OriginKind
    place: str = ""

    def __str__(self) -> str:
        return self.place or f"the {self.kind.value}"


@dataclass
class Draft:
    """The settings read from one source, or from several one after the other. `build()` makes a config of them."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def put(self, name: str, value: object, origin: Origin) -> None:
        """Set a value, after converting it from its source's form; see `read_as`.

        Raises:
            ConfigError: A JSON text has a key twice.
        """
        try:
            self.values[name] = read_as(SETTING_KINDS[name], value)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        self.origins[name] = origin

    def update(self, stronger: Draft) -> None:
        """Override the values with those of another draft, and add its problems."""
        self.values |= stronger.values
        self.origins |= stronger.origins
        self.problems += stronger.problems

    def build(self) -> RouterConfig:
        """Return the config.

        Raises:
            ConfigError: There are problems; the message lists all of them, each with the source of the value.
        """
        problems = self.problems
        config = None
        try:
            config = RouterConfig(**typing.cast("dict[str, Any]", self.values))
        except InvalidSettings as error:
            problems = problems + [self._located(problem) for problem in error.problems]
        if problems or config is None:
            raise InvalidSettings(problems)
        return config

    def _located(self, problem: Problem) -> Problem:
        places = [str(self.origins[name]) for name in problem.fields if name in self.origins]
        return Problem(problem.text, problem.fields, " and ".join(dict.fromkeys(places)))


def _kinds(settings: type) -> dict[str, type]:
    """Return the plain type of each field; for an optional field, the type of its value."""
    hints = typing.get_type_hints(settings)
    kinds = {}
    for item in fields(settings):
        hint = hints[item.name]
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
        kinds[item.name] = typing.get_origin(hint) or hint
    return kinds


SETTING_KINDS = _kinds(RouterConfig)
ENDPOINT_KINDS = _kinds(ReplicaEndpoint)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def read_as(kind: type, value: object) -> object:
    """Convert a value from a file or variable, which may be a text, to the type of its setting.

    A value that cannot be converted is returned unchanged, and the config's own checks refuse it.

    Raises:
        ConfigError: A JSON text has a key twice.
    """
    return _READERS[kind](value) if kind in _READERS else value


def read_endpoints(items: object, unknown: Callable[[str, str], None]) -> object:
    """Convert the items of a list to endpoints.

    Any other item stays unchanged, and the config's own checks refuse it with its index in the list.

    Args:
        items: Mappings with the attributes of a `ReplicaEndpoint`, and urls.
        unknown: Called for each unknown key, with the item's place, such as `replicas[3]`, and the key.
    """
    if not isinstance(items, list):
        return items
    return [_endpoint(item, functools.partial(unknown, f"replicas[{index}]")) for index, item in enumerate(items)]


def _endpoint(item: object, unknown: Callable[[str], None]) -> object:
    if isinstance(item, str):
        return ReplicaEndpoint(item)
    if not isinstance(item, Mapping):
        return item
    values: dict[str, Any] = {"url": ""}
    for key, value in item.items():
        kind = ENDPOINT_KINDS.get(str(key))
        if kind is None:
            unknown(str(key))
        elif value is not None:
            values[str(key)] = read_as(kind, value)
    return ReplicaEndpoint(**values)


def _text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _flag(value: object) -> object:
    return _FLAGS.get(str(value).strip().lower(), value) if isinstance(value, str | int) else value


def _whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) else value


def _number(value: object) -> object:
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else value


def _mapping(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return read_json(value)
    except ConfigError:
        raise
    except (ValueError, RecursionError):
        return value


_READERS: Mapping[type, Callable[[object], object]] = {
    str: _text,
    bool: _flag,
    int: _whole,
    float: _number,
    dict: _mapping,
}
