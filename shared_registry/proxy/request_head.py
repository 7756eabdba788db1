"""The headers of a request, checked once, and the lines that a replica is sent of them. Pure.

A program sends the same headers with most of its requests, so the short ones are remembered.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from shared_registry.http1.fields import lines, name_of
from shared_registry.http1.known_heads import KnownHeads
from shared_registry.proxy.forwarding import PROTO, is_forwarding, own_fields
from shared_registry.proxy.headers import REQUEST_ID, body_length, to_replica

KNOWN_HEADS, LONGEST_KNOWN = 512, 2048
"""How many heads are remembered, and the longest of them, in bytes."""


class RequestHead:
    """The headers of a request.

    Attributes:
        fields: The headers, with names in lower case.
        body_length: See `headers.body_length`.
    """

    __slots__ = ("_parts", "body_length", "fields")

    def __init__(self, fields: tuple[tuple[bytes, bytes], ...], version: str) -> None:
        """Check the headers.

        Raises:
            AmbiguousRequest: See `headers.body_length`.
        """
        self.fields = fields
        self.body_length = body_length(fields, version)
        self._parts: tuple[bytes, bytes] | None = None
        if version != "1.0" and not any(map(is_forwarding, map(name_of, fields))):
            passed = to_replica(fields, client=None, scheme="http")
            at = [name for name, _ in passed].index(PROTO)  # here stands what depends on the connection
            self._parts = lines(passed[:at]), lines(passed[at + 1 :])

    def for_replica(
        self, method: str, target: bytes, request_id: bytes, *, client: str | None, scheme: str
    ) -> bytes | None:
        """Return the head to send to a replica.

        It is `None` if the replica's url is needed for it, or if it depends on whether the client is a trusted proxy.

        Args:
            method: The request's method.
            target: Its target.
            request_id: Its id.
            client: The address from which the connection came, if it has one.
            scheme: The scheme of the connection.
        """
        if self._parts is None:
            return None
        before, after = self._parts
        own, ids = _own_lines(client, scheme), b"%b: %b" % (REQUEST_ID, request_id)
        return b"%b %b HTTP/1.1\r\n%b%b%b%b\r\n\r\n" % (method.encode(), target, before, own, after, ids)


class KnownRequest(NamedTuple):
    """What the head of a request means, if it can be followed by any other request on its connection.

    Attributes:
        method: The request's method.
        target: Its target.
        version: "1.0" or "1.1".
        head: Its headers.
    """

    method: str
    target: bytes
    version: str
    head: RequestHead


known_requests: KnownHeads[KnownRequest] = KnownHeads(KNOWN_HEADS, LONGEST_KNOWN)
known_head = functools.lru_cache(KNOWN_HEADS)(RequestHead)
"""Returns the head of these headers, which are no longer than `LONGEST_KNOWN`."""


@functools.lru_cache(KNOWN_HEADS)
def _own_lines(client: str | None, scheme: str) -> bytes:
    return lines(own_fields(client, scheme))
