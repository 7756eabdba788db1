"""Decides for which requests a slot is acquired, and which are refused. Pure.

The rules of the setting `routes` come first. For all other requests: those that change a replica itself are refused,
and otherwise WebSockets and every method but OPTIONS, HEAD and GET acquire a slot. Paths are compared in their normal
form, so that no other spelling of a path meets another rule.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

from shared_registry.config.route_rules import WEBSOCKET, Place, RouteRule
from shared_registry.proxy.paths import KNOWN_PATHS, LONGEST_KNOWN, normal_path, normal_prefix

WITHOUT_SLOT = frozenset({"OPTIONS", "HEAD", "GET"})
DENIED = tuple(
    RouteRule(path, "none")
    for path in (
        "/sleep",
        "/wake_up",
        "/update_weights*",
        "/init_weights*",
        "/v1/load_lora*",
        "/v1/unload_lora*",
        "/load_lora*",
        "/unload_lora*",
        "/release_memory*",
        "/resume_memory*",
        "/reset_prefix_cache",
        "/flush_cache",
        "/start_profile",
        "/stop_profile",
        "/collective_rpc",
    )
)
"""Paths by which vLLM and SGLang change, pause or measure the whole server, for all its clients."""


class Routes:
    """The rules of one router, in the order in which they are tried."""

    def __init__(self, rules: Sequence[RouteRule], *, placement: Literal["exact", "local"]) -> None:
        """Prepare the rules.

        Args:
            rules: The rules of the setting.
            placement: The setting `placement`: `local` acquires no slot where no rule of the setting says so.
        """
        self._exact: dict[bytes, list[tuple[int, RouteRule]]] = {}
        self._prefixes: list[tuple[int, bytes, RouteRule]] = []
        self._default: Place = "lease" if placement == "exact" else "any"
        self._known = functools.lru_cache(KNOWN_PATHS)(self._first_match)
        for rank, rule in enumerate((*rules, *DENIED)):
            path = rule.path.encode()
            if path.endswith(b"*"):
                self._prefixes.append((rank, normal_prefix(path[:-1]), rule))
            else:
                self._exact.setdefault(normal_path(path), []).append((rank, rule))

    def place(self, method: str, path: bytes, *, is_websocket: bool) -> Place:
        """Return what to do with a request.

        Args:
            method: The request's method.
            path: The request's path in its normal form.
            is_websocket: Whether the request is the handshake of a WebSocket.
        """
        name = WEBSOCKET if is_websocket else method
        return self._known(name, path) if len(path) <= LONGEST_KNOWN else self._first_match(name, path)

    def _first_match(self, name: str, path: bytes) -> Place:
        found = [(rank, rule) for rank, prefix, rule in self._prefixes if path.startswith(prefix)]
        found += self._exact.get(path, ())
        for _, rule in sorted(found, key=_rank):
            if not rule.methods or name in rule.methods:
                return rule.place
        return "any" if name in WITHOUT_SLOT else self._default


def _rank(found: tuple[int, RouteRule]) -> int:
    return found[0]
