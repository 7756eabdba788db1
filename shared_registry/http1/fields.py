"""Heads of messages: headers as they are received, which are pairs of bytes with names in lower case. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter

Headers = Sequence[tuple[bytes, bytes]]
WITHOUT_BODY = frozenset({204, 304})
"""The statuses of responses that never have a body, besides those below 200."""

_value = itemgetter(1)
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})


def has_controls(values: Iterable[bytes]) -> bool:
    """Return whether a value has control characters other than tabs."""
    joined = b" ".join(values)
    return len(joined.translate(None, _CONTROLS)) != len(joined)  # a regular expression takes twice as long


def malformed(headers: Headers) -> bytes | None:
    """Return the name of the first header whose value cannot be passed on; `None` if there is none."""
    if not has_controls(map(_value, headers)):
        return None
    return next(name for name, value in headers if has_controls([value]))


def lines(headers: Headers) -> bytes:
    """Return headers as they are sent, each with the end of its line."""
    return b"\r\n".join([*map(b": ".join, headers), b""])


def request_head(method: str, target: bytes, headers: Headers) -> bytes:
    """Return the head of a request as it is sent."""
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method.encode(), target), *map(b": ".join, headers), b"", b""])
