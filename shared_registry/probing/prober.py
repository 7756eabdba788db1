"""The default probe.

It uses no HTTP proxy, follows no redirect and reads at most 64 KiB of a body. It decides the result of single probes
only; other modules apply the thresholds.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from shared_registry.aio.time_limit import time_limit
from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError, UsageError
from shared_registry.http1.connection import ReplicaConnection
from shared_registry.probing.connection import (
    ProbeFailure,
    Response,
    Unanswered,
    WholeRequest,
    connect_to_replica,
    exchange,
)
from shared_registry.probing.expectations import Expectations
from shared_registry.probing.kept import KeptConnection
from shared_registry.probing.names import (
    LOOKUP_AGAIN_SECONDS,
    SAME_ANSWER_SECONDS,
    Names,
    NameUnknown,
)
from shared_registry.probing.origins import ProbedOrigin, ProbedOrigins
from shared_registry.probing.outcome import ProbeOutcome
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.prompt import CONNECTING, WAITING, PromptEnded, PromptProbes, PromptsSucceeded
from shared_registry.probing.text import one_line, timeout_text
from shared_registry.probing.tls import resuming
from shared_registry.probing.websocket import probe_websocket

_LOOKING_UP, _READING_FILES = "looking up the name", "reading the TLS files"


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
        self._origins = ProbedOrigins(self._config, ssl_context=ssl_context, names=names or Names())
        self._mismatch = Expectations(self._config).mismatch
        self._is_http = self._config.health_check_type == "http"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. End all probes first; one that is still in progress fails. Twice is harmless."""
        self._origins.close()
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    def forget(self, url: str) -> None:
        """Close the connection to a removed replica. If a probe is in progress, the connection closes after it.

        Args:
            url: The replica's url in any spelling, with or without the health check's path.

        Raises:
            ConfigError: This is not a replica's url.
        """
        self._origins.forget(url)

    def retain(self, urls: Iterable[str]) -> None:
        """Close the connections to all replicas except these; see `forget`.

        Raises:
            ConfigError: There are connections, and one of these is not a replica's url; nothing was forgotten.
        """
        self._origins.retain(urls)

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
        if self._origins.is_closed:
            raise UsageError("the prober is closed; make a new one")
        started = time.perf_counter() - spent
        error: str | None
        try:
            origin, target = self._origins.at(url)
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

    def prompt_probes(self, *, timeout: float, on_well: PromptsSucceeded, on_ended: PromptEnded) -> PromptProbes | None:
        """Return the means to probe without tasks on the running event loop; `None` if each probe needs a task.

        Close it by `flush` and `give_up` before the prober is closed.

        Args:
            timeout: The time limit of each probe, in seconds.
            on_well: Called soon after probes have succeeded, with all these together.
            on_ended: Called with each other probe and its outcome; or with the seconds that were used up, if the
                replica had closed the kept connection meanwhile. The probe must be repeated by `ask` then, with `fresh`
                and these seconds.
        """
        if not self._is_http:
            return None
        return PromptProbes(self._origins, self._mismatch, timeout=timeout, on_well=on_well, on_ended=on_ended)

    def _trouble_of(self, origin: ProbedOrigin) -> OwnTrouble | None:
        """Return this router's own trouble if that used up the time of a probe."""
        if origin.activity is _READING_FILES:
            return OwnTrouble("TLS settings of this router: reading its files takes too long", "check their disk")
        failure = self._origins.names.failure_of(origin.host) if origin.activity is _LOOKING_UP else None
        return failure if isinstance(failure, OwnTrouble) else None

    async def _verdict(self, origin: ProbedOrigin, target: str, *, fresh: bool, address: str) -> str | None:
        await origin.turn.take()
        error: str | None = "cancelled"
        try:
            error = await self._check(origin, target, fresh=fresh, address=address)
        finally:
            if error is not None or not self._is_http:
                origin.hang_up()
            origin.turn.give_back()
        return error

    async def _check(self, origin: ProbedOrigin, target: str, *, fresh: bool, address: str) -> str | None:
        kind = self._config.health_check_type
        if kind == "http":
            return self._mismatch(await self._ask(origin, target, fresh=fresh, address=address))
        connection = await self._connect(origin, address, fresh=fresh)
        if kind == "tcp":
            return None
        request = self._origins.request(origin, target)
        origin.activity = "waiting for the WebSocket"
        return await probe_websocket(connection, request.path, request.headers)

    async def _ask(self, origin: ProbedOrigin, target: str, *, fresh: bool, address: str) -> Response:
        request = self._origins.request(origin, target)
        kept = None if fresh else self._origins.kept(origin)
        if kept is not None and origin.is_named:
            # After the lookup, because the connection may end meanwhile.
            addresses = await self._look_up(origin, LOOKUP_AGAIN_SECONDS)
            kept = self._origins.kept(origin) if origin.address in addresses else None
        if kept is not None:
            with suppress(Unanswered):
                return await self._exchange(origin, kept, request.packed)
        origin.hang_up()
        opened = await self._connect(origin, address, fresh=fresh)
        response = await self._exchange(origin, opened, request.packed)
        self._origins.switch(origin, opened)
        return response

    async def _look_up(self, origin: ProbedOrigin, max_age_seconds: float) -> tuple[str, ...]:
        origin.activity = _LOOKING_UP
        try:
            return await self._origins.names.addresses(origin.host, max_age_seconds=max_age_seconds)
        except NameUnknown as failure:
            raise ProbeFailure(f"ConnectError: {failure}") from failure

    async def _connect(self, origin: ProbedOrigin, address: str, *, fresh: bool) -> ReplicaConnection:
        origin.address = ""
        origin.activity = _READING_FILES
        context = await self._origins.tls.context() if origin.is_https else None
        addresses: tuple[str, ...] = (origin.host,)
        if origin.is_named:
            addresses = await self._look_up(origin, 0.0 if fresh else SAME_ANSWER_SECONDS)
            origin.looked_up_at = self._origins.names.answered_at(origin.host)
        origin.activity = CONNECTING
        if address in addresses:
            addresses = (address,)
        if len(addresses) == 1:
            origin.address = addresses[0]
        name = self._origins.tls.server_name(origin.host)
        with resuming(None if fresh or context is None else origin.session.usable(time.monotonic())):
            origin.opened, origin.address = await connect_to_replica(addresses, origin.port, context, name)
        return origin.opened

    async def _exchange(
        self, origin: ProbedOrigin, connection: ReplicaConnection | KeptConnection, request: WholeRequest
    ) -> Response:
        origin.activity = WAITING
        try:
            if isinstance(connection, KeptConnection):
                return await connection.exchange(request)
            return await exchange(connection, request)
        finally:
            if not connection.is_idle or origin.is_forgotten:
                origin.hang_up()
