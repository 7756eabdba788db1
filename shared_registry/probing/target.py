"""What the settings make of a probe: the url that it requests, and a digest of all that decides its result. Pure."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import urlsplit

from shared_registry.config import RouterConfig
from shared_registry.model import ReplicaRecord

DECISIVE_SETTINGS = (
    "health_check_type",
    "health_check_path",
    "health_check_port",
    "health_check_method",
    "health_check_headers",
    "health_check_request_body",
    "health_check_statuses",
    "health_check_expect",
    "health_check_expect_text",
    "health_check_expect_pattern",
    "health_check_timeout_seconds",
    "replica_tls_ca_file",
    "replica_tls_certificate_file",
    "replica_tls_key_file",
    "replica_tls_server_name",
    "replica_tls_verify",
)
"""The settings that decide a probe's result, apart from those of the replica itself."""


def probe_url(record: ReplicaRecord, path: str, port: int | None) -> str:
    """Return the url that is probed, such as `http://127.0.0.1:8000/health`.

    Args:
        record: The replica, whose own path and port come first.
        path: The routers' path.
        port: The routers' port; `None` for that of the replica's url.
    """
    endpoint = record.endpoint
    path, port = endpoint.health_check_path or path, endpoint.health_check_port or port
    if port is None:
        return record.key + path
    parts = urlsplit(record.key)
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def probe_print(config: RouterConfig) -> str:
    """Return 12 hex digits that are equal for routers whose probes ask the same and expect the same.

    They are equal on every machine and Python version. Files count by their names, not by their contents. Secrets in
    headers are not recognizable in them.
    """
    settings = {name: getattr(config, name) for name in DECISIVE_SETTINGS}
    settings["health_check_headers"] = sorted(
        (name.lower(), text) for name, text in config.health_check_headers.items()
    )
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
