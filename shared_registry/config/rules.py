"""The rules for single settings: the types of the config's fields, and their checks."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator

from shared_registry.config.access_rules import check_cors_origins, check_trusted_proxies
from shared_registry.config.admin_rules import check_admin_names, check_admin_port, check_agent_port
from shared_registry.config.admin_tokens import AdminToken, check_admin_tokens
from shared_registry.config.api_keys import ApiKey, check_api_keys
from shared_registry.config.discovery_rules import DiscoveryRule, check_discovery
from shared_registry.config.pool_rules import PoolRule, check_pools
from shared_registry.config.probe_rules import check_file, is_port, wrong_path
from shared_registry.config.problems import InvalidSettings, Problem, shorten, unknown_setting
from shared_registry.config.route_rules import RouteRule, check_routes
from shared_registry.config.session_key import FIRST_FRAME, SessionKeyPlace
from shared_registry.errors import ConfigError, UsageError
from shared_registry.model import ReplicaEndpoint
from shared_registry.selection import find_policy
from shared_registry.store.keys import NAMESPACE_PATTERN
from shared_registry.store.redis_url import check_redis_url
from shared_registry.urls import canonical_url

CHECKS = ConfigDict(
    strict=True,
    extra="forbid",
    allow_inf_nan=False,
    validate_default=True,
    hide_input_in_errors=True,
)
"""How values are checked: as they are, without conversion, and never shown in pydantic's own messages."""
CHECKS_OF_A_PART = ConfigDict(**CHECKS, defer_build=True)
"""The same for a class of which a config is made: building its checks takes time, and nobody makes an object of it."""

OnLost = Literal["keep", "close"]

MIN_WEIGHT, MAX_WEIGHT = 1e-6, 1e6
"""Beyond these limits, doubles are too imprecise for in_flight / weight and for the shares of a hash ring."""
MAX_INTEGER = 2**53
"""The largest whole number that Lua and the scores of sorted sets represent exactly."""
MAX_NAME_LENGTH = 200
MAX_LABELS = 16
"""A small limit, because each event of a replica carries all of its labels."""
MAX_LABEL_LENGTH = 128

_ROUTER_ID = re.compile(r"[^\s~/]{1,64}")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9_./:@+-]*")
"""Labels of Kubernetes and names of models have this form. None of these characters separates labels in Redis."""
_MISSING = object()


def default_router_id() -> str:
    """Return this host's name as a router id."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", socket.gethostname())[:64].strip("-.") or "router"


def check_namespace(value: object) -> str:
    """Return a valid namespace; it is safe as the hash tag of a Redis key.

    Raises:
        ConfigError: The value is not a valid namespace.
    """
    if isinstance(value, str) and NAMESPACE_PATTERN.fullmatch(value):
        return value
    raise ConfigError(f"namespace: {shorten(value)} is not usable; write 1 to 64 of A-Z a-z 0-9 '_' '.' '-'")


def check_cluster(value: object) -> str | None:
    """Return a valid name of a cluster, or `None`.

    Raises:
        ConfigError: The value is not such a name.
    """
    if value is None or (isinstance(value, str) and NAMESPACE_PATTERN.fullmatch(value)):
        return value
    raise ConfigError(f"cluster: {shorten(value)} is not usable; write 1 to 64 of A-Z a-z 0-9 '_' '.' '-'")


def check_router_id(value: object) -> str:
    """Return a valid router id; for `None` one derived from the host's name."""
    if value is None:
        return default_router_id()
    if isinstance(value, str) and _ROUTER_ID.fullmatch(value) and value.isprintable():
        return value
    raise ConfigError(f"router_id: {shorten(value)} is not usable; write 1 to 64 characters without '~', '/' or spaces")


def check_host(field: str) -> Callable[[object], str]:
    """Return the rule for a setting with an address or host name to listen on."""

    def check(value: object) -> str:
        if isinstance(value, str) and re.fullmatch(r"\S+", value) and value.isprintable():
            return value
        example = "write one such as 0.0.0.0 (every interface) or 127.0.0.1"
        raise ConfigError(f"{field}: {shorten(value)} is no address; {example}")

    return check


def check_session_key(value: object) -> str | None:
    """Return the place of a session's key as text; `None` if the value is `None` or an empty text."""
    if value is None or value == "":
        return None
    place = SessionKeyPlace.parse(value)
    return f"{place.kind}{'.' if place.kind == FIRST_FRAME else ':'}{place.name}"


def check_policy(value: object) -> str:
    """Return the name of a policy that is registered, or that an installed package offers."""
    if not isinstance(value, str):
        raise ConfigError(f"policy: must be a name such as 'round_robin', got {shorten(value)}")
    try:
        return find_policy(value).name
    except UsageError as error:
        raise ConfigError(str(error)) from error


def check_replicas(value: object) -> list[ReplicaEndpoint]:
    """Return checked copies of the endpoints.

    Raises:
        ConfigError: The value is not a list of endpoints, an endpoint is wrong, or two have the same canonical url or
            the same name.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ConfigError(f"replicas: must be a list of ReplicaEndpoint, got {type(value).__name__}")
    checked: list[ReplicaEndpoint] = []
    problems: list[Problem] = []
    first_index: dict[str, int] = {}
    named: dict[str, str] = {}
    for index, endpoint in enumerate(value):
        try:
            checked.append(validate_endpoint(endpoint, f"replicas[{index}]"))
        except InvalidSettings as error:
            problems += error.problems
            continue
        name, url = checked[-1].name, checked[-1].url
        if name and (other := named.setdefault(name, url)) != url:
            problems.append(
                Problem(
                    f"replicas[{index}].name: {other} and {url} are both named {name!r}; give each a name of its own"
                )
            )
        key = canonical_url(checked[-1].url)
        earlier = first_index.setdefault(key, index)
        if earlier != index:
            problems.append(
                Problem(f"replicas[{index}].url: Duplicate of replicas[{earlier}] ({key}); list each replica once")
            )
    if problems:
        raise InvalidSettings(problems)
    return checked


def validate_endpoint(
    endpoint: object, field: str = "endpoint", changes: Mapping[str, object] = MappingProxyType({})
) -> ReplicaEndpoint:
    """Return a checked copy of an endpoint, with changes if there are any.

    Args:
        endpoint: A `ReplicaEndpoint` or any object with its attributes; all except `url` may be missing.
        field: The endpoint's name in error messages, such as `replicas[3]`.
        changes: Attributes that replace those of the endpoint.

    Raises:
        ConfigError: An attribute is wrong; the message lists all that are wrong.
    """
    if isinstance(endpoint, type) or not hasattr(endpoint, "url"):
        text = f"must have a url, as ReplicaEndpoint('http://host:port') has; got {type(endpoint).__name__}"
        raise InvalidSettings([Problem(f"{field}: {text}")])
    problems: list[Problem] = []
    given: dict[str, Any] = {}
    try:
        canonical_url(endpoint.url, field=f"{field}.url")
    except ConfigError as error:
        problems.append(Problem(str(error)))
    for name, remedy_for in _ENDPOINT_RULES.items():
        value = changes[name] if name in changes else getattr(endpoint, name, _MISSING)
        if value is _MISSING:
            continue
        if remedy := remedy_for(value):
            problems.append(Problem(f"{field}.{name}: {remedy}, got {shorten(value)}"))
        else:
            given[name] = value
    unknown = changes.keys() - _ENDPOINT_RULES.keys()
    problems += [Problem(f"{field}.{unknown_setting(name, _ENDPOINT_RULES)}") for name in sorted(unknown)]
    if problems:
        raise InvalidSettings(problems)
    given["name"] = given.get("name") or None
    given["weight"] = float(given.get("weight", 1.0))
    return ReplicaEndpoint(endpoint.url, **given)


def check_name(name: str, field: str) -> str:
    """Return the name of a replica, or of its owner.

    Raises:
        ConfigError: It cannot be one, because it is blank, too long or a url, or has control characters.
    """
    if not _is_name(name):
        raise ConfigError(f"{field}: {_NAME_RULE}, got {shorten(name)}")
    return name


def _is_name(value: object) -> bool:
    if not isinstance(value, str) or len(value) > MAX_NAME_LENGTH or not value.isprintable():
        return False
    return not value.isspace() and value != "" and "://" not in value  # commands take names and urls


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and MIN_WEIGHT <= value <= MAX_WEIGHT


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def _wrong_labels(value: object) -> str:
    """Return the rule that labels violate; empty if they are valid."""
    if not isinstance(value, Mapping):
        return "must be a mapping of names to texts, such as {'zone': 'a'}"
    if len(value) > MAX_LABELS:
        return f"must be at most {MAX_LABELS}"
    for name, text in value.items():
        if not _is_text_like(name, _LABEL_NAME):
            rule = "letters, digits and -_./, beginning and ending with a letter or digit"
            return f"the name {shorten(name)} must be text of 1 to {MAX_LABEL_LENGTH} characters: {rule}"
        if not _is_text_like(text, _LABEL_VALUE):
            rule = "letters, digits and -_./:@+; quote numbers"
            return f"{name} must be text of at most {MAX_LABEL_LENGTH} characters: {rule}"
    return ""


def _is_text_like(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and len(value) <= MAX_LABEL_LENGTH and pattern.fullmatch(value) is not None


def _is_order(value: object) -> bool:
    return value is None or _is_count(value)


def _rule(is_right: Callable[[object], bool], remedy: str) -> Callable[[object], str]:
    return lambda value: "" if is_right(value) else remedy


_NAME_RULE = f"must be text of at most {MAX_NAME_LENGTH} printable characters, not blank and no url"
_ENDPOINT_RULES: Mapping[str, Callable[[object], str]] = {
    "name": _rule(lambda value: value in (None, "") or _is_name(value), f"{_NAME_RULE}, or None"),
    "primary": _rule(_is_flag, "must be True or False"),
    "weight": _rule(
        _is_weight, f"must be a number above 0 ({MIN_WEIGHT:g} to {MAX_WEIGHT:g}; 1.0 is an ordinary share)"
    ),
    "capacity": _rule(_is_count, "must be a whole number of sessions; 0 means unlimited"),
    "order": _rule(_is_order, "must be a whole number from 0, or None to append"),
    "labels": _wrong_labels,
    "health_check_path": lambda value: "" if value is None else wrong_path(value),
    "health_check_port": _rule(
        lambda value: value is None or is_port(value), "must be a port from 1 to 65535, or None for the url's port"
    ),
}
"""For each attribute, a function that returns the rule that a value violates; empty if the value is valid."""

Seconds = Annotated[float, Field(gt=0)]
OptionalSeconds = Annotated[float, Field(gt=0)] | None
Period = Annotated[float, Field(ge=0.01, le=3600)]
"""The period of a loop of this package. Below it a loop only uses CPU time; above it a loop is as good as stopped."""
Expiry = Annotated[float, Field(ge=0.1, le=3600)]
Grace = Annotated[float, Field(ge=0, le=86_400)]
DegradedMode = Annotated[
    Literal["share", "off", "unlimited"],
    BeforeValidator(lambda value: "off" if value is False else value),  # YAML's off
]
Probing = Literal["leader", "shared"]
PolicyName = Annotated[str, PlainValidator(check_policy)]
MaxLoad = Annotated[float, Field(gt=1, le=100)]
Percent = Annotated[float, Field(ge=0, le=100)]
FrameBytes = Annotated[int, Field(ge=1024, le=2**31)]
BodyBytes = Annotated[int, Field(ge=1024, le=2**53)]
Count = Annotated[int, Field(ge=1)]
ClientCount = Annotated[int, Field(ge=1)] | None
Port = Annotated[int, Field(ge=0, le=65535)]
Host = Annotated[str, PlainValidator(check_host("host"))]
AdminHost = Annotated[str, PlainValidator(check_host("admin_host"))]
AdminPort = Annotated[int | Literal["auto", "off"], PlainValidator(check_admin_port)]
AgentPort = Annotated[int | Literal["off"], PlainValidator(check_agent_port)]
AdminNames = Annotated[tuple[str, ...], PlainValidator(check_admin_names)]
OwnAdminTokens = Annotated[tuple[AdminToken, ...], PlainValidator(check_admin_tokens)]
AdminTokensFile = Annotated[str | None, PlainValidator(check_file("admin_tokens_file"))]
AdminAccess = Literal["none", "read", "lease", "announce", "operate"]
AdminClientCaFile = Annotated[str | None, PlainValidator(check_file("admin_client_ca_file"))]
HoldCount = Annotated[int, Field(ge=0, le=100_000)]
ConfiguredReplicas = Annotated[list[ReplicaEndpoint], PlainValidator(check_replicas)]
SessionKeyText = Annotated[str | None, PlainValidator(check_session_key)]
PoolRules = Annotated[tuple[PoolRule, ...], PlainValidator(check_pools)]
DiscoveryRules = Annotated[tuple[DiscoveryRule, ...], PlainValidator(check_discovery)]
RouteRules = Annotated[tuple[RouteRule, ...], PlainValidator(check_routes)]
OwnCertificateFile = Annotated[str | None, PlainValidator(check_file("tls_certificate_file"))]
OwnKeyFile = Annotated[str | None, PlainValidator(check_file("tls_key_file"))]
ClientCaFile = Annotated[str | None, PlainValidator(check_file("tls_client_ca_file"))]
OwnApiKeys = Annotated[tuple[ApiKey, ...], PlainValidator(check_api_keys)]
ApiKeysFile = Annotated[str | None, PlainValidator(check_file("api_keys_file"))]
ApiKeyPlace = Literal["header", "subprotocol", "query"]
CorsOrigins = Annotated[tuple[str, ...], PlainValidator(check_cors_origins)]
TrustedNetworks = Annotated[tuple[str, ...], PlainValidator(check_trusted_proxies)]
PlacementMode = Literal["exact", "local"]
Workers = Annotated[int, Field(ge=1, le=256)]
LogLevel = Literal["debug", "info", "warning", "error"]
AccessLogForm = Annotated[
    Literal["off", "text", "json"],
    BeforeValidator(lambda value: "off" if value is False else value),  # YAML's off
]
TracingMode = Annotated[
    Literal["off", "otlp"],
    BeforeValidator(lambda value: "off" if value is False else value),  # YAML's off
]
AccessLogPath = Annotated[str | None, PlainValidator(check_file("access_log_file"))]
RedisUrl = Annotated[str, PlainValidator(check_redis_url)]
Namespace = Annotated[str, PlainValidator(check_namespace)]
ClusterName = Annotated[str | None, PlainValidator(check_cluster)]
RouterId = Annotated[str, PlainValidator(check_router_id)]
