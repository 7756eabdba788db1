"""The rules for the settings of health checks: the checks of single values, and what does not fit together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from shared_registry.config.problems import Problem, nearest, shorten
from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint

ProbeType = Literal["http", "tcp", "websocket"]
ProbeMethod = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT"]
JsonScalar = str | int | float | bool

DEFAULT_PATH = "/health"
ANY_SUCCESS = "200-399"
"""The statuses that are a success by default."""
MAX_HEADERS = 32
MAX_HEADER_LENGTH = 4096
MAX_REQUEST_BODY = 64 * 1024
MAX_PATTERN_LENGTH = 1000

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_HEADER_VALUE = re.compile(r"[!-~]([ \t!-~]*[!-~])?|")
_OWN_HEADERS = re.compile(
    "connection|content-length|expect|keep-alive|proxy-connection|te|trailer|transfer-encoding|upgrade"
    "|sec-websocket-(accept|extensions|key|version)"
)
"""Headers that the probe sets itself, or that would change the meaning of what follows."""
_RANGE = re.compile(r"([1-9][0-9]{2})(?:\s*-\s*([1-9][0-9]{2}))?")
_PATH = re.compile(r"/[!-~]*")
_SERVER_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
_REPETITION = re.compile(r"[*+]|\{\d*,\d*\}")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)


def wrong_path(value: object) -> str:
    """Return the rule that a probe's path violates; empty if it is valid."""
    if not isinstance(value, str) or not value.startswith("/"):
        return "must start with '/', such as /health"
    if not _PATH.fullmatch(value) or "#" in value:
        return "has white space, '#' or non-ASCII characters; percent-encode them"
    return ""


def is_port(value: object) -> bool:
    """Return whether a value is a port that can be connected to."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535


def check_health_path(value: object) -> str:
    """Return a valid path for probes."""
    if rule := wrong_path(value):
        raise ConfigError(f"health_check_path: {shorten(value)} {rule}")
    return str(value)


def check_headers(value: object) -> dict[str, str]:
    """Return valid headers of a request; for `None` an empty mapping."""
    field = "health_check_headers"
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{field}: must be a mapping such as {{'Host': 'replica.internal'}}, not a {_kind(value)}")
    if len(value) > MAX_HEADERS:
        raise ConfigError(f"{field}: must be at most {MAX_HEADERS}, got {len(value)}")
    seen: set[str] = set()
    for name, text in value.items():
        place = f"{field}[{shorten(name)}]"
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigError(f"{place}: is no name of a header; use letters, digits and '-'")
        if _OWN_HEADERS.fullmatch(name.lower()):
            raise ConfigError(f"{place}: cannot be set, because the probe sets or needs it; remove it")
        if name.lower() in seen:
            raise ConfigError(f"{place}: is given twice; give each header once")
        if not isinstance(text, str) or len(text) > MAX_HEADER_LENGTH or not _HEADER_VALUE.fullmatch(text):
            # The value is not shown, because it may be a password.
            rule = f"at most {MAX_HEADER_LENGTH} printable ASCII characters without line breaks; quote numbers"
            raise ConfigError(f"{place}: its value must be text of {rule}")
        seen.add(name.lower())
    return dict(value)


def check_request_body(value: object) -> str | None:
    """Return a valid body of a request; `None` for none."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value.encode(errors="replace")) > MAX_REQUEST_BODY:
        raise ConfigError(f"health_check_request_body: must be text of at most {MAX_REQUEST_BODY} bytes")
    return value


def check_statuses(value: object) -> str:
    """Return statuses and ranges of them in their text form, such as `200-299,404`."""
    field, remedy = "health_check_statuses", "write statuses and ranges such as 200-299,404"
    items = value if isinstance(value, list | tuple) else str(value).split(",") if _is_number_or_text(value) else None
    if not items:
        raise ConfigError(f"{field}: {shorten(value)} is not usable; {remedy}")
    found = []
    for item in items:
        match = _RANGE.fullmatch(str(item).strip()) if _is_number_or_text(item) else None
        if match is None or int(match[1]) < 200 or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"{field}: {shorten(item)} is no status from 200 to 999 and no range of them; {remedy}")
        found.append(f"{match[1]}-{match[2]}" if match[2] and match[2] != match[1] else match[1])
    return ",".join(dict.fromkeys(found))


def check_expect(value: object) -> dict[str, Any]:
    """Return the conditions on a probe's JSON body; for `None` an empty mapping, which requires nothing."""
    field = "health_check_expect"
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{field}: must be a mapping such as {{'status': 'ready'}}, got {shorten(value)}")
    for key, wanted in value.items():
        if not isinstance(key, str):
            raise ConfigError(f"{field}: its keys must be text, got {shorten(key)}; quote it")
        place = f"{field}[{shorten(key)}]"
        if isinstance(wanted, Mapping):
            _check_conditions(place, wanted)
        elif not _is_scalar(wanted):
            raise ConfigError(f"{place}: must be text, a finite number or true/false, got {shorten(wanted)}")
    return {key: dict(wanted) if isinstance(wanted, Mapping) else wanted for key, wanted in value.items()}


def _check_conditions(place: str, conditions: Mapping[Any, object]) -> None:
    if not conditions:
        raise ConfigError(f"{place}: has no condition; write one such as {{gt: 0}}")
    for operator, operand in conditions.items():
        if operator not in CONDITIONS:
            guess = nearest(str(operator), CONDITIONS)
            hint = f"did you mean {guess}?" if guess else f"use {', '.join(CONDITIONS)}; write nested fields as a.b"
            raise ConfigError(f"{place}: {shorten(operator)} is no condition; {hint}")
        is_right, rule = CONDITIONS[operator]
        if not is_right(operand):
            raise ConfigError(f"{place}.{operator}: must be {rule}, got {shorten(operand)}")
        if operator == "matches":
            check_pattern(operand, f"{place}.matches")


def _is_scalar(value: object) -> bool:
    return isinstance(value, JsonScalar) and not (isinstance(value, float) and not math.isfinite(value))


def _is_number(value: object) -> bool:
    return _is_scalar(value) and not isinstance(value, str | bool)


def _is_choice(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_scalar, value))


_SCALAR = (_is_scalar, "text, a finite number or true/false")
_NUMBER = (_is_number, "a finite number")
CONDITIONS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "eq": _SCALAR,
    "ne": _SCALAR,
    "lt": _NUMBER,
    "le": _NUMBER,
    "gt": _NUMBER,
    "ge": _NUMBER,
    "in": (_is_choice, "a list of texts, finite numbers or true/false"),
    "matches": (lambda value: isinstance(value, str), "a regular expression as text"),
    "exists": (lambda value: isinstance(value, bool), "true or false"),
}
"""The conditions that a field of a JSON body may have to fulfil, with the rule for what each is compared with."""


def check_expect_text(value: object) -> str | None:
    """Return a text that a body must contain; `None` for none."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_PATTERN_LENGTH:
        raise ConfigError(f"health_check_expect_text: must be text of at most {MAX_PATTERN_LENGTH} characters")
    return value


def check_expect_pattern(value: object) -> str | None:
    """Return a regular expression that must match somewhere in a body; `None` for none."""
    return None if value is None or value == "" else check_pattern(value, "health_check_expect_pattern")


def check_pattern(value: object, field: str) -> str:
    """Return a regular expression that compiles, and whose time is not known to explode."""
    if not isinstance(value, str) or len(value) > MAX_PATTERN_LENGTH:
        raise ConfigError(f"{field}: must be a regular expression of at most {MAX_PATTERN_LENGTH} characters")
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{field}: {shorten(value)} is no regular expression: {error}") from None
    if _repeats_a_repetition(value):
        raise ConfigError(
            f"{field}: {shorten(value)} repeats a group that contains a repetition, which may take for ever;"
            " repeat only one of them"
        )
    return value


def _repeats_a_repetition(pattern: str) -> bool:
    """Return whether a group repeats that contains a repetition.

    The time that such a pattern needs may double with each character of a body, while the event loop stands still.
    """
    groups = [False]
    index = 0
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            index += 1
        elif character == "[" and (found := _CLASS.match(pattern, index)):
            index = found.end() - 1
        elif character == "(":
            groups.append(False)
        elif character == ")" and len(groups) > 1:
            has_repetition = groups.pop()
            if has_repetition and _REPETITION.match(pattern, index + 1):
                return True
            groups[-1] = groups[-1] or has_repetition
        elif _REPETITION.match(pattern, index):
            groups[-1] = True
        index += 1
    return False


def check_file(field: str) -> Callable[[object], str | None]:
    """Return a check of a file's path. The file may come later, so it need not exist."""

    def check(value: object) -> str | None:
        if value is None or value == "":
            return None
        if isinstance(value, str) and value.isprintable() and len(value) <= 4096:
            return value
        raise ConfigError(f"{field}: {shorten(value)} is no path of a file")

    return check


def check_server_name(value: object) -> str | None:
    """Return a name for TLS; `None` for the host of the replica's url."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and _SERVER_NAME.fullmatch(value):
        return value
    raise ConfigError(f"replica_tls_server_name: {shorten(value)} is no host name; write one such as replica.internal")


def _is_number_or_text(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _kind(value: object) -> str:
    return type(value).__name__


HealthPath = Annotated[str, PlainValidator(check_health_path)]
ProbePort = Annotated[int | None, Field(ge=1, le=65535)]
ProbeHeaders = Annotated[dict[str, str], PlainValidator(check_headers)]
RequestBody = Annotated[str | None, PlainValidator(check_request_body)]
Statuses = Annotated[str, PlainValidator(check_statuses)]
ExpectedValues = Annotated[dict[str, Any], PlainValidator(check_expect)]
ExpectedText = Annotated[str | None, PlainValidator(check_expect_text)]
ExpectedPattern = Annotated[str | None, PlainValidator(check_expect_pattern)]
CaFile = Annotated[str | None, PlainValidator(check_file("replica_tls_ca_file"))]
CertificateFile = Annotated[str | None, PlainValidator(check_file("replica_tls_certificate_file"))]
KeyFile = Annotated[str | None, PlainValidator(check_file("replica_tls_key_file"))]
ServerName = Annotated[str | None, PlainValidator(check_server_name)]

_OF_REQUESTS: Mapping[str, object] = {
    "health_check_method": "GET",
    "health_check_request_body": None,
    "health_check_statuses": ANY_SUCCESS,
    "health_check_expect": {},
    "health_check_expect_text": None,
    "health_check_expect_pattern": None,
}
"""The settings that only HTTP requests have, and their defaults."""
_OF_BODIES = ("health_check_expect", "health_check_expect_text", "health_check_expect_pattern")


def misfits(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what does not fit together among the settings of probes. Settings that are wrong themselves are absent."""
    kind = settings.get("health_check_type", "http")
    if kind != "http":
        yield from _without_effect(settings, kind)
    else:
        yield from _of_method(settings, settings.get("health_check_method", "GET"))
    yield from _of_tls(settings)


def _without_effect(settings: Mapping[str, Any], kind: str) -> Iterator[Problem]:
    defaults = dict(_OF_REQUESTS)
    if kind == "tcp":
        defaults |= {"health_check_path": DEFAULT_PATH, "health_check_headers": {}}
        for index, replica in enumerate(settings.get("replicas", ())):
            if isinstance(replica, ReplicaEndpoint) and replica.health_check_path is not None:
                text = f"replicas[{index}].health_check_path: has no effect with health_check_type tcp; remove it"
                yield Problem(text, ("replicas", "health_check_type"))
    for name, default in defaults.items():
        if settings.get(name, default) != default:
            text = f"{name}: has no effect with health_check_type {kind}; remove it, or use http"
            yield Problem(text, (name, "health_check_type"))


def _of_method(settings: Mapping[str, Any], method: str) -> Iterator[Problem]:
    if settings.get("health_check_request_body") is not None and method not in ("POST", "PUT"):
        text = f"health_check_request_body: cannot be sent with health_check_method {method}; use POST or PUT"
        yield Problem(text, ("health_check_request_body", "health_check_method"))
    if method == "HEAD":
        for name in _OF_BODIES:
            if settings.get(name):
                text = f"{name}: a response to health_check_method HEAD has no body; use GET"
                yield Problem(text, (name, "health_check_method"))


def half_of_a_pair(settings: Mapping[str, Any], certificate: str, key: str) -> Iterator[Problem]:
    """Yield a problem if a certificate's file is set without its key's, or the key's alone."""
    for given, lacking in ((certificate, key), (key, certificate)):
        if given in settings and lacking in settings and settings[given] and not settings[lacking]:
            text = f"{given}: needs {lacking}; if one file holds both, give it twice"
            yield Problem(text, (given, lacking))


def _of_tls(settings: Mapping[str, Any]) -> Iterator[Problem]:
    yield from half_of_a_pair(settings, "replica_tls_certificate_file", "replica_tls_key_file")
    if settings.get("replica_tls_verify") is False and settings.get("replica_tls_ca_file"):
        text = "replica_tls_ca_file: has no effect with replica_tls_verify false; remove one of them"
        yield Problem(text, ("replica_tls_ca_file", "replica_tls_verify"))
