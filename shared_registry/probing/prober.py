"""HTTP probes: what a probe is, the default one, and the guard around anybody's.

The default prober keeps exactly one connection per origin alive between rounds. It asks no proxy, follows no redirect
and reads 64 KiB of a body at most. It decides about single probes only: thresholds and rounds live elsewhere.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import quote, urlsplit

import h11

from shared_registry._version import __version__
from shared_registry.aio.time_limit import time_limit
from shared_registry.errors import ConfigError, UsageError
from shared_registry.probing.connection import BODY_LIMIT, ProbeConnection, ProbeFailure, Response, Unanswered
from shared_registry.probing.own_trouble import OwnTrouble, own_trouble
from shared_registry.probing.text import ExpectedValue, body_mismatch, one_line, timeout_text
from shared_registry.probing.tls import default_context, tls_trouble
from shared_registry.urls import DEFAULT_PORTS, canonical_url

GRACE_SECONDS = 0.5
"""What `guarded` allows a probe beyond its timeout, so that a probe that keeps it gets to tell the better error."""

_PROBE_URL = re.compile(r"(https?://[^/?#]+)([^#]*)", re.IGNORECASE)
_URL_SAFE = "!$%&'()*+,/:;=?@[]~"


class HttpProbe(Protocol):
    """Any asynchronous callable that probes one url. Users may bring their own."""

    async def __call__(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        """Probe once.

        Args:
            url: The replica's origin and the health check's path, such as `http://127.0.0.1:8000/health`.
            timeout: Seconds that the whole probe may take.

        Returns:
            The latency in milliseconds, and why the probe failed or `None` for a success. What it raises is a failure,
            too; but an error that is this router's own trouble, such as "too many open files", counts nothing.
        """


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """What one guarded probe found.

    Attributes:
        error: Why it failed: one line of at most 200 printable characters. `None` for a success.
        trouble: Why this router could not ask the replica: it neither succeeded nor failed.
    """

    latency_ms: float
    error: str | None = None
    trouble: OwnTrouble | None = None


@dataclass(slots=True)
class _Origin:
    """One replica's connection. The lock's holder alone uses it, one probe at a time."""

    key: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: ProbeConnection | None = None
    target: str = ""
    request: h11.Request | None = None
    activity: str = "connecting"

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    def request_for(self, target: str) -> h11.Request:
        """Return the request for a path; built once, for it is nearly always the same."""
        if self.request is None or target != self.target:
            headers = [
                ("Host", self.key.partition("://")[2]),
                ("User-Agent", f"shared-registry-probe/{__version__}"),
                ("Accept", "*/*"),
                ("Connection", "keep-alive"),
            ]
            path = quote(target if target.startswith("/") else f"/{target}", safe=_URL_SAFE, errors="replace")
            self.request = h11.Request(method="GET", target=path, headers=headers)
            self.target = target
        return self.request


class HttpProber:
    """The default `HttpProbe`: `async with HttpProber() as prober: await prober(url, timeout=2.0)`.

    A status below 400 is a success, a redirect included. Probes of different origins run side by side; those of one
    origin take turns, and waiting counts towards their timeouts. A probe that is cancelled, times out or fails closes
    its connection. Where the replica had closed a kept connection meanwhile, the probe is made again on a fresh one,
    once and within the same timeout. Bound to the event loop of its first probe; not for several threads.
    """

    def __init__(
        self, *, expect: Mapping[str, ExpectedValue] | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """Make a prober; nothing is opened before the first probe.

        Args:
            expect: Values that a JSON object in the body must carry, besides the status.
            ssl_context: How to verify https replicas, used as it is. By default the system's certificate authorities,
                or those that SSL_CERT_FILE and SSL_CERT_DIR name.
        """
        self._expect = dict(expect or {})
        self._ssl_context = ssl_context
        self._loading: asyncio.Task[ssl.SSLContext] | None = None
        self._origins: dict[str, _Origin] = {}
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. End the probes first: one still in progress fails. Twice is harmless."""
        self._is_closed = True
        for origin in self._origins.values():
            origin.hang_up()
        self._origins.clear()
        if self._loading is not None:
            await asyncio.wait([self._loading])
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    def forget(self, url: str) -> None:
        """Close the connection to a replica that is gone. A probe in progress ends first.

        Args:
            url: The replica's url, in any spelling, or one to be probed.

        Raises:
            ConfigError: Not a replica's url.
        """
        self._drop(_split(url)[0])

    def retain(self, urls: Iterable[str]) -> None:
        """Forget every replica but these.

        Raises:
            ConfigError: One of them is not a replica's url; nothing was forgotten.
        """
        kept = {_split(url)[0] for url in urls}
        for key in self._origins.keys() - kept:
            self._drop(key)

    async def __call__(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        """Probe once; see `HttpProbe`. Failures of every kind come back as text, including a url that is none.

        Raises:
            OwnTrouble: This router could not ask the replica, which says nothing about it.
            UsageError: The prober is closed.
        """
        if self._is_closed:
            raise UsageError("the prober is closed; make a new one")
        started = time.perf_counter()
        error: str | None
        try:
            key, target = _split(url)
        except ConfigError as refused:
            return 0.0, one_line(str(refused))
        origin = self._origins.get(key) or self._origins.setdefault(key, _Origin(key))
        try:
            async with time_limit(timeout):
                error = self._verdict(await self._ask(origin, target))
        except TimeoutError:
            error = f"{timeout_text(timeout)} while {origin.activity}"
        except ProbeFailure as failure:
            error = one_line(str(failure))
        return (time.perf_counter() - started) * 1000, error

    async def _ask(self, origin: _Origin, target: str) -> Response:
        async with origin.lock:
            request = origin.request_for(target)
            if origin.connection is not None and origin.connection.is_idle:
                with suppress(Unanswered):
                    return await self._exchange(origin, origin.connection, request)
            origin.hang_up()
            origin.activity = "connecting"
            return await self._exchange(origin, await self._connect(origin.key), request)

    async def _exchange(self, origin: _Origin, connection: ProbeConnection, request: h11.Request) -> Response:
        origin.activity = "waiting for the response"
        origin.connection = connection
        try:
            return await connection.exchange(request)
        finally:
            if not connection.is_idle or self._origins.get(origin.key) is not origin:
                origin.hang_up()

    async def _connect(self, key: str) -> ProbeConnection:
        parts = urlsplit(key)
        context = await self._load_ssl_context() if parts.scheme == "https" else None
        return await ProbeConnection.open(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme], context)

    async def _load_ssl_context(self) -> ssl.SSLContext:
        if self._ssl_context is not None:
            return self._ssl_context
        if self._loading is None:  # reading the authorities takes tens of milliseconds: once, and not on the loop
            self._loading = asyncio.create_task(asyncio.to_thread(default_context))
        try:
            return await asyncio.shield(self._loading)
        except Exception as error:
            self._loading = None
            raise own_trouble(error) or tls_trouble(error) from error

    def _drop(self, key: str) -> None:
        origin = self._origins.pop(key, None)
        if origin is not None and not origin.lock.locked():
            origin.hang_up()

    def _verdict(self, response: Response) -> str | None:
        if response.status >= 400:
            return f"HTTP {response.status}"
        if not self._expect:
            return None
        if response.is_truncated:
            return f"body: longer than {BODY_LIMIT} bytes, expected a short JSON object"
        return body_mismatch(response.body, self._expect)


async def guarded(probe: HttpProbe, url: str, timeout: float) -> ProbeOutcome:
    """Run anybody's probe so that nothing but an outcome comes back.

    An exception, a result of another shape and no return within `timeout` + `GRACE_SECONDS` become errors, except where
    they are this router's own trouble. Cancelling the caller cancels the probe and passes; a probe that refuses to be
    cancelled is waited for.
    """
    started = time.perf_counter()
    error: str | None
    try:
        async with time_limit(timeout + GRACE_SECONDS) as scope:
            latency_ms, error = _checked(await probe(url, timeout=timeout))
        trouble = None if error is None else own_trouble(error, url=url)
        return ProbeOutcome(latency_ms, None if error is None or trouble else one_line(error), trouble)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        error = "CancelledError: the probe was cancelled by its own doing"
    except Exception as failure:  # noqa: BLE001 - whatever a user's probe raises
        if isinstance(failure, TimeoutError) and scope.expired():
            error = f"{timeout_text(timeout)}: the probe did not return"
        elif (trouble := own_trouble(failure, url=url)) is not None:
            return ProbeOutcome((time.perf_counter() - started) * 1000, trouble=trouble)
        else:
            error = f"{type(failure).__name__}: {failure}"
    return ProbeOutcome((time.perf_counter() - started) * 1000, one_line(error))


def _checked(result: object) -> tuple[float, str | None]:
    match result:
        case (float() | int() as latency_ms, None | str() as error) if math.isfinite(latency_ms) and latency_ms >= 0:
            return float(latency_ms), error
    raise TypeError(f"the probe returned {result!r}, expected (latency_ms, error or None)")


def _split(url: str) -> tuple[str, str]:
    """Return the canonical origin of a url to be probed, and the rest of it."""
    parts = _PROBE_URL.fullmatch(url)
    if parts is None:
        raise ConfigError(f"url: {url!r} is no http(s) url such as http://127.0.0.1:8000/health")
    return canonical_url(parts[1]), parts[2]
