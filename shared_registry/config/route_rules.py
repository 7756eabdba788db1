"""The form of the setting `routes`, which says for which requests a slot is acquired, and which are refused.

A list of rules, of which the first that matches a request decides:

    - {path: /v1/models, place: any}
    - {path: /jobs/*, methods: [PUT, DELETE], place: lease}
    - {path: /internal/*, place: none}

`path` is a path, or the beginning of one followed by `*`. `methods` are HTTP methods, or WEBSOCKET for the handshake of
a WebSocket, which is not matched by GET; without it the rule is for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, cast

from shared_registry.config.problems import nearest, shorten
from shared_registry.config.rule_list import read_rules
from shared_registry.errors import ConfigError

Place = Literal["lease", "any", "none"]

WEBSOCKET = "WEBSOCKET"
PLACES: tuple[Place, ...] = ("lease", "any", "none")
MOST_RULES = 1000
_PATH = re.compile(r"/[\x21-\x7e]{0,1000}|\*")
_METHOD = re.compile(r"[A-Z][A-Z-]{0,30}")


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One rule.

    Attributes:
        path: The path, or its beginning followed by `*`.
        place: `lease` acquires a slot, `any` passes the request to any healthy replica without a slot, and `none`
            refuses it.
        methods: The methods that the rule is for; empty for all.
    """

    path: str
    place: Place
    methods: tuple[str, ...] = ()


def check_routes(value: object) -> tuple[RouteRule, ...]:
    """Return the rules of the setting `routes`.

    Args:
        value: A list of rules, each a mapping or a `RouteRule`; or the same as JSON text.

    Raises:
        ConfigError: The value is not such a list.
    """
    rules = read_rules("routes", value, example="[{path: /v1/models, place: any}]", most=MOST_RULES)
    return tuple(_checked(f"routes[{at}]", rule) for at, rule in enumerate(rules))


def _checked(where: str, rule: object) -> RouteRule:
    if isinstance(rule, RouteRule):
        rule = {"path": rule.path, "place": rule.place, "methods": list(rule.methods)}
    if not isinstance(rule, Mapping):
        raise ConfigError(f"{where}: must be a mapping such as {{path: /v1/models, place: any}}, got {shorten(rule)}")
    known = [field.name for field in fields(RouteRule)]
    for key in rule:
        if key not in known:
            guess = nearest(str(key), known)
            hint = f"did you mean {guess}?" if guess else f"known keys: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {shorten(key)}; {hint}")
    path, place, methods = rule.get("path"), rule.get("place"), rule.get("methods") or ()
    if not is_path(path):
        raise ConfigError(f"{where}.path: {shorten(path)} is not usable; write a path such as /v1/models or /jobs/*")
    if place not in PLACES:
        raise ConfigError(f"{where}.place: must be {', '.join(PLACES[:-1])} or {PLACES[-1]}, got {shorten(place)}")
    if isinstance(methods, str) or not isinstance(methods, Sequence):
        raise ConfigError(f"{where}.methods: must be a list such as [GET, HEAD], got {shorten(methods)}")
    names = [name.upper() if isinstance(name, str) else "" for name in methods]
    if wrong := next((given for given, name in zip(methods, names, strict=True) if not _METHOD.fullmatch(name)), None):
        raise ConfigError(f"{where}.methods: {shorten(wrong)} is no method; write for example GET, POST or {WEBSOCKET}")
    return RouteRule(cast("str", path), cast("Place", place), tuple(names))


def is_path(value: object) -> bool:
    """Return whether a value is a path, or the beginning of one followed by an asterisk."""
    return isinstance(value, str) and _PATH.fullmatch(value) is not None and "*" not in value[:-1]
