"""The connections of one prober: one for each origin, kept open between probes, and what is sent over it.

A kept connection would hide that the replica accepts no new ones, or that its name has moved, so each carries a few
probes only, and none after a failure.
"""

from __future__ import annotations

import math
import re
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from shared_registry._version import __version__
from shared_registry.aio.prompt_lock import PromptLock
from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.http1.connection import ReplicaConnection
from shared_registry.probing.budget import KeptBudget
from shared_registry.probing.connection import WholeRequest
from shared_registry.probing.dialer import Dialer
from shared_registry.probing.kept import KeptConnection
from shared_registry.probing.names import LOOKUP_AGAIN_SECONDS, SAME_ANSWER_SECONDS, Names, is_literal
from shared_registry.probing.own_trouble import lacks_descriptors
from shared_registry.probing.tls import TlsContexts
from shared_registry.probing.tls_socket import TlsSession
from shared_registry.urls import DEFAULT_PORTS, canonical_url

EXCHANGES_PER_CONNECTION = 6
"""How many probes a connection carries: every sixth probe shows whether the replica accepts connections."""
DESCRIPTORS_SECONDS = 0.05
"""For how long it is taken for granted that there are file descriptors, after it was found out."""

_PROBE_URL = re.compile(r"(https?://[^/?#]+)([^#]*)", re.IGNORECASE)
_URL_SAFE = "!$%&'()*+,/:;=?@[]~"


class ProbeRequest(NamedTuple):
    """A request as it is sent. `target` is the path with the query, as the url has it."""

    target: str
    path: str
    headers: list[tuple[str, str]]
    packed: WholeRequest


@dataclass(slots=True, eq=False)
class ProbedOrigin:
    """One replica's connection. Only the holder of its turn uses it, one probe at a time.

    Attributes:
        opened: A connection in its first exchange.
        kept: The connection after that.
        looked_up_at: See `ProbeOutcome`.
        request: The last request.
        is_forgotten: Whether the replica was removed, so that no connection to it is kept.
    """

    key: str
    urls: list[str]
    host: str
    port: int
    is_named: bool
    is_https: bool
    turn: PromptLock = field(default_factory=PromptLock)
    opened: ReplicaConnection | None = None
    kept: KeptConnection | None = None
    session: TlsSession = field(default_factory=TlsSession)
    address: str = ""
    request: ProbeRequest | None = None
    activity: str = ""
    looked_up_at: float = math.inf
    is_forgotten: bool = False

    @classmethod
    def of(cls, key: str) -> ProbedOrigin:
        """Return the origin of a canonical url."""
        parts = urlsplit(key)
        host = parts.hostname or ""
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        return cls(key, [], host, port, is_named=not is_literal(host), is_https=parts.scheme == "https")

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if self.opened is not None:
            self.opened.abort()
            self.opened = None
        if self.kept is not None:
            self.kept.abort()
            self.kept = None


class ProbedOrigins:
    """All origins of one prober. For one event loop; not thread-safe.

    Attributes:
        names: Looks up the replicas' names.
        tls: Has the context of https replicas.
        budget: Says how many connections may be kept.
        is_closed: Whether nothing may be opened any more.
    """

    def __init__(self, config: RouterConfig, *, ssl_context: ssl.SSLContext | None, names: Names) -> None:
        """Set up; nothing is opened.

        Args:
            config: Has the settings of probes.
            ssl_context: The TLS context for https replicas; `None` for one that the settings describe.
            names: Looks up the replicas' names.
        """
        self._config = config
        self._body = (config.health_check_request_body or "").encode()
        self.names = names
        self.tls = TlsContexts(config, ssl_context)
        self.budget = KeptBudget()
        self.is_closed = False
        self._dialer = Dialer(self.tls)
        self._origins: dict[str, ProbedOrigin] = {}
        self._known: dict[str, tuple[ProbedOrigin, str]] = {}
        self._has_descriptors_until = -math.inf

    def close(self) -> None:
        """Close every connection."""
        self.is_closed = True
        for origin in self._origins.values():
            origin.is_forgotten = True
            origin.hang_up()
        self._origins.clear()
        self._known.clear()
        self._dialer.close()
        self.tls.close()
        self.names.close()

    def at(self, url: str) -> tuple[ProbedOrigin, str]:
        """Return the origin of a url, and the path with the query.

        Both are remembered, because reading a url takes long.

        Raises:
            ConfigError: It is not a replica's url.
        """
        known = self._known.get(url)
        if known is None:
            key, target = _split(url)
            origin = self._origins.get(key) or self._origins.setdefault(key, ProbedOrigin.of(key))
            origin.urls.append(url)
            known = self._known[url] = origin, target
        return known

    def forget(self, url: str) -> None:
        """See `HttpProber.forget`."""
        self._drop(_split(url)[0])

    def retain(self, urls: Iterable[str]) -> None:
        """See `HttpProber.retain`."""
        if not self._origins:
            return
        kept = {known[0].key if (known := self._known.get(url)) else _split(url)[0] for url in urls}
        for key in self._origins.keys() - kept:
            self._drop(key)
        self.names.retain(origin.host for origin in self._origins.values())

    def request(self, origin: ProbedOrigin, target: str) -> ProbeRequest:
        """Return the request for a path. The last one is kept, because the path nearly always stays the same."""
        if origin.request is None or target != origin.request.target:
            headers = {
                "host": ("Host", origin.key.partition("://")[2]),
                "user-agent": ("User-Agent", f"shared-registry-probe/{__version__}"),
                "accept": ("Accept", "*/*"),
                "connection": ("Connection", "keep-alive"),
            }
            headers |= {name.lower(): (name, text) for name, text in self._config.health_check_headers.items()}
            if self._body:
                headers["content-length"] = ("Content-Length", str(len(self._body)))
            path = quote(target if target.startswith("/") else f"/{target}", safe=_URL_SAFE, errors="replace")
            pairs = list(headers.values())
            packed = WholeRequest(self._config.health_check_method, path, pairs, self._body)
            origin.request = ProbeRequest(target, path, pairs, packed)
        return origin.request

    def kept(self, origin: ProbedOrigin) -> KeptConnection | None:
        """Return the kept connection if it may carry one more probe.

        It is used on while this router could not open another one: it still shows that the replica responds.
        """
        kept = origin.kept
        if kept is None or not kept.is_idle:
            return None
        if kept.exchanges >= EXCHANGES_PER_CONNECTION and not self._lacks_descriptors():
            return None
        return kept

    def is_where_its_name_is(self, origin: ProbedOrigin) -> bool:
        """Return whether the kept connection leads to an address of its name, as far as that is known now."""
        return origin.address in self.names.recent(origin.host, LOOKUP_AGAIN_SECONDS)

    def dial(self, origin: ProbedOrigin, *, fresh: bool) -> KeptConnection | None:
        """Begin a new connection in place of the former one, if that can be done without waiting.

        Args:
            origin: The origin.
            fresh: Whether to look a name up anew, and to verify a certificate anew.
        """
        if not self._dialer.is_able or (fresh and origin.is_named):
            return None
        addresses: tuple[str, ...] = (origin.host,)
        if origin.is_named:
            addresses = self.names.recent(origin.host, SAME_ANSWER_SECONDS)
        if len(addresses) != 1:
            return None
        address, port, dialed = addresses[0], origin.port, None
        with suppress(OSError):
            if origin.is_https:
                name = self.tls.server_name(origin.host)
                dialed = self._dialer.dial_tls(address, port, name, origin.session, fresh=fresh)
            else:
                dialed = self._dialer.dial(address, port)
        if dialed is None:
            return None
        origin.hang_up()
        origin.kept, origin.address = dialed, address
        if origin.is_named:
            origin.looked_up_at = self.names.answered_at(origin.host)
        return dialed

    def keep(self, origin: ProbedOrigin, kept: KeptConnection) -> None:
        """Keep a connection after an exchange, or close it if it is over, not needed, or new without room for it."""
        is_new = kept.exchanges == 1
        if not kept.is_usable or origin.is_forgotten or (is_new and not self.budget.has_room):
            origin.hang_up()
        elif is_new:
            kept.count_in(self.budget)

    def switch(self, origin: ProbedOrigin, opened: ReplicaConnection) -> None:
        """Keep a connection after its first exchange, or close it if that is over or the budget has no room."""
        if opened.tls is not None:
            origin.session.learn(opened.tls, time.monotonic())
        if origin.opened is opened and self.budget.has_room:
            origin.kept = KeptConnection(opened.switch_to, origin.address, origin.port, exchanges=1)
            origin.kept.count_in(self.budget)
            origin.opened = None
        else:
            origin.hang_up()

    def _lacks_descriptors(self) -> bool:
        """Return whether there are none, or were none some hundredths of a second ago: to find out takes a while."""
        now = time.monotonic()
        if now >= self._has_descriptors_until and not lacks_descriptors():
            self._has_descriptors_until = now + DESCRIPTORS_SECONDS
        return now >= self._has_descriptors_until

    def _drop(self, key: str) -> None:
        origin = self._origins.pop(key, None)
        if origin is None:
            return
        origin.is_forgotten = True
        for url in origin.urls:
            del self._known[url]
        if not origin.turn.is_taken:
            origin.hang_up()


def _split(url: str) -> tuple[str, str]:
    """Return the canonical origin of a url to be probed, and its path with the query."""
    parts = _PROBE_URL.fullmatch(url)
    if parts is None:
        raise ConfigError(f"url: {url!r} is no http(s) url such as http://127.0.0.1:8000/health")
    return canonical_url(parts[1]), parts[2]
