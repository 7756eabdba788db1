"""By what a session is recognized when it comes again, so that it returns to its replica. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import cookie_parser

from shared_registry.config.session_key import FIRST_FRAME, SessionKeyPlace

MOST_CHARACTERS = 4096
"""Of a key; a longer one is none. Only its digest is kept, but it must be read and digested for each session."""
MOST_PARAMETERS = 1000


class SessionKey:
    """Finds the key of a session by which it is recognized. Without a place it finds none."""

    def __init__(self, place: str | None) -> None:
        self._place = None if place is None else SessionKeyPlace.parse(place)

    @property
    def is_in_first_frame(self) -> bool:
        """Whether the session has to speak before it can be placed."""
        return self._place is not None and self._place.kind == FIRST_FRAME

    def of_request(self, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> str | None:
        """Return the key that a request carries; `None` where it has none, or it comes later.

        Args:
            headers: The request's, names in lower case.
            query: What follows the question mark.
        """
        if self._place is None:
            return None
        kind, name = self._place.kind, self._place.name
        values: Sequence[str] = ()
        if kind == "header":
            values = _header(headers, name.lower())
        elif kind == "cookie":
            cookies = [cookie_parser(text) for text in _header(headers, "cookie")]
            values = [found[name] for found in cookies if name in found]
        elif kind == "query":
            values = _parameter(query, name)
        return _usable(values[0]) if values else None

    def of_frame(self, data: str | bytes) -> str | None:
        """Return the key that the first WebSocket message carries; `None` where it has none."""
        if self._place is None or not self.is_in_first_frame:
            return None
        try:
            value: Any = json.loads(data)
        except ValueError:
            return None
        for field in self._place.name.split("."):
            value = value.get(field) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        return _usable(str(value))


def _header(headers: Iterable[tuple[bytes, bytes]], name: str) -> list[str]:
    return [value.decode("latin-1").strip() for field, value in headers if field.decode("latin-1") == name]


def _parameter(query: bytes, name: str) -> list[str]:
    try:
        return parse_qs(query.decode("latin-1"), max_num_fields=MOST_PARAMETERS).get(name, [])
    except ValueError:  # more than that
        return []


def _usable(key: str) -> str | None:
    return key if 0 < len(key) <= MOST_CHARACTERS else None
