"""The form of the setting `pools`: several namespaces behind one router, and which requests belong to which.

A list of pools, of which the first that matches a request takes it:

    - {name: llama, models: [llama-3-70b, "llama-3-8b*"], replicas: [...]}
    - {name: video, paths: [/v1/videos/*], queue_timeout_seconds: 60}
    - {name: rest}

A pool without conditions takes every request. Further keys of a pool are settings of that pool; all others are those of
the router.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from shared_registry.config.problems import nearest, shorten
from shared_registry.config.rule_list import read_rules
from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint
from shared_registry.store.keys import NAMESPACE_PATTERN

MOST_POOLS = 100
CONDITIONS = ("models", "paths", "hosts", "headers")
_PATH = re.compile(r"/[\x21-\x7e]{0,1000}|\*")
_WORD = re.compile(r"[\x21-\x7e]{1,256}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^`|~-]{1,128}")


@dataclass(frozen=True, slots=True)
class PoolRule:
    """One pool. A request belongs to it if each kind of condition that it has is met.

    Attributes:
        name: The pool's name.
        models: Names of models, as the field `model` of a JSON body; they may end with `*`.
        paths: Paths; they may end with `*`.
        hosts: Hosts of the header `Host`, without a port; they may begin with `*.`.
        headers: Headers and the value that each must have.
        settings: The settings of the pool that differ from the router's.
    """

    name: str
    models: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def check_pools(value: object) -> tuple[PoolRule, ...]:
    """Return the pools of the setting `pools`. Their own settings are checked later, with the router's.

    Args:
        value: A list of pools, each a mapping or a `PoolRule`; or the same as JSON text.

    Raises:
        ConfigError: The value is not such a list.
    """
    rules = read_rules("pools", value, example="[{name: llama, models: [llama-3]}]", most=MOST_POOLS)
    pools = tuple(
        rule if isinstance(rule, PoolRule) else _checked(f"pools[{at}]", rule) for at, rule in enumerate(rules)
    )
    names = [pool.name for pool in pools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"pools: {twice} is the name of two pools; give each a name of its own")
    return pools


def _checked(where: str, rule: object) -> PoolRule:
    if not isinstance(rule, Mapping):
        raise ConfigError(f"{where}: must be a mapping such as {{name: llama, models: [llama-3]}}, got {shorten(rule)}")
    name = rule.get("name")
    if not isinstance(name, str) or not NAMESPACE_PATTERN.fullmatch(name):
        raise ConfigError(f"{where}.name: {shorten(name)} is no name; use 1 to 64 of A-Z a-z 0-9 _ . -")
    settings = {}
    for key, one in rule.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: unknown key {shorten(key)}; keys are texts")
        if key != "name" and key not in CONDITIONS:
            settings[key] = _replicas(f"{where}.replicas", one) if key == "replicas" else one
    return PoolRule(
        name,
        models=_words(f"{where}.models", rule.get("models"), _WORD, "llama-3-70b or llama-3*"),
        paths=_words(f"{where}.paths", rule.get("paths"), _PATH, "/v1/videos/*"),
        hosts=tuple(one.lower() for one in _words(f"{where}.hosts", rule.get("hosts"), _WORD, "video.example.com")),
        headers=_headers(f"{where}.headers", rule.get("headers")),
        settings=settings,
    )


def _replicas(where: str, value: object) -> object:
    """Convert urls and mappings to endpoints. What is wrong in another way is refused with the pool's settings."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ConfigError(f"{where}: must be a list of urls and mappings, got {shorten(value)}")
    known = [item.name for item in fields(ReplicaEndpoint)]
    endpoints = []
    for at, one in enumerate(value):
        given = {"url": one} if isinstance(one, str) else one
        if isinstance(given, Mapping):
            if wrong := next((key for key in given if key not in known), None):
                guess = nearest(str(wrong), known)
                hint = f"did you mean {guess}?" if guess else f"known keys: {', '.join(known)}"
                raise ConfigError(f"{where}[{at}]: unknown key {shorten(wrong)}; {hint}")
            given = ReplicaEndpoint(**{"url": "", **given})
        endpoints.append(given)
    return endpoints


def _words(where: str, value: object, form: re.Pattern[str], example: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        raise ConfigError(f"{where}: must be a list such as [{example}], got {shorten(value)}")
    for one in value:
        if not isinstance(one, str) or not form.fullmatch(one) or "*" in one.removeprefix("*.").removesuffix("*"):
            raise ConfigError(f"{where}: {shorten(one)} is not usable; write for example {example}")
    return tuple(value)


def _headers(where: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{where}: must be a mapping such as {{X-Pool: video}}, got {shorten(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise ConfigError(f"{where}: {shorten(name)} is no name of a header; write for example X-Pool")
        if not isinstance(text, str) or not text.isprintable():
            raise ConfigError(f"{where}.{name}: must be a text, got {shorten(text)}; put numbers in quotes")
    return {name.lower(): text for name, text in value.items()}
