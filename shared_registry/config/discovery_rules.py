"""The form of the setting `discovery`: from where the leader learns which replicas there are.

A list of sources, each with a name and a kind:

    - {kind: file, name: fleet, path: /etc/shared-registry/replicas.yaml}
    - {kind: dns, name: pods, host: replicas.svc.example, port: 8000, capacity: 4}
    - {kind: kubernetes, name: pods, service: replicas, port: http}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from shared_registry.config.problems import nearest, shorten
from shared_registry.config.rule_list import read_rules
from shared_registry.errors import ConfigError
from shared_registry.store.keys import NAMESPACE_PATTERN
from shared_registry.urls import canonical_url

DiscoveryKind = Literal["file", "dns", "kubernetes"]

KINDS: tuple[DiscoveryKind, ...] = ("file", "dns", "kubernetes")
MOST_SOURCES = 100
MOST_CAPACITY = 2**53
_EXAMPLE = "{kind: dns, name: pods, host: replicas.example, port: 8000}"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+|[0-9a-fA-F:]+)(:[0-9]{1,5})?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,126}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9_./:@+-]{0,128}")


@dataclass(frozen=True, slots=True)
class ReadingRule:
    """What is read from a replica itself.

    Attributes:
        path: The path that is requested of it; the answer is a JSON object.
        field: The field of that; with dots, a nested one.
        value: The value that the field has if the replica is ready; not for capacity.
    """

    path: str
    field: str
    value: bool | int | str = True


@dataclass(frozen=True, slots=True)
class DiscoveryRule:
    """One source.

    Attributes:
        kind: What it is.
        name: Its name, by which its replicas belong to it.
        path: The file with the list of replicas.
        host: The DNS name whose addresses, or whose SRV records, are the replicas.
        record: The DNS records that are requested.
        nameservers: The DNS servers; those of the system if there are none.
        service: The Kubernetes service whose endpoints are the replicas.
        namespace: Its Kubernetes namespace; that of the router's pod if it is empty.
        server: The url of the API server; that of the cluster in which the router runs if it is empty.
        token_file: The file with the token for the API server.
        ca_file: The file with the certificate authorities of the API server.
        port: The port of each replica; for Kubernetes a number, or a port's name.
        scheme: The scheme of the replicas' urls.
        primary: Whether the replicas are primaries.
        weight: The weight of each.
        capacity: The capacity of each; 0 for unlimited.
        labels: The labels of each.
        capacity_from: Where each replica says how many sessions it takes; `None` if it does not.
        ready_from: Where each replica says whether it takes sessions; `None` if it does not.
        interval_seconds: The time between two answers of the source.
        confirm_seconds: How long many replicas must be missing before they are removed.
    """

    kind: DiscoveryKind
    name: str
    path: str = ""
    host: str = ""
    record: Literal["address", "srv"] = "address"
    nameservers: tuple[str, ...] = ()
    service: str = ""
    namespace: str = ""
    server: str = ""
    token_file: str = ""
    ca_file: str = ""
    port: int | str = 0
    scheme: Literal["http", "https"] = "http"
    primary: bool = True
    weight: float = 1.0
    capacity: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity_from: ReadingRule | None = None
    ready_from: ReadingRule | None = None
    interval_seconds: float = 5.0
    confirm_seconds: float = 300.0

    @property
    def source(self) -> str:
        """What stands as the source of its replicas in Redis."""
        return f"{self.kind}:{self.name}"


_OF_ALL = frozenset({"kind", "name", "interval_seconds", "confirm_seconds", "capacity_from", "ready_from"})
_OF_SPECS = frozenset({"scheme", "primary", "weight", "capacity", "labels", "port"})
KEYS: Mapping[str, frozenset[str]] = {
    "file": _OF_ALL | {"path"},
    "dns": _OF_ALL | _OF_SPECS | {"host", "record", "nameservers"},
    "kubernetes": _OF_ALL | _OF_SPECS | {"service", "namespace", "server", "token_file", "ca_file"},
}
_REQUIRED: Mapping[str, tuple[str, ...]] = {"file": ("path",), "dns": ("host",), "kubernetes": ("service", "port")}


def check_discovery(value: object) -> tuple[DiscoveryRule, ...]:
    """Return the sources of the setting `discovery`.

    Args:
        value: A list of sources, each a mapping or a `DiscoveryRule`; or the same as JSON text.

    Raises:
        ConfigError: The value is not such a list, or two sources share a name.
    """
    rules = read_rules("discovery", value, example=f"[{_EXAMPLE}]", most=MOST_SOURCES)
    checked = tuple(
        rule if isinstance(rule, DiscoveryRule) else _checked(f"discovery[{at}]", rule) for at, rule in enumerate(rules)
    )
    sources = [rule.source for rule in checked]
    if twice := next((source for source in sources if sources.count(source) > 1), None):
        raise ConfigError(f"discovery: {twice} is the name of two sources; give each a name of its own")
    return checked


def _checked(where: str, rule: object) -> DiscoveryRule:
    if not isinstance(rule, Mapping):
        raise ConfigError(f"{where}: must be a mapping such as {_EXAMPLE}, got {shorten(rule)}")
    kind = rule.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{where}.kind: must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {shorten(kind)}")
    known = KEYS[kind]
    for key in rule:
        if key not in known:
            guess = nearest(str(key), known)
            hint = f"did you mean {guess}?" if guess else f"known keys of {kind}: {', '.join(sorted(known))}"
            raise ConfigError(f"{where}: unknown key {shorten(key)}; {hint}")
    for key in ("name", *_REQUIRED[kind]):
        if rule.get(key) in (None, ""):
            raise ConfigError(f"{where}.{key}: is missing; a source of kind {kind} needs it")
    given = {str(key): _CHECKS[str(key)](f"{where}.{key}", one) for key, one in rule.items() if one is not None}
    checked = DiscoveryRule(**cast("dict[str, Any]", given))
    if kind == "dns" and isinstance(checked.port, str):
        raise ConfigError(f"{where}.port: must be a number from 1 to 65535, got {shorten(checked.port)}")
    if kind == "dns" and checked.record == "address" and not checked.port:
        raise ConfigError(f"{where}.port: is missing; only SRV records (record: srv) bring ports")
    return checked


def _text(pattern: re.Pattern[str], example: str) -> Callable[[str, object], object]:
    def check(where: str, value: object) -> object:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        raise ConfigError(f"{where}: {shorten(value)} is not usable; write for example {example}")

    return check


def _one_of(*words: str) -> Callable[[str, object], object]:
    def check(where: str, value: object) -> object:
        if value in words:
            return value
        raise ConfigError(f"{where}: must be {' or '.join(words)}, got {shorten(value)}")

    return check


def _number(least: float, most: float, *, is_whole: bool = False) -> Callable[[str, object], object]:
    kinds = int if is_whole else (int, float)
    what = "whole number" if is_whole else "number"

    def check(where: str, value: object) -> object:
        if isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most:
            return value if is_whole else float(cast("float", value))
        raise ConfigError(f"{where}: must be a {what} from {least:g} to {most:g}, got {shorten(value)}")

    return check


def _file(where: str, value: object) -> object:
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value
    raise ConfigError(f"{where}: must be the path of a file, got {shorten(value)}")


def _flag(where: str, value: object) -> object:
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{where}: must be true or false, got {shorten(value)}")


def _port(where: str, value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    if isinstance(value, str) and _DNS_LABEL.fullmatch(value) and not value.isdigit():
        return value
    raise ConfigError(f"{where}: must be a number from 1 to 65535, or the name of a port, got {shorten(value)}")


def _labels(where: str, value: object) -> object:
    if not isinstance(value, Mapping) or len(value) > 16:
        raise ConfigError(f"{where}: must be a mapping of at most 16 names to texts, got {shorten(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not _LABEL_NAME.fullmatch(name):
            raise ConfigError(f"{where}: {shorten(name)} is no name of a label; write for example zone")
        if not isinstance(text, str) or not _LABEL_VALUE.fullmatch(text):
            raise ConfigError(f"{where}.{name}: {shorten(text)} is not usable; write text such as a; quote numbers")
    return dict(value)


def _reading(*known: str) -> Callable[[str, object], object]:
    example = ", ".join(f"{key}: {_READING_EXAMPLES[key]}" for key in known)

    def check(where: str, value: object) -> object:
        if not isinstance(value, Mapping) or not {"path", "field"} <= set(value) <= set(known):
            raise ConfigError(f"{where}: must be a mapping such as {{{example}}}, got {shorten(value)}")
        for key, pattern in _READING_PATTERNS.items():
            if not isinstance(value[key], str) or not pattern.fullmatch(value[key]):
                raise ConfigError(
                    f"{where}.{key}: {shorten(value[key])} is not usable; write for example {_READING_EXAMPLES[key]}"
                )
        if not isinstance(value.get("value", True), bool | int | str):
            raise ConfigError(f"{where}.value: must be true, a number or a text, got {shorten(value['value'])}")
        return ReadingRule(**value)

    return check


_READING_EXAMPLES = {"path": "/readyz", "field": "available_gpus", "value": "ready"}
_READING_PATTERNS = {
    "path": re.compile(r"/[A-Za-z0-9_.~!$&'()*+,;=:@%/?-]{0,1023}"),
    "field": re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,7}"),
}


def _nameservers(where: str, value: object) -> object:
    if isinstance(value, str) or not isinstance(value, list | tuple) or not value:
        raise ConfigError(f"{where}: must be a list such as [127.0.0.53], got {shorten(value)}")
    for one in value:
        found = _SERVER.fullmatch(one) if isinstance(one, str) else None
        if found is None or not 1 <= int((found[2] or ":53")[1:]) <= 65535:
            raise ConfigError(f"{where}: {shorten(one)} is no address; write for example 127.0.0.53 or 127.0.0.1:5353")
    return tuple(value)


def _server(where: str, value: object) -> object:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {shorten(value)} is not usable; write for example https://127.0.0.1:6443")
    return canonical_url(value, field=where)


_CHECKS: Mapping[str, Callable[[str, object], object]] = {
    "kind": _one_of(*KINDS),
    "name": _text(NAMESPACE_PATTERN, "pods (1 to 64 of A-Z a-z 0-9 _ . -)"),
    "path": _file,
    "host": _text(_HOST, "replicas.example"),
    "record": _one_of("address", "srv"),
    "nameservers": _nameservers,
    "service": _text(_DNS_LABEL, "replicas"),
    "namespace": _text(_DNS_LABEL, "default"),
    "server": _server,
    "token_file": _file,
    "ca_file": _file,
    "port": _port,
    "scheme": _one_of("http", "https"),
    "primary": _flag,
    "weight": _number(1e-6, 1e6),
    "capacity": _number(0, MOST_CAPACITY, is_whole=True),
    "labels": _labels,
    "capacity_from": _reading("path", "field"),
    "ready_from": _reading("path", "field", "value"),
    "interval_seconds": _number(0.05, 3600),
    "confirm_seconds": _number(0, 86_400),
}
