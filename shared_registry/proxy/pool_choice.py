"""Decides to which pool a request belongs. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from urllib.parse import unquote

from shared_registry.config.pool_rules import PoolRule
from shared_registry.http1.fields import Headers
from shared_registry.proxy.paths import normal_path, normal_prefix

MODELS = b"/v1/models"


class Unknown(enum.Enum):
    """In place of a model that is not known yet."""

    MODEL = enum.auto()


class PoolChoice:
    """The rules of a router's pools, in the order in which they are tried.

    Attributes:
        is_by_model: Whether any of them needs the model.
    """

    def __init__(self, rules: Sequence[PoolRule]) -> None:
        self.is_by_model = any(rule.models for rule in rules)
        self._rules = [_Rule(rule) for rule in rules]

    def choose(self, path: bytes, fields: Headers, model: str | Unknown | None) -> str | Unknown | None:
        """Return the name of the pool; `None` if there is none, and `Unknown.MODEL` if that depends on the model.

        Args:
            path: The path in its normal form.
            fields: The request's headers, with names in lower case.
            model: The model that the request is for; `None` if it names none.
        """
        for rule in self._rules:
            if not rule.matches(path, fields):
                continue
            if not rule.models:
                return rule.name
            if model is Unknown.MODEL:
                return model
            if model is not None and rule.serves(str(model)):
                return rule.name
        return None

    def pool_of_model(self, model: str) -> str | None:
        """Return the name of the first pool that has a model; `None` if none has it."""
        return next((rule.name for rule in self._rules if rule.serves(model)), None)


def model_in_path(path: bytes) -> str | None:
    """Return the model in a path such as `/v1/models/llama-3`, as it was received; `None` if it has none."""
    if not normal_path(path).startswith(MODELS + b"/"):
        return None
    return unquote(path.split(b"/models/", 1)[-1].decode("latin-1"))


class _Rule:
    def __init__(self, rule: PoolRule) -> None:
        self.name = rule.name
        self.models = rule.models
        paths = [path.encode() for path in rule.paths]
        self._paths = frozenset(normal_path(path) for path in paths if not path.endswith(b"*"))
        self._prefixes = tuple(normal_prefix(path[:-1]) for path in paths if path.endswith(b"*"))
        self._hosts = frozenset(host for host in rule.hosts if not host.startswith("*"))
        self._domains = tuple(host[1:] for host in rule.hosts if host.startswith("*"))
        self._headers = [(name.encode(), text.encode()) for name, text in rule.headers.items()]
        self._has_path = bool(rule.paths)
        self._has_host = bool(rule.hosts)

    def matches(self, path: bytes, fields: Headers) -> bool:
        """Return whether a request meets all conditions but that of the model."""
        if self._has_path and path not in self._paths and not path.startswith(self._prefixes):
            return False
        if self._has_host:
            host = _host(fields)
            if host not in self._hosts and not host.endswith(self._domains):
                return False
        return all(pair in fields for pair in self._headers)

    def serves(self, model: str) -> bool:
        """Return whether the pool has a model."""
        return any(model.startswith(name[:-1]) if name.endswith("*") else model == name for name in self.models)


def _host(fields: Headers) -> str:
    text = next((value for name, value in fields if name == b"host"), b"").decode("latin-1").lower()
    host, colon, port = text.rpartition(":")
    return (host if colon and port.isdecimal() else text).rstrip(".")
