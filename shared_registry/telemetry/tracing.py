"""Traces of sessions, as OpenTelemetry spans.

    POST                     the request as the client sees it (server span), a child of the client's own span, if any
    ├ acquire | select       until a replica was chosen: with a slot, or without one
    │ └ wait                 the part of it in the queue
    ├ POST                   one attempt at a replica (client span), whose context is passed on to the replica
    │ ├ connect              until the replica was reached, over a kept connection or a new one
    │ ├ first_byte           until the client was sent the head of the response
    │ └ stream               until the end: a stream's tokens, a WebSocket session's frames
    └ acquire, POST, …       again, if the replica did not take the session

Names and attributes follow OpenTelemetry's conventions for HTTP spans where there are such, and begin with `sr.` where
there are none. Queries and the names of sessions are in no span.
"""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared_registry._version import __version__
from shared_registry.http1.fields import Headers
from shared_registry.leases.ledger import session_digest
from shared_registry.proxy.access_log import shown_path
from shared_registry.proxy.access_record import AccessRecord
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.traffic import OUTCOMES

CONTEXT_NAMES = frozenset({b"traceparent", b"tracestate"})
"""The headers of W3C Trace Context."""
_PROPAGATOR = TraceContextTextMapPropagator()
_NO_ERROR = frozenset({"ok", "client_gone", "shutdown"})
_WITH_REPLICA = frozenset({"lease", "any"})


class SpanTracing:
    """Makes spans with a tracer of a provider. The provider decides which traces are recorded, and where they go."""

    def __init__(self, provider: TracerProvider, *, router: str = "") -> None:
        """Set up.

        Args:
            provider: OpenTelemetry's tracer provider, of its SDK or another one.
            router: The url of the router, an attribute of each trace.
        """
        self._tracer = provider.get_tracer("shared_registry", __version__)
        self._router = router

    def begin(self, exchange: Exchange, record: AccessRecord) -> SpanTrace:
        """Begin the trace of a request. If the client has sent a trace context, it continues that trace."""
        return SpanTrace(self._tracer, exchange, record, router=self._router)


class SpanTrace:
    """The spans of one request or session. At any time one step is under way, unless the request has ended."""

    __slots__ = (
        "_attempt",
        "_choice",
        "_choosing_since",
        "_context",
        "_is_streaming",
        "_method",
        "_record",
        "_root",
        "_step",
        "_tracer",
    )

    def __init__(self, tracer: Tracer, exchange: Exchange, record: AccessRecord, *, router: str) -> None:
        now = time.time_ns()
        self._tracer = tracer
        self._record = record
        self._method = exchange.method
        attributes: dict[str, str] = {
            "http.request.method": exchange.method,
            "url.path": shown_path(exchange.target) or "",
            "network.protocol.name": "websocket" if exchange.is_handshake else "http",
            "sr.request_id": exchange.request_id.decode("ascii"),
            "sr.router": router,
        }
        parent = _PROPAGATOR.extract(_carrier(exchange.fields), Context())
        self._root = tracer.start_span(exchange.method, parent, SpanKind.SERVER, attributes, start_time=now)
        self._context = set_span_in_context(self._root, Context())
        self._is_streaming = False
        self._choosing_since = now
        self._choice: Span | None = None
        self._attempt: Span | None = None
        self._step: Span | None = None

    def wait(self) -> None:
        """Begin the wait in the queue, if it has not begun."""
        if self._choice is None:
            self._choice = self._begin_choice()
            self._step = self._begin("wait", time.time_ns(), self._choice)

    def try_replica(self, url: str) -> None:
        """End the choice of a replica, and begin the attempt."""
        now = time.time_ns()
        self._end_choice(now)
        parts = urlsplit(url)
        attributes: dict[str, str | int] = {"sr.replica": url, "server.address": parts.hostname or ""}
        if parts.port is not None:
            attributes["server.port"] = parts.port
        self._attempt = self._tracer.start_span(
            self._method, self._context, SpanKind.CLIENT, attributes, start_time=now
        )
        self._step = self._begin("connect", now, self._attempt)

    def connect(self) -> None:
        """End the connecting, and begin the wait for the response."""
        self._next_step("first_byte")

    def fail_attempt(self, reason: str) -> None:
        """End the attempt as failed, and begin the next choice."""
        now = time.time_ns()
        self._end_step(now)
        if self._attempt is not None:
            self._attempt.set_status(Status(StatusCode.ERROR, reason))
            self._attempt.end(now)
            self._attempt = None
        self._choosing_since = now

    def answer(self, status: int) -> None:
        """End the wait for the response, and begin its stream. An answer of the router itself has no stream."""
        if self._attempt is not None:
            self._attempt.set_attribute("http.response.status_code", status)
            self.stream()

    def stream(self) -> None:
        """Begin the stream, unless the head of the response has begun it."""
        if not self._is_streaming:
            self._is_streaming = True
            self._next_step("stream")

    def end(self, exchange: Exchange) -> None:
        """End all spans. The router's own pages have none: an unfinished span is forgotten."""
        record, now = self._record, time.time_ns()
        if record.place == "page":
            return
        self._end_step(now)
        if self._attempt is None and record.place in _WITH_REPLICA:
            self._end_choice(now)
        is_error = OUTCOMES[exchange.ended] not in _NO_ERROR or (exchange.status or 0) >= 500
        status = Status(StatusCode.ERROR, record.error or exchange.ended or "") if is_error else None
        found = {
            "sr.attempts": record.attempts,
            "sr.bytes_in": exchange.bytes_in,
            "sr.bytes_out": exchange.bytes_out,
            "sr.place": record.place,
            "sr.session_digest": None if record.session is None else session_digest(record.session),
            "sr.error": record.error,
            "sr.close_code": record.close_code,
            "http.response.status_code": exchange.status,
        }
        self._root.set_attributes({name: value for name, value in found.items() if value is not None})
        for span in (self._attempt, self._root):
            if span is not None:
                span.set_attribute("sr.ended", exchange.ended or "router_failed")
                if status is not None:
                    span.set_status(status)
                span.end(now)

    def pass_on(self, fields: Headers) -> list[tuple[bytes, bytes]]:
        """Return the headers for the replica: with the context of the attempt, and without that of the client."""
        carrier: dict[str, str] = {}
        span = self._root if self._attempt is None else self._attempt
        _PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
        passed = [pair for pair in fields if pair[0] not in CONTEXT_NAMES]
        return [*passed, *((name.encode(), value.encode("latin-1")) for name, value in carrier.items())]

    def _begin(self, name: str, since: int, parent: Span | None) -> Span:
        context = self._context if parent is None else set_span_in_context(parent, Context())
        return self._tracer.start_span(name, context, start_time=since)

    def _begin_choice(self) -> Span:
        return self._begin("acquire" if self._record.place == "lease" else "select", self._choosing_since, None)

    def _end_choice(self, now: int) -> None:
        self._end_step(now)
        (self._choice or self._begin_choice()).end(now)
        self._choice = None

    def _next_step(self, name: str) -> None:
        now = time.time_ns()
        self._end_step(now)
        self._step = self._begin(name, now, self._attempt)

    def _end_step(self, now: int) -> None:
        if self._step is not None:
            self._step.end(now)
            self._step = None


def _carrier(fields: Headers) -> dict[str, str]:
    """Return the client's trace context. If it was sent more than once, it means nothing (W3C Trace Context, 3.2.1)."""
    found = [(name.decode(), value.decode("latin-1")) for name, value in fields if name in CONTEXT_NAMES]
    parents = sum(name == "traceparent" for name, _ in found)
    return {} if parents != 1 else {name: ",".join(v for n, v in found if n == name) for name, _ in found}
