"""Sends the traces of a router to a collector by OTLP over HTTP, with OpenTelemetry's SDK.

Where to, with which headers, sampling and service name stands in OpenTelemetry's own environment variables, such as
`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` and `OTEL_SERVICE_NAME`.
"""

from __future__ import annotations

import asyncio
import logging
import os

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_RESOURCE_ATTRIBUTES
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shared_registry._version import __version__
from shared_registry.aio.daemon_thread import call_in_daemon_thread
from shared_registry.errors import ConfigError
from shared_registry.proxy.app import Router
from shared_registry.telemetry.tracing import SpanTracing

DEFAULT_SERVICE = "shared-registry"
LAST_SPANS_SECONDS = 3.0
"""How long the spans that are left have to reach the collector when the router stops."""
logger = logging.getLogger(__name__)


async def trace_sessions(router: Router) -> None:
    """Trace the requests and sessions of a router until cancelled; then send the spans that are left.

    Spans are sent in batches by a thread of the SDK's. If the collector is away, they are dropped, and the SDK's log
    says so; sessions do not notice.

    Raises:
        ConfigError: One of OpenTelemetry's environment variables has a value that its SDK refuses.
    """
    try:
        provider = TracerProvider(resource=_resource(router), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise ConfigError(f"tracing: an environment variable of OpenTelemetry (OTEL_...) is wrong: {error}") from error
    router.site.tracing = SpanTracing(provider, router=router.url)
    logger.info("traces: sent by OTLP over HTTP")
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        try:
            async with asyncio.timeout(LAST_SPANS_SECONDS):
                await call_in_daemon_thread(provider.shutdown)
        except TimeoutError:
            logger.warning("traces: the last spans did not reach the collector within %g s", LAST_SPANS_SECONDS)


def _resource(router: Router) -> Resource:
    """Return what the spans tell of this process. What the environment says comes first."""
    resource = Resource.create()
    own = {SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: router.url}
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        own[SERVICE_NAME] = DEFAULT_SERVICE
    said = os.environ.get(OTEL_RESOURCE_ATTRIBUTES, "")
    return resource.merge(Resource({name: value for name, value in own.items() if f"{name}=" not in said}))
