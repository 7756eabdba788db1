"""Finds the key of a session, by which it returns to its replica. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import parse_qs

from shared_registry.config.session_key import FIRST_FRAME, SessionKeyPlace

MOST_CHARACTERS = 4096
"""The longest key; a longer one is ignored. Only a key's digest is stored, but computing it costs time per session."""
MOST_PARAMETERS = 1000


class SessionKey:
    """Finds the key of a session, at the place that the setting `session_key` names. Without a place it finds none.

    Attributes:
        is_set: Whether there is a place.
    """

    def __init__(self, place: str | None) -> None:
        self._place = None if place is None else SessionKeyPlace.parse(place)
        self.is_set = place is not None

    @property
    def is_in_first_frame(self) -> bool:
        """Whether the key is in the first WebSocket message, so that the client must send it before placement."""
        return self._place is not None and self._place.kind == FIRST_FRAME

    def of_request(self, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> str | None:
        """Return the key in a request's head; `None` if it has none, or if the key is in the first message.

        Args:
            headers: The request's headers, with names in lower case.
            query: The query string, without the question mark.
        """
        if self._place is None:
            return None
        kind, name = self._place.kind, self._place.name
        values: Sequence[str] = ()
        if kind == "header":
            values = _header(headers, name.lower())
        elif kind == "cookie":
            values = [value for text in _header(headers, "cookie") for value in _cookie(text, name)]
        elif kind == "query":
            values = _parameter(query, name)
        return _usable(values[0]) if values else None

    def of_frame(self, data: str | bytes) -> str | None:
        """Return the key in the first WebSocket message; `None` if it has none."""
        if self._place is None or not self.is_in_first_frame:
            return None
        try:
            value: Any = json.loads(data)
        except (ValueError, RecursionError):
            return None
        for field in self._place.name.split("."):
            value = value.get(field) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        return _usable(str(value))


def _header(headers: Iterable[tuple[bytes, bytes]], name: str) -> list[str]:
    return [value.decode("latin-1").strip() for field, value in headers if field.decode("latin-1") == name]


def _cookie(text: str, name: str) -> list[str]:
    """Return the values of a cookie (RFC 6265, section 4.2.1)."""
    pairs = (pair.partition("=") for pair in text.split(";"))
    return [value.strip().strip('"') for key, _, value in pairs if key.strip() == name]


def _parameter(query: bytes, name: str) -> list[str]:
    try:
        return parse_qs(query.decode("latin-1"), max_num_fields=MOST_PARAMETERS).get(name, [])
    except ValueError:  # there are more parameters
        return []


def _usable(key: str) -> str | None:
    return key if 0 < len(key) <= MOST_CHARACTERS else None
