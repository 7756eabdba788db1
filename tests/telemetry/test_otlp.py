"""Traces on their way to a collector, by OTLP over HTTP, from a router as its user runs it."""

from __future__ import annotations

import asyncio
import signal
import time

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.proxy.conftest import SECONDS, RouterProcess, StartProcess
from tests.support.backend import Backend
from tests.support.command import is_one_error, run
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


class Collector:
    """Receives spans.

    Attributes:
        names: The names of the spans, in the order in which they ended.
        resource: What the last batch tells of its process.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.resource: dict[str, str] = {}

    @property
    def route(self) -> Route:
        return Route("/v1/traces", self._receive, methods=["POST"])

    async def _receive(self, request: Request) -> Response:
        batch = ExportTraceServiceRequest.FromString(await request.body())
        for one in batch.resource_spans:
            self.resource = {item.key: item.value.string_value for item in one.resource.attributes}
            self.names += [span.name for scope in one.scope_spans for span in scope.spans]
        return Response(b"", media_type="application/x-protobuf")


async def post(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http:
        assert (await http.post(f"{url}/upload", content=b"x")).status_code == 200


async def end(router: RouterProcess) -> None:
    """Stop a router, while the collector in this event loop goes on."""
    router.command.process.send_signal(signal.SIGTERM)
    await until(lambda: router.command.process.poll() is not None, "the router has ended")
    assert router.command.process.poll() == 0, router.command.err


async def test_spans_reach_the_collector_of_the_environment(start_process: StartProcess) -> None:
    collector = Collector()
    async with Backend(routes=[collector.route]) as receiver, Backend() as backend:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **AT_ONCE}
        router = await start_process(backend.url, tracing="otlp", environ=environ)
        await post(router.url)
        await until(lambda: collector.names.count("POST") == 2, "the spans have arrived")
        url = router.url
        await end(router)
    assert sorted(collector.names) == ["POST", "POST", "acquire", "connect", "first_byte", "stream"]
    assert collector.resource["service.name"] == "shared-registry"
    assert collector.resource["service.instance.id"] == url


async def test_the_last_spans_are_sent_at_the_end(start_process: StartProcess) -> None:
    collector = Collector()
    async with Backend(routes=[collector.route]) as receiver, Backend() as backend:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
            "OTEL_SERVICE_NAME": "gpu-router",
            "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=mine,zone=a",
        }
        router = await start_process(backend.url, tracing="otlp", workers=2, environ=environ)
        await post(router.url)
        await end(router)
        assert collector.names.count("POST") == 2
    said = [collector.resource[name] for name in ("service.name", "service.instance.id", "zone")]
    assert said == ["gpu-router", "mine", "a"]


async def test_a_collector_that_is_away_harms_nobody(start_process: StartProcess) -> None:
    async with Backend() as backend:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **AT_ONCE}
        router = await start_process(backend.url, tracing="otlp", environ=environ)
        for _ in range(20):
            await post(router.url)
        begun = time.monotonic()
        assert router.command.ends(signal.SIGTERM).code == 0
    assert time.monotonic() - begun < SECONDS


async def test_a_wrong_environment_ends_the_start_with_one_line() -> None:
    done = await asyncio.to_thread(
        run,
        *("serve", "--port", "0"),
        SHARED_REGISTRY_REDIS_URL="redis://127.0.0.1:1",
        SHARED_REGISTRY_TRACING="otlp",
        OTEL_BSP_SCHEDULE_DELAY="-1",
    )
    assert is_one_error(done, 2, is_logging=True)
    assert "tracing: an environment variable of OpenTelemetry" in done.err_lines[-1]
