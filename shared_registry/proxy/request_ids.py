"""Gives each request the id under which the client, the router and the replica log it (`X-Request-Id`)."""

from __future__ import annotations

import itertools
import re
import secrets

from shared_registry.http1.fields import Headers
from shared_registry.proxy.headers import REQUEST_ID

MOST_CHARACTERS = 128
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._~:@/+=-]{1,%d}" % MOST_CHARACTERS)
"""UUIDs, ULIDs, base64 and the ids of the usual load balancers; nothing that a log or a page could take for syntax."""


class RequestIds:
    """Finds and makes ids. An id that is made has a random part of its own for each instance, and a counter."""

    def __init__(self) -> None:
        self._random = secrets.token_hex(6).encode()
        self._counter = itertools.count(1)

    def of(self, fields: Headers) -> bytes:
        """Return the id that the client has sent, if it is well-formed and the only one; otherwise a new one.

        Args:
            fields: The request's headers, with names in lower case.
        """
        if REQUEST_ID in dict(fields):
            found = [value for name, value in fields if name == REQUEST_ID]
            if len(found) == 1 and _WELL_FORMED.fullmatch(found[0]):
                return found[0]
        return self.new()

    def new(self) -> bytes:
        """Return an id that no other request has."""
        return b"%b-%x" % (self._random, next(self._counter))
