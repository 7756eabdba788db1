"""The form of the setting `session_key`, which says where the key of a session is found.

header:X-Session-Id      a request header
cookie:sid               a cookie
query:session            a parameter of the query
first_frame.client_id    a field of the first WebSocket message, which must be JSON; deeper ones as a.b.c
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared_registry.errors import ConfigError

FIRST_FRAME = "first_frame"
_NAMED = re.compile(r"(header|cookie|query):([!#$%&'*+.^_`|~0-9A-Za-z-]{1,200})")
_FIELD = re.compile(rf"({FIRST_FRAME})\.([^\s.]+(?:\.[^\s.]+)*)")


@dataclass(frozen=True, slots=True)
class SessionKeyPlace:
    """The place of a session's key.

    Attributes:
        kind: `header`, `cookie`, `query` or `first_frame`.
        name: The name of the header, cookie or parameter, or the path of the field.
    """

    kind: str
    name: str

    @classmethod
    def parse(cls, text: object) -> SessionKeyPlace:
        """Parse the setting.

        Raises:
            ConfigError: The text has none of these forms.
        """
        match = (_NAMED.fullmatch(text) or _FIELD.fullmatch(text)) if isinstance(text, str) else None
        if match is None:
            remedy = "write header:NAME, cookie:NAME, query:NAME or first_frame.FIELD"
            raise ConfigError(f"session_key: {str(text)[:80]!r} is not usable; {remedy}")
        return cls(match[1], match[2])
