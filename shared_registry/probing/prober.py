"""The default probe.

The prober keeps one connection for each origin open between probes. A kept connection would hide that the
replica accepts no new ones, or that its name has moved, so each carries a few probes only, and none after a failure. It
uses no HTTP proxy, follows no redirect and reads at most 64 KiB of a body. It decides the result of single probes only;
other modules apply the thresholds.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self, cast
from urllib.parse import quote, urlsplit

from shared_registry._version import __version__
from shared_registry.aio.prompt_lock import PromptLock
from shared_registry.aio.time_limit import time_limit
from shared_registry.aio.wheel import Limit, Wheel
from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError, UsageError
from shared_registry.http1.connection import ReplicaConnection
from shared_registry.probing.budget import KeptBudget
from shared_registry.probing.connection import (
    ProbeFailure,
    Response,
    Unanswered,
    WholeRequest,
    connect_to_replica,
    exchange,
)
from shared_registry.probing.dialer import Dialer
from shared_registry.probing.expectations import Expectations
from shared_registry.probing.kept import KeptConnection
from shared_registry.probing.names import (
    LOOKUP_AGAIN_SECONDS,
    SAME_ANSWER_SECONDS,
    Names,
    NameUnknown,
    is_literal,
)
from shared_registry.probing.outcome import ProbeOutcome
from shared_registry.probing.own_trouble import OwnTrouble, lacks_descriptors
from shared_registry.probing.text import one_line, timeout_text
from shared_registry.probing.tls import TlsContexts, resuming
from shared_registry.probing.tls_socket import TlsSession
from shared_registry.probing.websocket import probe_websocket
from shared_registry.urls import DEFAULT_PORTS, canonical_url

EXCHANGES_PER_CONNECTION = 6
"""How many probes a connection carries: every sixth probe shows whether the replica accepts connections."""
DESCRIPTORS_SECONDS = 0.05
"""For how long it is taken for granted that there are file descriptors, after it was found out."""
_LOOKING_UP, _READING_FILES = "looking up the name", "reading the TLS files"
_CONNECTING, _WAITING = "connecting", "waiting for the response"

_PROBE_URL = re.compile(r"(https?://[^/?#]+)([^#]*)", re.IGNORECASE)
_URL_SAFE = "!$%&'()*+,/:;=?@[]~"


class _Request(NamedTuple):
    """A request as it is sent."""

    target: str
    headers: list[tuple[str, str]]
    packed: WholeRequest


@dataclass(slots=True)
class _Origin:
    """One replica's connection. Only the holder of its turn uses it, one probe at a time.

    Attributes:
        opened: A connection in its first exchange.
        kept: The connection after that.
        is_forgotten: Whether the replica was removed, so that no connection to it is kept.
    """

    key: str
    urls: list[str]
    host: str
    port: int
    is_named: bool
    turn: PromptLock = field(default_factory=PromptLock)
    opened: ReplicaConnection | None = None
    kept: KeptConnection | None = None
    session: TlsSession = field(default_factory=TlsSession)
    address: str = ""
    target: str = ""
    request: _Request | None = None
    activity: str = _CONNECTING
    looked_up_at: float = math.inf
    is_forgotten: bool = False

    @classmethod
    def of(cls, key: str) -> _Origin:
        """Return the origin of a canonical url."""
        parts = urlsplit(key)
        host = parts.hostname or ""
        return cls(key, [], host, parts.port or DEFAULT_PORTS[parts.scheme], is_named=not is_literal(host))

    @property
    def is_https(self) -> bool:
        return self.key.startswith("https:")

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if self.opened is not None:
            self.opened.abort()
            self.opened = None
        if self.kept is not None:
            self.kept.abort()
            self.kept = None


ProbeEnded = Callable[[ProbeOutcome | float], None]
"""See `HttpProber.begin`."""


class PromptProbe(Limit):
    """A probe without a task. Only `cancel`, `opens_connection` and `shakes_hands` are for others than the prober.

    Attributes:
        opens_connection: Whether it opens its connection.
    """

    __slots__ = ("_ended", "_mismatch", "_release", "_started", "_timeout", "kept", "opens_connection", "origin")

    def __init__(
        self,
        origin: _Origin,
        kept: KeptConnection,
        timeout: float,
        mismatch: Callable[[Response], str | None],
        release: Callable[[PromptProbe, bool], None],
        ended: ProbeEnded,
    ) -> None:
        self.slot = -1  # it is added to the wheel at once, which sets the rest
        self.origin = origin
        self.kept = kept
        self.opens_connection = not kept.exchanges
        self._timeout = timeout
        self._mismatch = mismatch
        self._release = release
        self._ended = ended
        self._started = time.perf_counter()

    @property
    def shakes_hands(self) -> bool:
        """Whether it opens its connection with TLS."""
        return self.opens_connection and self.origin.is_https

    def cancel(self) -> None:
        """Give the probe up, and close its connection."""
        self._release(self, False)  # noqa: FBT003  the connection is not kept

    def expire(self) -> None:
        """End it, because its time is over."""
        activity = _WAITING if self.kept.has_connected else _CONNECTING
        self._end(f"{timeout_text(self._timeout)} while {activity}")

    def answered(self, found: Response | ProbeFailure | OwnTrouble) -> None:
        """End it, because its exchange has ended."""
        if type(found) is Response:
            self._end(self._mismatch(found))
        elif isinstance(found, Unanswered) and not self.opens_connection:
            self.cancel()
            self._ended(time.perf_counter() - self._started)
        elif isinstance(found, OwnTrouble):
            self.cancel()
            self._ended(ProbeOutcome((time.perf_counter() - self._started) * 1000, trouble=found))
        else:
            self._end(one_line(str(found)))

    def _end(self, error: str | None) -> None:
        self._release(self, error is None)
        origin = self.origin
        duration_ms = (time.perf_counter() - self._started) * 1000
        self._ended(ProbeOutcome(duration_ms, error, None, origin.address, origin.looked_up_at))


class HttpProber:
    """The default `HttpProbe`: `async with HttpProber(config) as prober: await prober(url, timeout=2.0)`.

    What a probe asks and expects stands in the settings `health_check_*`. By default a status below 400 is a success,
    including redirects. Probes of different origins run concurrently. Probes of the same origin run one after the
    other, and the time until their turn counts towards their timeouts. A probe that is cancelled, times out or fails
    closes its connection. If the replica has closed the kept connection in the meantime, the probe is repeated once on
    a new connection, within the same timeout. A prober is bound to the event loop of its first probe, and is not
    thread-safe.
    """

    def __init__(
        self,
        config: RouterConfig | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        names: Names | None = None,
    ) -> None:
        """Create a prober. It opens nothing before the first probe.

        Args:
            config: Has the settings of probes; by default the default ones.
            ssl_context: The TLS context for https replicas. By default one that the settings `replica_tls_*` describe.
            names: Looks up the replicas' names; by default with this machine's resolver.
        """
        self._config = config or RouterConfig()
        self._names = names or Names()
        self._mismatch = Expectations(self._config).mismatch
        self._body = (self._config.health_check_request_body or "").encode()
        self._tls = TlsContexts(self._config, ssl_context)
        self._origins: dict[str, _Origin] = {}
        self._known: dict[str, tuple[_Origin, str]] = {}
        self._is_http = self._config.health_check_type == "http"
        self._budget = KeptBudget()
        self._dialer = Dialer(self._tls)
        self._under_way = Wheel()
        self._turning: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # to ask for it anew costs a system call
        self._has_descriptors_until = -math.inf
        self._is_closed = False
        self._release_probe = self._release  # made once, not for each probe

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. End all probes first; one that is still in progress fails. Twice is harmless."""
        self._is_closed = True
        if self._turning is not None:
            self._turning.cancel()
        for origin in self._origins.values():
            origin.is_forgotten = True
            origin.hang_up()
        self._origins.clear()
        self._known.clear()
        self._dialer.close()
        self._tls.close()
        self._names.close()
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    def forget(self, url: str) -> None:
        """Close the connection to a removed replica. If a probe is in progress, the connection closes after it.

        Args:
            url: The replica's url in any spelling, with or without the health check's path.

        Raises:
            ConfigError: This is not a replica's url.
        """
        self._drop(_split(url)[0])

    def retain(self, urls: Iterable[str]) -> None:
        """Close the connections to all replicas except these; see `forget`.

        Raises:
            ConfigError: There are connections, and one of these is not a replica's url; nothing was forgotten.
        """
        if not self._origins:
            return
        kept = {known[0].key if (known := self._known.get(url)) else _split(url)[0] for url in urls}
        for key in self._origins.keys() - kept:
            self._drop(key)
        self._names.retain(origin.host for origin in self._origins.values())

    async def __call__(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        """Probe once; see `HttpProbe`. Every kind of failure is returned as text, including an invalid url.

        Raises:
            OwnTrouble: This router could not connect, for a reason of its own. It is no failure of the replica.
            UsageError: The prober is closed.
        """
        outcome = await self.ask(url, timeout=timeout)
        return outcome.latency_ms, outcome.error

    async def ask(
        self, url: str, *, timeout: float, fresh: bool = False, address: str = "", spent: float = 0.0
    ) -> ProbeOutcome:
        """Probe once, and return the address that was probed as well.

        Args:
            url: See `HttpProbe`.
            timeout: See `HttpProbe`.
            fresh: Whether to use a new connection, and to look a name up anew.
            address: The only IP address to connect to, if the replica's name has it. Implies `fresh`.
            spent: How many seconds of the timeout are used up already.

        Raises:
            OwnTrouble: This router could not connect, for a reason of its own. It is no failure of the replica.
            UsageError: The prober is closed.
        """
        if self._is_closed:
            raise UsageError("the prober is closed; make a new one")
        started = time.perf_counter() - spent
        error: str | None
        try:
            origin, target = self._known.get(url) or self._recognize(url)
        except ConfigError as refused:
            return ProbeOutcome(0.0, one_line(str(refused)))
        try:
            async with time_limit(timeout - spent):
                error = await self._verdict(origin, target, fresh=fresh or bool(address), address=address)
        except TimeoutError:
            error = f"{timeout_text(timeout)} while {origin.activity}"
            if (trouble := self._trouble_of(origin)) is not None:
                raise trouble from None
        except ProbeFailure as failure:
            error = one_line(str(failure))
        duration_ms = (time.perf_counter() - started) * 1000
        return ProbeOutcome(duration_ms, error, address=origin.address, looked_up_at=origin.looked_up_at)

    def begin(self, url: str, *, timeout: float, ended: ProbeEnded, fresh: bool = False) -> PromptProbe | None:
        """Probe once, without a task. Most probes are like that.

        Returns:
            The probe that has begun; `None` if it needs a task, such as for a lookup or a TLS handshake, or if another
            one is under way there. `ask` must be called then.

        Args:
            url: See `HttpProbe`.
            timeout: See `HttpProbe`.
            ended: Called once, later, with the outcome, or with the seconds that were used up, if the replica had
                closed the kept connection meanwhile. The probe must be repeated by `ask` then, with `fresh` and these
                seconds. Not called if the probe is cancelled.
            fresh: See `ask`.
        """
        if self._is_closed or not self._is_http:
            return None
        try:
            origin, target = self._known.get(url) or self._recognize(url)
        except ConfigError:
            return None
        if not origin.turn.try_take():
            return None
        kept = None if fresh or (origin.is_named and not self._is_where_its_name_is(origin)) else self._kept(origin)
        if kept is None:
            kept = self._dial(origin, fresh=fresh)
            if kept is None:
                origin.turn.give_back()
                return None
        probe = PromptProbe(origin, kept, timeout, self._mismatch, self._release_probe, ended)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._under_way.add(probe, timeout, now=self._loop.time())
        if self._turning is None:
            self._turning = self._loop.call_at(self._under_way.next_turn, self._turn, self._loop)
        request = origin.request if target == origin.target else None
        kept.begin((request or self._request(origin, target)).packed, probe.answered)
        return probe

    def _dial(self, origin: _Origin, *, fresh: bool) -> KeptConnection | None:
        """Begin a new connection in place of the former one, if that can be done without waiting."""
        if not self._dialer.is_able or (fresh and origin.is_named):
            return None
        addresses: tuple[str, ...] = (origin.host,)
        if origin.is_named:
            addresses = self._names.recent(origin.host, SAME_ANSWER_SECONDS)
        if len(addresses) != 1:
            return None
        address, port, dialed = addresses[0], origin.port, None
        with suppress(OSError):
            if origin.is_https:
                name = self._tls.server_name(origin.host)
                dialed = self._dialer.dial_tls(address, port, name, origin.session, fresh=fresh)
            else:
                dialed = self._dialer.dial(address, port)
        if dialed is None:
            return None
        origin.hang_up()
        origin.kept, origin.address = dialed, address
        if origin.is_named:
            origin.looked_up_at = self._names.answered_at(origin.host)
        return dialed

    def _is_where_its_name_is(self, origin: _Origin) -> bool:
        """Return whether the kept connection leads to an address of its name, as far as that is known now."""
        return origin.address in self._names.recent(origin.host, LOOKUP_AGAIN_SECONDS)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the probes without a task whose time is over."""
        ended = self._under_way.turn(loop.time())
        self._turning = loop.call_at(self._under_way.next_turn, self._turn, loop) if len(self._under_way) else None
        for probe in ended:
            cast("PromptProbe", probe).expire()

    def _release(self, probe: PromptProbe, is_kept: bool) -> None:  # noqa: FBT001  whether to keep the connection
        """End a probe without a task."""
        origin, kept = probe.origin, probe.kept
        self._under_way.discard(probe)
        if self._turning is not None and self._under_way.next_turn == math.inf:  # to wake up for nothing costs much
            self._turning.cancel()
            self._turning = None
        is_kept = is_kept and kept.is_usable and not origin.is_forgotten
        if is_kept and kept.exchanges == 1:
            is_kept = self._budget.has_room
            if is_kept:
                kept.count_in(self._budget)
        if not is_kept:
            origin.hang_up()
        origin.turn.give_back()

    def _recognize(self, url: str) -> tuple[_Origin, str]:
        """Return the origin of a url and the path with the query, and remember them, because reading a url takes long.

        Raises:
            ConfigError: It is not a replica's url.
        """
        key, target = _split(url)
        origin = self._origins.get(key) or self._origins.setdefault(key, _Origin.of(key))
        origin.urls.append(url)
        self._known[url] = origin, target
        return origin, target

    def _trouble_of(self, origin: _Origin) -> OwnTrouble | None:
        """Return this router's own trouble if that used up the time of a probe."""
        if origin.activity is _READING_FILES:
            return OwnTrouble("TLS settings of this router: reading its files takes too long", "check their disk")
        failure = self._names.failure_of(origin.host) if origin.activity is _LOOKING_UP else None
        return failure if isinstance(failure, OwnTrouble) else None

    async def _verdict(self, origin: _Origin, target: str, *, fresh: bool, address: str) -> str | None:
        await origin.turn.take()
        error: str | None = "cancelled"
        try:
            error = await self._check(origin, target, fresh=fresh, address=address)
        finally:
            if error is not None or not self._is_http:
                origin.hang_up()
            origin.turn.give_back()
        return error

    async def _check(self, origin: _Origin, target: str, *, fresh: bool, address: str) -> str | None:
        kind = self._config.health_check_type
        if kind == "http":
            return self._mismatch(await self._ask(origin, target, fresh=fresh, address=address))
        connection = await self._connect(origin, address, fresh=fresh)
        if kind == "tcp":
            return None
        request = self._request(origin, target)
        origin.activity = "waiting for the WebSocket"
        return await probe_websocket(connection, request.target, request.headers)

    async def _ask(self, origin: _Origin, target: str, *, fresh: bool, address: str) -> Response:
        request = self._request(origin, target)
        kept = None if fresh else self._kept(origin)
        if kept is not None and origin.is_named:
            # After the lookup, because the connection may end meanwhile.
            addresses = await self._look_up(origin, LOOKUP_AGAIN_SECONDS)
            kept = self._kept(origin) if origin.address in addresses else None
        if kept is not None:
            with suppress(Unanswered):
                return await self._exchange(origin, kept, request.packed)
        origin.hang_up()
        opened = await self._connect(origin, address, fresh=fresh)
        response = await self._exchange(origin, opened, request.packed)
        if opened.tls is not None:
            origin.session.learn(opened.tls, time.monotonic())
        if origin.opened is opened and self._budget.has_room:
            origin.kept = KeptConnection(opened.switch_to, origin.address, origin.port, exchanges=1)
            origin.kept.count_in(self._budget)
            origin.opened = None
        else:
            origin.hang_up()
        return response

    def _request(self, origin: _Origin, target: str) -> _Request:
        """Return the request for a path. The last one is kept, because the path nearly always stays the same."""
        if origin.request is None or target != origin.target:
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
            origin.request, origin.target = _Request(path, pairs, packed), target
        return origin.request

    def _kept(self, origin: _Origin) -> KeptConnection | None:
        """Return the kept connection if it may carry one more probe.

        It is used on while this router could not open another one: it still shows that the replica responds.
        """
        kept = origin.kept
        if kept is None or not kept.is_idle:
            return None
        if kept.exchanges >= EXCHANGES_PER_CONNECTION and not self._lacks_descriptors():
            return None
        return kept

    def _lacks_descriptors(self) -> bool:
        """Return whether there are none, or were none some hundredths of a second ago: to find out takes a while."""
        now = time.monotonic()
        if now >= self._has_descriptors_until and not lacks_descriptors():
            self._has_descriptors_until = now + DESCRIPTORS_SECONDS
        return now >= self._has_descriptors_until

    async def _look_up(self, origin: _Origin, max_age_seconds: float) -> tuple[str, ...]:
        origin.activity = _LOOKING_UP
        try:
            return await self._names.addresses(origin.host, max_age_seconds=max_age_seconds)
        except NameUnknown as failure:
            raise ProbeFailure(f"ConnectError: {failure}") from failure

    async def _connect(self, origin: _Origin, address: str, *, fresh: bool) -> ReplicaConnection:
        origin.address = ""
        origin.activity = _READING_FILES
        context = await self._tls.context() if origin.is_https else None
        addresses: tuple[str, ...] = (origin.host,)
        if origin.is_named:
            addresses = await self._look_up(origin, 0.0 if fresh else SAME_ANSWER_SECONDS)
            origin.looked_up_at = self._names.answered_at(origin.host)
        origin.activity = _CONNECTING
        if address in addresses:
            addresses = (address,)
        if len(addresses) == 1:
            origin.address = addresses[0]
        name = self._tls.server_name(origin.host)
        with resuming(None if fresh or context is None else origin.session.usable(time.monotonic())):
            origin.opened, origin.address = await connect_to_replica(addresses, origin.port, context, name)
        return origin.opened

    async def _exchange(
        self, origin: _Origin, connection: ReplicaConnection | KeptConnection, request: WholeRequest
    ) -> Response:
        origin.activity = _WAITING
        try:
            if isinstance(connection, KeptConnection):
                return await connection.exchange(request)
            return await exchange(connection, request)
        finally:
            if not connection.is_idle or origin.is_forgotten:
                origin.hang_up()

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
