"""Finds the model that a request with a JSON body is for, while the body arrives.

The first `model` at the top level counts. What follows it is not read, so a long prompt after it need not be received.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from shared_registry.proxy.exchange import Exchange

MOST_BYTES = 1024 * 1024
"""How much of a body is searched. Images and long prompts usually come after the model."""
_TOKEN = re.compile(rb'\s*(?:("[^"\\]*(?:\\.[^"\\]*)*")|([{}\[\],:])|([^\s"{}\[\],:]+)(?=[\s"{}\[\],:]))', re.DOTALL)


async def model_of(exchange: Exchange) -> str | None:
    """Return the model that a request's body names; `None` if it names none within the first `MOST_BYTES`."""
    finder, data = ModelFinder(), bytearray()
    async for piece in exchange.look_ahead(MOST_BYTES):
        data += piece
        if finder.search(data):
            break
    return finder.model


class ModelFinder:
    """Reads the beginning of a JSON document, piece by piece.

    Attributes:
        model: The value of the top-level field `model`, if it was found and is a text.
    """

    def __init__(self) -> None:
        self.model: str | None = None
        self._at = 0
        self._depth = 0
        self._is_key_next = False
        self._is_model_next = False
        self._is_over = False

    def search(self, data: bytes | bytearray) -> bool:
        """Read on in what was received so far. Return whether more data cannot change the result."""
        for token in self._tokens(data):
            self._take(token)
            if self._is_over:
                return True
        return False

    def _tokens(self, data: bytes | bytearray) -> Iterator[bytes]:
        while (match := _TOKEN.match(data, self._at)) is not None:
            self._at = match.end()
            yield bytes(match.group().lstrip())

    def _take(self, token: bytes) -> None:
        if self._is_model_next and token != b":":
            self.model = _text(token)
            self._is_over = True
        elif token in (b"{", b"["):
            self._is_over = not self._depth and token == b"["
            self._depth += 1
            self._is_key_next = self._depth == 1
        elif token in (b"}", b"]"):
            self._depth -= 1
            self._is_over = self._depth <= 0
        elif not self._depth:
            self._is_over = True  # the document is no object
        elif self._depth == 1 and token == b",":
            self._is_key_next = True
        elif self._is_key_next:
            self._is_key_next = False
            self._is_model_next = _text(token) == "model"


def _text(token: bytes) -> str | None:
    try:
        value = json.loads(token)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
