"""Traces of requests and sessions: their spans, and the context that the replica receives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from websockets.asyncio.client import connect

from shared_registry.model import ReplicaEndpoint
from shared_registry.telemetry.tracing import SpanTracing
from tests.proxy.conftest import RunningRouter, StartRouter, all_healthy
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}


class Traced:
    """The spans of a router that have ended."""

    def __init__(self, router: RunningRouter) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        router.router.site.tracing = SpanTracing(provider, router=router.url)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def roots(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.SERVER]

    async def root(self, count: int = 1) -> ReadableSpan:
        """Return the latest root once there are so many."""
        await until(lambda: len(self.roots()) == count, f"{count} traces have ended")
        return self.roots()[-1]

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """Return the children of a span, in the order in which they began."""
        context = parent.context
        assert context is not None
        found = [one for one in self.spans if one.parent is not None and one.parent.span_id == context.span_id]
        return sorted(found, key=lambda one: one.start_time or 0)

    def tree(self, parent: ReadableSpan) -> list[Any]:
        """Return the names below a span: for each child its name, or its name and those below it."""
        return [(one.name, self.tree(one)) if self.below(one) else one.name for one in self.below(parent)]


async def one_slot(start_router: StartRouter, backend: Backend) -> RunningRouter:
    """Start a router in front of one replica that takes one session; others wait."""
    replicas = [ReplicaEndpoint(backend.url, capacity=1)]
    router = await start_router(is_awaited=False, replicas=replicas, queue_timeout_seconds=30.0)
    await until(lambda: all_healthy(router, 1), "the replica is healthy")
    return router


def hex_of(number: int, digits: int) -> str:
    return f"{number:0{digits}x}"


def header(backend: Backend, name: str, at: int = -1) -> list[str]:
    return [value.decode() for found, value in backend.scopes[at]["headers"] if found == name.encode()]


def assert_is_whole(traced: Traced, root: ReadableSpan) -> None:
    """Assert that each span lies within its parent, and that steps follow each other without a gap."""
    for one in traced.spans:
        assert one.start_time is not None
        assert one.end_time is not None
        for inner in traced.below(one):
            assert one.start_time <= (inner.start_time or 0) <= (inner.end_time or 0) <= one.end_time
    for attempt in (one for one in traced.below(root) if one.kind is SpanKind.CLIENT):
        steps = traced.below(attempt)
        assert [one.end_time for one in steps[:-1]] == [one.start_time for one in steps[1:]]


async def test_a_request_has_a_span_for_each_step(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        traced = Traced(router)
        await router.http.post("/upload?secret=1", content=b"abc", headers={"x-request-id": "r-1"})
        root = await traced.root()
    assert traced.tree(root) == ["acquire", ("POST", ["connect", "first_byte", "stream"])]
    assert_is_whole(traced, root)
    shown = dict(root.attributes or {})
    assert shown["url.path"] == "/upload"
    assert (shown["sr.request_id"], shown["sr.place"], shown["sr.ended"], shown["sr.attempts"]) == (
        "r-1",
        "lease",
        "done",
        1,
    )
    assert (shown["http.response.status_code"], shown["sr.bytes_in"]) == (200, 3)
    attempt = traced.below(root)[1]
    assert (attempt.attributes or {})["sr.replica"] == backend.url
    assert (attempt.attributes or {})["server.port"] == backend.port
    assert not any("secret" in str(one.attributes) for one in traced.spans)
    assert root.parent is None
    assert all(one.status.status_code is StatusCode.UNSET for one in traced.spans)


async def test_a_client_s_trace_goes_on_at_the_replica(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        traced = Traced(router)
        await router.http.post("/upload", content=b"", headers=CONTEXT)
        root = await traced.root()
        [received] = header(backend, "traceparent")
        assert header(backend, "tracestate") == ["vendor=1"]
    assert root.parent is not None
    assert (hex_of(root.parent.trace_id, 32), hex_of(root.parent.span_id, 16)) == (TRACE, PARENT)
    attempt = traced.below(root)[-1].context
    assert attempt is not None
    assert received == f"00-{TRACE}-{hex_of(attempt.span_id, 16)}-01"


async def test_without_traces_the_client_s_context_passes_unchanged(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        await router.http.post("/upload", content=b"", headers=CONTEXT)
        assert header(backend, "traceparent") == [CONTEXT["traceparent"]]


@pytest.mark.parametrize(
    "sent",
    [
        [("traceparent", CONTEXT["traceparent"]), ("traceparent", CONTEXT["traceparent"])],
        [("traceparent", "00-zz-1-01")],
        [("traceparent", "\xe9" * 55)],
        [("traceparent", "")],
        [("tracestate", "vendor=1")],
    ],
)
async def test_a_context_that_means_nothing_begins_a_trace(
    start_router: StartRouter, sent: list[tuple[str, str]]
) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        traced = Traced(router)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in sent]
        response = await router.http.post("/upload", content=b"", headers=headers)
        root = await traced.root()
        received = header(backend, "traceparent")
    assert response.status_code == 200
    assert root.parent is None
    assert len(received) == 1
    assert TRACE not in received[0]


async def test_the_wait_in_the_queue_is_a_span(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await one_slot(start_router, backend)
        traced = Traced(router)
        first = asyncio.create_task(router.http.post("/wait", content=b""))
        await until(lambda: len(backend.scopes) == 1, "the first request has the slot")
        second = asyncio.create_task(router.http.post("/upload", content=b""))

        async def waits() -> bool:
            return bool((await router.status())["queue"]["here"] == 1)

        await until(waits, "the second request waits")
        backend.go_on.set()
        await asyncio.gather(first, second)
        root = await traced.root(2)
    waited = next(one for one in traced.roots() if (one.attributes or {})["url.path"] == "/upload")
    assert traced.tree(waited) == [("acquire", ["wait"]), ("POST", ["connect", "first_byte", "stream"])]
    assert_is_whole(traced, root)


async def test_a_replica_that_was_passed_over_has_a_failed_span(start_router: StartRouter) -> None:
    async with Backend() as lost, Backend() as backend:
        router = await start_router(lost.url, backend.url, health_check_interval_seconds=60.0)
        traced = Traced(router)
        await lost.__aexit__(None, None, None)
        response = await router.http.post("/upload", content=b"")
        root = await traced.root()
    assert response.status_code == 200
    assert traced.tree(root) == [
        "acquire",
        ("POST", ["connect"]),
        "acquire",
        ("POST", ["connect", "first_byte", "stream"]),
    ]
    failed, taken = (one for one in traced.below(root) if one.kind is SpanKind.CLIENT)
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description
    assert taken.status.status_code is root.status.status_code is StatusCode.UNSET
    assert_is_whole(traced, root)


async def test_a_request_that_needs_no_slot_selects(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, routes="[]")
        traced = Traced(router)
        await router.http.get("/answer?status=200")
        root = await traced.root()
    assert traced.tree(root) == ["select", ("GET", ["connect", "first_byte", "stream"])]


async def test_a_refused_request_has_an_error_and_no_attempt(start_router: StartRouter) -> None:
    router = await start_router()
    traced = Traced(router)
    assert (await router.http.post("/upload", content=b"")).status_code == 503
    root = await traced.root()
    assert traced.tree(root) == ["acquire"]
    assert root.status.status_code is StatusCode.ERROR
    assert (root.attributes or {})["sr.error"] == "gpu_unavailable"


async def test_own_pages_have_no_trace(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        traced = Traced(router)
        await router.http.get("/healthz")
        await router.http.post("/upload", content=b"")
        await traced.root()
    assert {(one.attributes or {}).get("url.path") for one in traced.roots()} == {"/upload"}


async def test_a_client_that_leaves_ends_all_spans(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        traced = Traced(router)
        reading = asyncio.create_task(router.http.get("/wait"))
        await until(lambda: len(backend.scopes) == 1, "the replica has the request")
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        root = await traced.root()
    assert traced.tree(root) == ["acquire", ("GET", ["connect", "first_byte"])]
    assert (root.attributes or {})["sr.ended"] == "client_left"
    assert root.status.status_code is StatusCode.UNSET
    assert_is_whole(traced, root)


async def test_a_websocket_session_streams_until_its_end(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, session_key="query:user")
        traced = Traced(router)
        async with connect(f"{router.ws}/ws?user=secret") as websocket:
            await websocket.send("hello")
            await websocket.recv()
            assert not traced.roots()
        root = await traced.root()
        assert len(header(backend, "traceparent")) == 1
    assert traced.tree(root) == ["acquire", ("GET", ["connect", "first_byte", "stream"])]
    shown = dict(root.attributes or {})
    assert (shown["network.protocol.name"], shown["sr.close_code"], shown["sr.ended"]) == (
        "websocket",
        1000,
        "client_closed",
    )
    assert shown["sr.session_digest"]
    assert not any("secret" in str(one.attributes) for one in traced.spans)
    assert_is_whole(traced, root)


async def test_a_queued_websocket_session_waits_and_streams(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await one_slot(start_router, backend)
        traced = Traced(router)
        async with connect(f"{router.ws}/ws") as first, connect(f"{router.ws}/ws") as second:
            await second.recv()  # its position
            await first.close()
            await second.send("hello")
            assert await second.recv() == "hello"
        await traced.root(2)
    trees = [traced.tree(one) for one in traced.roots()]
    assert [("acquire", ["wait"]), ("GET", ["connect", "first_byte", "stream"])] in trees


async def test_a_failing_replica_marks_the_trace(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url)
        traced = Traced(router)
        await router.http.get("/answer?status=500")
        root = await traced.root()
    assert root.status.status_code is StatusCode.ERROR
    assert traced.below(root)[-1].status.status_code is StatusCode.ERROR
