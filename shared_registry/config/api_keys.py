"""The form of API keys in the setting `api_keys` and in the file that `api_keys_file` names. Pure.

One key a line, with a name, and with the paths that it may be used for:

    # a comment
    team-a: sha256:5b11618c2e44027877d0cd0921ed166b9f176f50587fc91e7534dd2946db77d6
    team-b: sha256:fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9 /v1/* /status
    sk-a-key-as-clients-send-it

A key is kept as its digest. A key without a name has a part of its digest as its name. Several keys may have one name,
so that a client can change over from an old one to a new one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

from shared_registry.config.problems import shorten
from shared_registry.config.route_rules import is_path
from shared_registry.errors import ConfigError

SHORTEST_KEY = 16
"""Shorter keys could be found by trying."""


class Secret(Protocol):
    """A key of any kind: its owner's name, and the SHA-256 of the key."""

    @property
    def name(self) -> str:
        """The name of its owner."""

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key."""


K = TypeVar("K", bound=Secret)
_KEY = re.compile(rf"[A-Za-z0-9._~+/=-]{{{SHORTEST_KEY},512}}")
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_DIGEST = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_SEPARATORS = re.compile(r"[,\n]")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key.

    Attributes:
        name: The name of its owner, for logs.
        digest: The SHA-256 of the key.
        paths: The paths that it may be used for, each with an asterisk at its end for all that begin so; empty for all.
    """

    name: str
    digest: bytes = field(repr=False)
    paths: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the key as it stands in a file."""
        return " ".join([f"{self.name}: sha256:{self.digest.hex()}", *self.paths])


def digest_of(key: bytes) -> bytes:
    """Return the digest by which a key is known."""
    return hashlib.sha256(key).digest()


def new_api_key(name: str, key: str) -> ApiKey:
    """Return the record of a key, as a client sends it.

    Raises:
        ConfigError: The name or the key is not usable. The message does not contain the key.
    """
    return _parse(f"{name}: {key}" if name else key, "api key")


def check_api_keys(value: object) -> tuple[ApiKey, ...]:
    """Return the keys of the setting `api_keys`.

    Args:
        value: See `setting_lines`.

    Raises:
        ConfigError: The value is not such a list. The message does not contain any of it.
    """
    return read_api_keys(setting_lines("api_keys", value), "api_keys[{}]".format, first=0)


def read_api_keys(lines: Iterable[object], where: Callable[[int], str], *, first: int) -> tuple[ApiKey, ...]:
    """Return the keys in lines; see `read_lines`.

    Raises:
        ConfigError: A line is no key, or repeats one. The message does not contain the line.
    """
    return read_lines(lines, where, _parse, first=first)


def setting_lines(field_name: str, value: object) -> list[object]:
    """Return the lines of a setting with keys.

    Args:
        field_name: The name of the setting.
        value: A list of lines as in a file, or of keys; or the lines as one text, separated by commas or line ends; or
            a mapping of names to what follows them in a line. An item of a list may be a mapping as well.

    Raises:
        ConfigError: The value is not such a list. The message does not contain any of it.
    """
    if isinstance(value, str):
        value = _SEPARATORS.split(value)
    elif isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise ConfigError(f"{field_name}: must be a list such as ['team-a: sha256:HEX'], got {type(value).__name__}")
    return [line for item in value for line in _lines(item)]


def read_lines(
    lines: Iterable[object], where: Callable[[int], str], parse: Callable[[object, str], K], *, first: int
) -> tuple[K, ...]:
    """Return the keys in lines. Empty lines and comments have none.

    Args:
        lines: The lines; or keys, which are returned as they are.
        where: Returns the place of a line in messages, for its number.
        parse: Returns the key in a line at a place.
        first: The number of the first line.

    Raises:
        ConfigError: A line is no key, or repeats one. The message does not contain the line.
    """
    found: dict[bytes, K] = {}
    for number, line in enumerate(lines, first):
        if isinstance(line, str) and (not line.strip() or line.strip().startswith("#")):
            continue
        key = cast("K", line) if hasattr(line, "digest") else parse(line, where(number))
        if key.digest in found:
            raise ConfigError(f"{where(number)}: repeats the key of {found[key.digest].name}; remove one of them")
        found[key.digest] = key
    return tuple(found.values())


def _lines(item: object) -> Iterable[object]:
    """Return the lines in an item: YAML reads `- team-a: sha256:HEX` as a mapping."""
    return [f"{name}: {secret}" for name, secret in item.items()] if isinstance(item, Mapping) else [item]


def read_secret(line: object, where: str) -> tuple[str, bytes, list[str]]:
    """Return the name, the digest and the further words of a line.

    Raises:
        ConfigError: The line is not usable. The message does not contain it.
    """
    if not isinstance(line, str):
        raise ConfigError(f"{where}: must be text such as 'team-a: sha256:HEX', got {type(line).__name__}")
    words = line.split()
    name = words.pop(0)[:-1] if words[0].endswith(":") else None
    secret, *further = words or [""]
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: its name is not usable; write 1 to 64 of A-Z a-z 0-9 '_' '.' '@' '-'")
    if secret.startswith("sha256:"):
        match = _DIGEST.fullmatch(secret)
        if match is None:
            raise ConfigError(
                f"{where}: sha256: must be followed by 64 hex digits; `shared-registry api-key` makes them"
            )
        digest = bytes.fromhex(match[1])
    elif _KEY.fullmatch(secret):
        digest = digest_of(secret.encode())
    else:
        rule = f"{SHORTEST_KEY} to 512 of A-Z a-z 0-9 and ._~+/=-"
        raise ConfigError(f"{where}: its key is not usable; write NAME: KEY, where the key has {rule}")
    return name or f"key-{digest.hex()[:8]}", digest, further


def _parse(line: object, where: str) -> ApiKey:
    name, digest, paths = read_secret(line, where)
    if wrong := next((path for path in paths if not is_path(path)), None):
        raise ConfigError(f"{where}: the path {shorten(wrong)} is not usable; write a path such as /v1/models or /v1/*")
    return ApiKey(name, digest, tuple(paths))
