"""CORS: which pages' scripts may read the responses, the router's own ones as well (the Fetch standard).

With the setting `cors_origins` the router alone decides: it answers preflights, and replaces what replicas say about
this, so that each response has one `Access-Control-Allow-Origin` at most. WebSockets have no such rule in browsers, so
the router refuses the handshakes of other origins: otherwise any page could use its visitors' cookies here.
"""

from __future__ import annotations

import functools
import re

from shared_registry.config import RouterConfig
from shared_registry.config.access_rules import ANY_ORIGIN
from shared_registry.http1.fields import Headers
from shared_registry.proxy.answers import error_answer
from shared_registry.proxy.exchange import Exchange

MAX_AGE_SECONDS = 600
"""How long a browser may remember the answer to a preflight. Chromium remembers none for more than two hours."""
EXPOSED = b"retry-after, x-request-id"
"""The headers of the router itself that scripts may read."""
LONGEST_LIST = 4096
_PREFIX = b"access-control-"
_ORIGIN, _EXPOSE = _PREFIX + b"allow-origin", _PREFIX + b"expose-headers"
_ASKED_METHOD, _ASKED_HEADERS = _PREFIX + b"request-method", _PREFIX + b"request-headers"
_VARY = (b"vary", b"Origin")
_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ ,]+[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")


class Cors:
    """The origins whose pages may use a router."""

    def __init__(self, config: RouterConfig) -> None:
        self._is_any = config.cors_origins == (ANY_ORIGIN,)
        self._origins = frozenset(origin.encode() for origin in config.cors_origins)

    @classmethod
    def of(cls, config: RouterConfig) -> Cors | None:
        """Return the rules of the settings; `None` if replicas decide about this themselves."""
        return cls(config) if config.cors_origins else None

    def settles(self, exchange: Exchange) -> bool:
        """Prepare an exchange so that its response has the right headers. Return whether it was answered already.

        Preflights and WebSockets of other origins are answered here.
        """
        given = [value for name, value in exchange.fields if name == b"origin"]
        allowed = self._allowed(given)
        own = self._fields_for(allowed)
        exchange.rewrite = functools.partial(_rewritten, own=own, is_allowed=allowed is not None)
        if not given or not (exchange.is_handshake or exchange.method == "OPTIONS"):
            return False
        asked = dict(exchange.fields)
        is_preflight = _ASKED_METHOD in asked
        if allowed is None and (exchange.is_handshake or is_preflight):
            exchange.answer(_FOREIGN)
            return True
        if exchange.is_handshake or not is_preflight:
            return False
        exchange.rewrite = None
        exchange.begin(204, [*own, *_permissions(asked[_ASKED_METHOD], asked.get(_ASKED_HEADERS, b""))])
        exchange.end()
        return True

    def _allowed(self, given: list[bytes]) -> bytes | None:
        """Return the origin to allow; `None` if there is none."""
        if self._is_any:
            return b"*"
        return given[0] if len(given) == 1 and given[0] in self._origins else None

    def _fields_for(self, allowed: bytes | None) -> list[tuple[bytes, bytes]]:
        """Return the headers that say who may read a response. Cookies are allowed to listed origins only."""
        if self._is_any:
            return [(_ORIGIN, b"*")]
        return [_VARY] if allowed is None else [_VARY, (_ORIGIN, allowed), (_PREFIX + b"allow-credentials", b"true")]


def _rewritten(fields: Headers, *, own: Headers, is_allowed: bool) -> Headers:
    """Return the headers of a response with the router's own in place of those by which a replica has decided."""
    kept = [pair for pair in fields if not pair[0].startswith(_PREFIX)]
    if not is_allowed:
        return [*kept, *own]
    exposed = [EXPOSED, *(value for name, value in fields if name == _EXPOSE)]
    return [*kept, *own, (_EXPOSE, b", ".join(exposed))]


def _permissions(method: bytes, names: bytes) -> list[tuple[bytes, bytes]]:
    """Return what a preflight is told: it may send what it asks for, and `routes` decide about the request itself."""
    told = [(b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers")]
    told.append((_PREFIX + b"max-age", b"%d" % MAX_AGE_SECONDS))
    for name, asked in ((b"allow-methods", method), (b"allow-headers", names)):
        if len(asked) <= LONGEST_LIST and _TOKENS.fullmatch(asked):
            told.append((_PREFIX + name, asked))
    return told


_FOREIGN = error_answer(
    403, "origin_not_allowed", "pages of this origin may not use this router: see its setting cors_origins"
)
