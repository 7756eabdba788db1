"""Reads from discovered replicas themselves how many sessions they take, and whether they take any.

It is HAProxy's agent-check in reverse: the replica answers over HTTP, with JSON. What was read last counts until a
usable answer says something else; a replica that does not answer is a matter for probes, not for this. A replica of
which nothing was read yet is not registered; if it is registered already, it stays as it is.

The answers of the source are not held up: replicas are read beside them, a limited number at once, each within
`READ_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared_registry._version import __version__
from shared_registry.aio.time_limit import time_limit
from shared_registry.config import RouterConfig
from shared_registry.config.discovery_rules import DiscoveryRule, ReadingRule
from shared_registry.discovery.answer import DiscoverySource, Found, SourceAnswer
from shared_registry.probing.connection import ProbeFailure, Response, WholeRequest, connect_to_replica, exchange
from shared_registry.probing.names import Names, NameUnknown
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.tls import TlsContexts
from shared_registry.urls import DEFAULT_PORTS

logger = logging.getLogger(__name__)

READ_SECONDS = 2.0
"""How long one answer of a replica may take."""
READS_AT_ONCE = 32
SHORTEST_INTERVAL_SECONDS = 1.0
MOST_CAPACITY = 1_000_000
NO_ROOM = "its capacity is 0"
NOT_READY = "it is not ready"


class UnusableReading(Exception):
    """A replica's answer does not say what was asked. The text is for operators."""


@dataclass(slots=True)
class _Known:
    """What a replica said last; `None` if it has not said it."""

    capacity: int | None = None
    is_ready: bool | None = None


class Readings:
    """What the replicas of one source say of themselves. `run` and `applied` belong to one event loop."""

    def __init__(self, rule: DiscoveryRule, config: RouterConfig) -> None:
        """Set up; nothing connects before `run`.

        Args:
            rule: The source.
            config: Has the TLS settings of replicas.
        """
        self._rule = rule
        self._tls = TlsContexts(config)
        self._names = Names()
        self._known: dict[str, _Known] = {}
        self._complaints: dict[str, str] = {}

    def applied(self, answer: SourceAnswer) -> SourceAnswer:
        """Return an answer of the source with what its replicas say, and read these from now on."""
        if answer.failure:
            return answer
        urls = [one.endpoint.url for one in answer.found]
        if answer.is_partial:
            urls += [url for url in self._known if url not in urls]
        self._known = {url: self._known.get(url) or _Known() for url in urls}
        self._complaints = {url: text for url, text in self._complaints.items() if url in self._known}
        return dataclasses.replace(answer, found=[self._one(one) for one in answer.found])

    async def run(self) -> None:
        """Read all replicas, again and again, until cancelled."""
        pause = max(self._rule.interval_seconds, SHORTEST_INTERVAL_SECONDS)
        loop, turns = asyncio.get_running_loop(), asyncio.Semaphore(READS_AT_ONCE)
        try:
            while True:
                began = loop.time()
                await asyncio.gather(*(self._read(url, known, turns) for url, known in self._known.items()))
                is_waiting = not self._known or any(one == _Known() for one in self._known.values())
                longest = SHORTEST_INTERVAL_SECONDS if is_waiting else pause
                await asyncio.sleep(max(began + longest - loop.time(), 0.1))
        finally:
            self._names.close()
            self._tls.close()

    def _one(self, one: Found) -> Found:
        known, draining = self._known[one.endpoint.url], one.draining
        endpoint, is_known = one.endpoint, True
        if self._rule.capacity_from is not None:
            is_known = known.capacity is not None
            if known.capacity:
                endpoint = dataclasses.replace(endpoint, capacity=known.capacity)
            elif known.capacity == 0:
                draining = draining or NO_ROOM
        if self._rule.ready_from is not None:
            is_known = is_known and known.is_ready is not None
            draining = draining or (NOT_READY if known.is_ready is False else "")
        return dataclasses.replace(
            one,
            endpoint=endpoint,
            draining=draining,
            is_new_welcome=one.is_new_welcome and is_known and known.capacity != 0,
            keeps_capacity=self._rule.capacity_from is not None and not known.capacity,
            keeps_state=not draining and not is_known,
        )

    async def _read(self, url: str, known: _Known, turns: asyncio.Semaphore) -> None:
        async with turns:
            answers: dict[str, Response] = {}
            complaint = ""
            for rule, name in ((self._rule.capacity_from, "capacity"), (self._rule.ready_from, "is_ready")):
                if rule is None:
                    continue
                try:
                    answers[rule.path] = answers.get(rule.path) or await self._get(url, rule.path)
                    setattr(
                        known,
                        name,
                        read_capacity(rule, answers[rule.path])
                        if name == "capacity"
                        else read_readiness(rule, answers[rule.path]),
                    )
                except UnusableReading as error:
                    complaint = str(error)
            self._complain(url, complaint)

    async def _get(self, url: str, path: str) -> Response:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        connection = None
        try:
            async with time_limit(READ_SECONDS):
                context = await self._tls.context() if parts.scheme == "https" else None
                addresses = await self._names.addresses(host, max_age_seconds=0.0)
                connection, _ = await connect_to_replica(addresses, port, context, self._tls.server_name(host))
                return await exchange(connection, _request(parts.netloc, path))
        except TimeoutError:
            raise UnusableReading(f"{path} does not answer within {READ_SECONDS:g} s") from None
        except (ProbeFailure, NameUnknown, OwnTrouble) as error:
            raise UnusableReading(f"{path}: {error}") from error
        finally:
            if connection is not None:
                connection.abort()

    def _complain(self, url: str, text: str) -> None:
        """Log that a replica's answer cannot be used, once for each reason."""
        if text and self._complaints.get(url) != text:
            logger.warning(
                "discovery: %s: what %s says cannot be used, and what it said last counts: %s",
                self._rule.source,
                url,
                text,
                extra={"replica": url},
            )
        self._complaints[url] = text


class ReadSource:
    """A source whose replicas say something of themselves. See `DiscoverySource`."""

    def __init__(self, source: DiscoverySource, rule: DiscoveryRule, config: RouterConfig) -> None:
        self._source = source
        self._readings = Readings(rule, config)

    async def answers(self) -> AsyncGenerator[SourceAnswer, None]:
        """Yield the source's answers, as many and when it gives them, with what the replicas say."""
        reading = asyncio.create_task(self._readings.run())
        try:
            async with contextlib.aclosing(self._source.answers()) as answers:
                async for answer in answers:
                    if reading.done():
                        reading.result()
                    yield self._readings.applied(answer)
        finally:
            reading.cancel()
            await asyncio.wait((reading,))


def read_capacity(rule: ReadingRule, response: Response) -> int:
    """Return the capacity that a replica says; 0 for no session.

    Raises:
        UnusableReading: The answer has no such field, or it is no whole number from 0 to `MOST_CAPACITY`.
    """
    value = _field_of(rule, response)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_CAPACITY:
        raise UnusableReading(f"{rule.field} of {rule.path} is no whole number from 0 to {MOST_CAPACITY}")
    return value


def read_readiness(rule: ReadingRule, response: Response) -> bool:
    """Return whether a replica says that it is ready.

    Raises:
        UnusableReading: The answer has no such field.
    """
    value = _field_of(rule, response)
    return value == rule.value and isinstance(value, bool) == isinstance(rule.value, bool)


def _field_of(rule: ReadingRule, response: Response) -> object:
    """Return a field of a JSON object; a name with dots is a nested one. The status does not matter.

    Readiness endpoints answer with 503 while they are not ready.
    """
    try:
        value = None if response.is_truncated else json.loads(response.body)
    except (ValueError, RecursionError):
        value = None
    for part in rule.field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UnusableReading(f"{rule.path} (HTTP {response.status}) is no JSON object with the field {rule.field}")
        value = value[part]
    return value


def _request(host: str, path: str) -> WholeRequest:
    headers: Sequence[tuple[str, str]] = (
        ("Host", host),
        ("User-Agent", f"shared-registry-discovery/{__version__}"),
        ("Accept", "application/json"),
        ("Connection", "close"),
    )
    return WholeRequest("GET", path, headers)
