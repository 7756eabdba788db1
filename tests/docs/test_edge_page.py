"""docs/edge.md explains every line of the files in examples/edge, and names only settings that exist."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import yaml

from shared_registry.config import RouterConfig
from shared_registry.proxy.client import KEEP_ALIVE_SECONDS
from tests.support.command import ROOT

EDGES = ROOT / "examples" / "edge"
PAGE = (ROOT / "docs" / "edge.md").read_text()
SELF_EVIDENT = {
    "nginx.conf": {
        *("worker_processes", "events", "http", "upstream", "server", "default", "return", '""', "~*^websocket$"),
        *("ssl_certificate", "ssl_certificate_key", "proxy_pass", "proxy_set_header"),
    },
    "haproxy.cfg": {"global", "defaults", "mode", "frontend", "backend", "default_backend", "server"},
    "envoy.yaml": set(),
}
"""What a line says by itself."""
SHOWN = {name: (EDGES / name).read_text() for name in SELF_EVIDENT}
DOCUMENTS = {path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(EDGES.glob("*.yaml"))}
EXPLAINED_KEYS = {
    "envoy.yaml": {
        *("alpn_protocols", "circuit_breakers", "health_checks", "healthy_panic_threshold", "lb_policy"),
        *("host_selection_retry_max_attempts", "max_request_headers_kb", "normalize_path", "outlier_detection"),
        *("per_connection_buffer_limit_bytes", "retry_host_predicate", "retry_on", "stream_idle_timeout"),
        *("upgrade_configs", "use_remote_address"),
    },
    "traefik.yaml": {"readTimeout", "idleTimeout", "graceTimeOut"},
    "traefik-routes.yaml": {
        *("retry", "healthCheck", "flushInterval", "dialTimeout", "responseHeaderTimeout", "idleConnTimeout"),
    },
    "kubernetes.yaml": {
        *("maxUnavailable", "maxSurge", "readinessProbe", "livenessProbe", "preStop"),
        "terminationGracePeriodSeconds",
    },
}
"""What a file must have, and the page explains."""


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg"])
def test_the_page_explains_every_line(name: str) -> None:
    for line in SHOWN[name].splitlines():
        words = line.split()
        if not words or words[0][0] in "#}" or words[0].rstrip(";") in SELF_EVIDENT[name]:
            continue
        words = line.rstrip(";").split()
        wanted = " ".join(words[:2]) if words[0] in {"timeout", "option", "http-request"} else words[0]
        assert wanted in PAGE, f"docs/edge.md does not explain {wanted!r} of {name}"


@pytest.mark.parametrize("name", EXPLAINED_KEYS)
def test_each_file_is_yaml_with_what_the_page_explains(name: str) -> None:
    found = set(keys_of(DOCUMENTS[name]))
    assert EXPLAINED_KEYS[name] <= found
    assert [key for key in EXPLAINED_KEYS[name] if key not in PAGE] == []


def keys_of(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in (key, *keys_of(inner))]
    return [found for inner in value for found in keys_of(inner)] if isinstance(value, list) else []


def test_the_page_names_only_settings_that_exist() -> None:
    fields = {one.name for one in dataclasses.fields(RouterConfig)}
    named = set(re.findall(r"`([a-z_]+_seconds)`", PAGE)) | {"degraded_placement", "trusted_proxies"}
    assert len(named) > 4
    assert named <= fields


@pytest.mark.parametrize(
    "text", [*SHOWN.values(), (EDGES / "traefik-routes.yaml").read_text()], ids=[*SHOWN, "traefik"]
)
def test_edges_drop_idle_connections_before_routers_do(text: str) -> None:
    limits = re.findall(r"(?:keepalive_timeout|pool-purge-delay|idle_timeout:|idleConnTimeout:) (\d+)s", text)
    assert min(map(int, limits)) < KEEP_ALIVE_SECONDS - 5


def test_kubernetes_waits_until_sessions_have_finished() -> None:
    deployment, service, ingress = DOCUMENTS["kubernetes.yaml"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (grace,) = (float(one["value"]) for one in container["env"] if one["name"] == "SHARED_REGISTRY_GRACE_SECONDS")
    assert grace == RouterConfig().grace_seconds
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] > pause + grace
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]
