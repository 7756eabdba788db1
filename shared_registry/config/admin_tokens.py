"""The form of tokens in the setting `admin_tokens` and in the file that `admin_tokens_file` names. Pure.

One token a line, with a name, and with what it allows:

    # a comment
    monitoring: sha256:5b11618c2e44027877d0cd0921ed166b9f176f50587fc91e7534dd2946db77d6 read
    router-in-go: sha256:fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9 read lease

The lines are those of API keys, but for what follows the digest. See `api_keys`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from shared_registry.config.api_keys import read_lines, read_secret, setting_lines
from shared_registry.config.problems import shorten
from shared_registry.errors import ConfigError

Right = Literal["read", "lease", "announce", "operate"]
RIGHTS: tuple[Right, ...] = ("read", "lease", "announce", "operate")
"""What a token may allow. Each includes those before it in `admin_access`, and none other in a token but `read`."""
_WORDS = f"{', '.join(RIGHTS[:-1])} or {RIGHTS[-1]}"


@dataclass(frozen=True, slots=True)
class AdminToken:
    """One token.

    Attributes:
        name: The name of its owner, for logs, and as the author of changes.
        digest: The SHA-256 of the token.
        rights: What it allows. Every token allows to read.
    """

    name: str
    digest: bytes = field(repr=False)
    rights: frozenset[Right] = frozenset({"read"})


def check_admin_tokens(value: object) -> tuple[AdminToken, ...]:
    """Return the tokens of the setting `admin_tokens`, which has the form of `api_keys`.

    Raises:
        ConfigError: The value is not such a list. The message does not contain any of it.
    """
    return read_admin_tokens(setting_lines("admin_tokens", value), "admin_tokens[{}]".format, first=0)


def read_admin_tokens(lines: Iterable[object], where: Callable[[int], str], *, first: int) -> tuple[AdminToken, ...]:
    """Return the tokens in lines. Empty lines and comments have none.

    Raises:
        ConfigError: A line is no token, or repeats one. The message does not contain the line.
    """
    return read_lines(lines, where, _parse, first=first)


def _parse(line: object, where: str) -> AdminToken:
    name, digest, words = read_secret(line, where)
    rights: set[Right] = {right for right in RIGHTS if right in words}
    if wrong := next((word for word in words if word not in RIGHTS), None):
        raise ConfigError(f"{where}: {shorten(wrong)} is nothing that a token allows; write {_WORDS}")
    if not rights:
        raise ConfigError(f"{where}: says nothing that the token allows; write {_WORDS} behind it")
    return AdminToken(name, digest, frozenset(rights | {"read"}))
