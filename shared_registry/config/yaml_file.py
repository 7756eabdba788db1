"""Reads settings from a YAML (or JSON) file.

    router:
      host, port, namespace, redis_url, router_id, lease_seconds, ...    all other settings, by their names
      replicas: [{url, ...}]              each with the attributes of a ReplicaEndpoint, or only a url
      health_check: {path, interval_seconds, timeout_seconds, failure_threshold, recovery_threshold, expect,
                     expect_text, expect_pattern, statuses, type, port, method, headers, request_body,
                     fast_interval_seconds, probe_concurrency}
      replica_tls: {ca_file, certificate_file, key_file, server_name, verify}

Other top-level blocks are ignored, because they may belong to other programs. A key without a value counts as absent.
An unknown key in these blocks causes a warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

import yaml
from yaml.representer import SafeRepresenter

from shared_registry.config.draft import ENDPOINT_KINDS, SETTING_KINDS, Draft, Origin, OriginKind, read_endpoints
from shared_registry.config.problems import Problem, nearest
from shared_registry.config.settings import RouterConfig
from shared_registry.config.yaml_syntax import YamlSource
from shared_registry.errors import ConfigError
from shared_registry.model import Labels

logger = logging.getLogger(__name__)

# So that `yaml.safe_dump(dataclasses.asdict(config))` writes what `read_yaml` reads.
SafeRepresenter.add_representer(Labels, SafeRepresenter.represent_dict)

HEALTH_CHECK_KEYS = {
    "path": "health_check_path",
    "interval_seconds": "health_check_interval_seconds",
    "timeout_seconds": "health_check_timeout_seconds",
    "failure_threshold": "failure_threshold",
    "recovery_threshold": "recovery_threshold",
    "expect": "health_check_expect",
    "expect_text": "health_check_expect_text",
    "expect_pattern": "health_check_expect_pattern",
    "statuses": "health_check_statuses",
    "type": "health_check_type",
    "port": "health_check_port",
    "method": "health_check_method",
    "headers": "health_check_headers",
    "request_body": "health_check_request_body",
    "fast_interval_seconds": "fast_interval_seconds",
    "probe_concurrency": "probe_concurrency",
}
"""The keys of the `health_check` block, and the setting of each."""

REPLICA_TLS_KEYS = {
    "ca_file": "replica_tls_ca_file",
    "certificate_file": "replica_tls_certificate_file",
    "key_file": "replica_tls_key_file",
    "server_name": "replica_tls_server_name",
    "verify": "replica_tls_verify",
}
"""The keys of the `replica_tls` block, and the setting of each."""

BLOCKS = {"health_check": HEALTH_CHECK_KEYS, "replica_tls": REPLICA_TLS_KEYS}
_IN_BLOCKS = {setting for keys in BLOCKS.values() for setting in keys.values()}

ROUTER_KEYS = tuple(item.name for item in fields(RouterConfig) if item.name not in _IN_BLOCKS)
"""The settings that are read from the `router` block under their own names."""

TEXTS = frozenset(
    {
        *(f"router.{name}" for name in ROUTER_KEYS if SETTING_KINDS[name] is str),
        *(f"router.{block}.{key}" for block, keys in BLOCKS.items() for key in keys if SETTING_KINDS[keys[key]] is str),
        *(f"router.replicas[].{name}" for name, kind in ENDPOINT_KINDS.items() if kind is str),
        "router.replicas[].labels.*",
        "router.replicas[].labels{}",
        "router.health_check.headers.*",
        "router.health_check.headers{}",
        "router.health_check.expect{}",
    }
)
"""The places of texts, as `YamlSource.changed_values` takes them."""


def read_yaml(path: str | os.PathLike[str]) -> Draft:
    """Read the `router` block of a file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or has no such block. Wrong values are listed in the draft.
    """
    name = os.fspath(path)
    value, problems = _parse(name)
    draft = _Reader(name).read(_router_block(name, value))
    draft.problems += problems
    return draft


def _parse(name: str) -> tuple[object, list[Problem]]:
    try:
        document = YamlSource(Path(name).read_bytes())
        repeated, changed = document.repeated_keys(), document.changed_values("router", TEXTS)
        value = document.value()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except yaml.MarkedYAMLError as error:
        # str(error) would quote the line, which may hold a password.
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{name}: not YAML: {place}{error.problem}; correct the syntax there") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{name}: not text: {error.reason} at {error.position}; save it as UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not usable YAML ({type(error).__name__}); simplify or quote its values") from None
    if repeated:
        raise ConfigError("; ".join(f"{name}: {one.path}: {one.text}" for one in repeated))
    return value, [Problem(f"{name}: line {one.line}: {one.path}: {one.text}") for one in changed]


def _router_block(name: str, document: object) -> Mapping[object, object]:
    if document is None:
        raise ConfigError(f"{name}: is empty; write a router: block, or `router: {{}}` for the defaults")
    if not isinstance(document, Mapping):
        raise ConfigError(f"{name}: must be a mapping with a router: block, not {_kind(document)}")
    if "router" not in document:
        guess = nearest("router", map(str, document))
        hint = f"did you mean {guess}: to be router:?" if guess else "add one, or `router: {}` for the defaults"
        raise ConfigError(f"{name}: has no router: block; {hint}")
    router = document["router"]
    if not isinstance(router, Mapping):
        raise ConfigError(
            f"{name}: router: must be a mapping, not {_kind(router)}; write `router: {{}}` for the defaults"
        )
    return router


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


class _Reader:
    """Reads one file's blocks into a draft."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._draft = Draft()

    def read(self, router: Mapping[object, object]) -> Draft:
        blocks = dict(router)
        grouped = {name: blocks.pop(name, None) for name in BLOCKS}
        replicas = blocks.pop("replicas", None)
        self._settings("router", blocks, {key: key for key in ROUTER_KEYS}, also=tuple(BLOCKS))
        for name, block in grouped.items():
            if isinstance(block, Mapping):
                self._settings(f"router.{name}", block, BLOCKS[name])
            elif block is not None:
                text = f"{self._name}: router.{name}: must be a mapping such as {_EXAMPLES[name]}, not {_kind(block)}"
                self._draft.problems.append(Problem(text))
        if replicas is not None:
            endpoints = read_endpoints(replicas, lambda at, key: self._warn(f"router.{at}", key, ENDPOINT_KINDS))
            self._draft.put("replicas", endpoints, self._origin("router.replicas"))
        return self._draft

    def _settings(
        self, block: str, items: Mapping[object, object], keys: Mapping[str, str], also: tuple[str, ...] = ()
    ) -> None:
        for key, value in items.items():
            setting = keys.get(str(key))
            if setting is None:
                self._warn(block, str(key), [*keys, *also])
            elif value is not None:
                self._draft.put(setting, value, self._origin(f"{block}.{key}"))

    def _origin(self, key: str) -> Origin:
        return Origin(OriginKind.FILE, f"{key} in {self._name}")

    def _warn(self, block: str, key: str, known: Iterable[str]) -> None:
        known = sorted(known)
        guess = _HOMES.get(key) or nearest(key, known)
        hint = f"did you mean {guess}?" if guess else f"known keys: {', '.join(known)}"
        logger.warning("%s: unknown key %r in %s is ignored; %s", self._name, key, block, hint)


_EXAMPLES = {"health_check": "{path: /health}", "replica_tls": "{ca_file: /etc/ssl/replicas.pem}"}
_HOMES = {
    spelling: f"router.{block}.{key}"
    for block, keys in BLOCKS.items()
    for key, setting in keys.items()
    for spelling in (key, setting)
} | {key: f"router.{key}" for key in ROUTER_KEYS}
"""The right place of each key, for keys that were found in the wrong block."""
