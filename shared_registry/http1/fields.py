"""Heads of messages: headers as they are received, which are pairs of bytes with names in lower case. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

Headers = Sequence[tuple[bytes, bytes]]
WITHOUT_BODY = frozenset({204, 304})
"""The statuses of responses that never have a body, besides those below 200."""

name_of = itemgetter(0)
_value_of = itemgetter(1)
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})


def malformed(headers: Headers) -> bytes | None:
    """Return the name of the first header whose value has control characters other than tabs; `None` if none has."""
    values = b" ".join(map(_value_of, headers))
    if len(values.translate(None, _CONTROLS)) == len(values):  # a regular expression takes twice as long
        return None
    return next(name for name, value in headers if value.translate(None, _CONTROLS) != value)


def lines(headers: Headers) -> bytes:
    """Return headers as they are sent, each with the end of its line."""
    return b"\r\n".join([*map(b": ".join, headers), b""])


def request_head(method: str, target: bytes, headers: Headers) -> bytes:
    """Return the head of a request as it is sent."""
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method.encode(), target), *map(b": ".join, headers), b"", b""])
