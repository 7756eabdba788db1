"""Finds the model that a request with a JSON body is for, while the body arrives.

The first `model` at the top level counts. What follows it is not read, so a long prompt after it need not be received.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import cast

from shared_registry.proxy.exchange import Exchange

MOST_BYTES = 1024 * 1024
"""How much of a body is searched. Images and long prompts usually come after the model."""
MOST_TOKENS = 8192
"""How many tokens are read in one turn of the event loop: a small body can have very many."""
_QUOTE = ord('"')
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_TO_TOKEN, _TO_TOKEN_INSIDE = re.compile(rb'[^"{}\[\],:]*+'), re.compile(rb'[^"{}\[\]]*+')
"""What precedes a text, a bracket, a comma or a colon; in inner objects and lists only texts and brackets count."""


async def model_of(exchange: Exchange) -> str | None:
    """Return the model that a request's body names; `None` if it names none within the first `MOST_BYTES`."""
    finder = ModelFinder()
    async with contextlib.aclosing(exchange.look_ahead(MOST_BYTES)) as pieces:
        async for received in pieces:
            is_found = finder.search(received)
            while finder.is_behind:
                await asyncio.sleep(0)
                is_found = finder.search(received)
            if is_found:
                break
    return finder.model


class ModelFinder:
    """Reads the beginning of a JSON document as it arrives. Every byte is read once, however small the pieces are.

    Attributes:
        model: The value of the top-level field `model`, if it was found and is a text.
        is_over: Whether more data cannot change that.
        is_behind: Whether the last search has left something unread, after `MOST_TOKENS`.
    """

    def __init__(self) -> None:
        self.model: str | None = None
        self.is_over = False
        self.is_behind = False
        self._at = 0
        self._string_at: int | None = None
        self._depth = 0
        self._is_key_next = False
        self._is_model_next = False

    def search(self, data: bytes | bytearray) -> bool:
        """Read on in what was received so far. Return whether more data cannot change the result."""
        self.is_behind = False
        for _ in range(MOST_TOKENS):
            if self._string_at is None and not self.is_over:
                self._skip(data)
            if self.is_over or not self._read(data):
                return self.is_over
        self.is_behind = not self.is_over
        return self.is_over

    def _skip(self, data: bytes | bytearray) -> None:
        """Go to the next text, bracket or comma. A number in the place of the document or the model ends the search."""
        begin = self._at
        self._at = _end(_TO_TOKEN if self._depth <= 1 else _TO_TOKEN_INSIDE, data, begin)
        if self._depth == 0 or self._is_model_next:
            self.is_over = bool(data[begin : self._at].strip())

    def _read(self, data: bytes | bytearray) -> bool:
        """Read a text, bracket or comma. Return whether it was there to its end."""
        if self._at == len(data):
            return False
        if self._string_at is None:
            if data[self._at] != _QUOTE:
                self._at += 1
                self._take(data[self._at - 1 : self._at])
                return True
            self._string_at = self._at
            self._at += 1
        self._at = _end(_STRING, data, self._at)
        if self._at == len(data) or data[self._at] != _QUOTE:
            return False
        self._at += 1
        begin, self._string_at = self._string_at, None
        if self._is_key_next or self._is_model_next:
            self._take_text(_text(data[begin : self._at]))
        self.is_over = self.is_over or self._depth == 0  # the document is no object
        return True

    def _take(self, token: bytes | bytearray) -> None:
        if token in (b"{", b"["):
            self.is_over = self._is_model_next or (not self._depth and token == b"[")
            self._depth += 1
            self._is_key_next = self._depth == 1
        elif token in (b"}", b"]"):
            self._depth -= 1
            self.is_over = self._is_model_next or self._depth <= 0
        elif token == b",":
            self.is_over = self._is_model_next or not self._depth
            self._is_key_next = self._depth == 1
        elif not self._depth:
            self.is_over = True  # the document is no object

    def _take_text(self, text: str | None) -> None:
        if self._is_model_next:
            self.model = text
            self.is_over = True
        self._is_key_next = False
        self._is_model_next = text == "model"


def _end(pattern: re.Pattern[bytes], data: bytes | bytearray, begin: int) -> int:
    """Return the end of the match of a pattern that always matches."""
    return cast("re.Match[bytes]", pattern.match(data, begin)).end()


def _text(token: bytes | bytearray) -> str | None:
    try:
        value = json.loads(token)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
