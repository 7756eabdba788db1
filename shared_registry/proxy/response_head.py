"""The head of a response, in the form in which clients receive it. Pure.

Within a second, a server sends equal headers with most of its responses, so the last ones are remembered.
"""

from __future__ import annotations

import functools
from http import HTTPStatus

from shared_registry.http1.fields import WITHOUT_BODY, Headers, name_of
from shared_registry.proxy import headers

KNOWN_RESPONSES = 64
"""Of how many responses the heads for clients are remembered."""
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}".encode() for status in range(100, 600)}


class ResponseHead:
    """The head of a response, for any client.

    Attributes:
        status: The response's status, not of an interim response.
        fields: The headers, without those about a single connection.
        has_length: Whether the end of the response is found by its length, or it has no body by its status.
        lines: The lines of the head, up to the name of the header with the request's id.
    """

    __slots__ = ("fields", "has_length", "lines", "status")

    def __init__(self, status: int, fields: Headers) -> None:
        self.status = status
        self.fields = fields
        self.has_length = status in WITHOUT_BODY or b"content-length" in map(name_of, fields)
        self.lines = b"\r\n".join([_STATUS_LINES[status], *map(b": ".join, fields), headers.REQUEST_ID + b": "])


@functools.lru_cache(KNOWN_RESPONSES)
def passed_head(status: int, fields: tuple[tuple[bytes, bytes], ...]) -> ResponseHead:
    """Return the head for clients of a response that a replica has sent with these headers."""
    return ResponseHead(status, headers.to_client(fields, status=status))
