"""Which telemetry runs beside a router, by its settings. What is off is not imported."""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.config import RouterConfig
from shared_registry.extras import require_extra
from shared_registry.proxy.app import Work


def telemetry_works(config: RouterConfig) -> Sequence[Work]:
    """Return the works to run beside the router.

    Raises:
        MissingExtra: A package that one of them needs is not installed.
    """
    if config.tracing == "off":
        return ()
    require_extra("otel", "opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    from shared_registry.telemetry.otlp import trace_sessions  # noqa: PLC0415  needs the extra, and some megabytes

    return (trace_sessions,)
