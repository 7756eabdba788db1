"""The url that is probed, and the digest of all settings that decide a probe's result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared_registry.config import RouterConfig
from shared_registry.config.settings import SHARED_SETTINGS
from shared_registry.model import Replica, ReplicaEndpoint
from shared_registry.probing.target import DECISIVE_SETTINGS, probe_print, probe_url

OTHERS: dict[str, dict[str, Any]] = {
    "health_check_type": {"health_check_type": "websocket"},
    "health_check_path": {"health_check_path": "/ready"},
    "health_check_port": {"health_check_port": 8081},
    "health_check_method": {"health_check_method": "HEAD"},
    "health_check_headers": {"health_check_headers": {"Host": "b"}},
    "health_check_request_body": {"health_check_method": "POST", "health_check_request_body": "{}"},
    "health_check_statuses": {"health_check_statuses": "200"},
    "health_check_expect": {"health_check_expect": {"a": {"lt": 1}}},
    "health_check_expect_text": {"health_check_expect_text": "a"},
    "health_check_expect_pattern": {"health_check_expect_pattern": "a"},
    "health_check_timeout_seconds": {"health_check_timeout_seconds": 2.5},
    "replica_tls_ca_file": {"replica_tls_ca_file": "a"},
    "replica_tls_certificate_file": {"replica_tls_certificate_file": "a", "replica_tls_key_file": "k"},
    "replica_tls_key_file": {"replica_tls_certificate_file": "a", "replica_tls_key_file": "l"},
    "replica_tls_server_name": {"replica_tls_server_name": "a"},
    "replica_tls_verify": {"replica_tls_verify": False},
}


@pytest.mark.parametrize(
    ("url", "own", "path", "port", "expected"),
    [
        ("HTTP://Gpu-1:80/", {}, "/health", None, "http://gpu-1/health"),
        ("http://gpu-1:8000", {}, "/health", None, "http://gpu-1:8000/health"),
        ("http://gpu-1:8000", {}, "/health", 8081, "http://gpu-1:8081/health"),
        ("https://gpu-1", {}, "/ready?x=1", 8443, "https://gpu-1:8443/ready?x=1"),
        ("http://gpu-1:8000", {"health_check_port": 9}, "/health", 8081, "http://gpu-1:9/health"),
        ("http://gpu-1:8000", {"health_check_path": "/r"}, "/health", None, "http://gpu-1:8000/r"),
        ("http://[::1]:8000", {"health_check_path": "/r"}, "/health", 8081, "http://[::1]:8081/r"),
        ("http://[::1]", {}, "/health", None, "http://[::1]/health"),
    ],
)
def test_the_url_that_is_probed(url: str, own: dict[str, Any], path: str, port: int | None, expected: str) -> None:
    assert probe_url(Replica(ReplicaEndpoint(url, **own)).record, path, port) == expected


def test_the_digest_tells_every_decisive_setting() -> None:
    assert OTHERS.keys() == set(DECISIVE_SETTINGS)
    prints = [probe_print(RouterConfig(**settings)) for settings in ({}, *OTHERS.values())]
    assert len(set(prints)) == len(prints)
    assert all(len(one) == 12 and int(one, 16) >= 0 for one in prints)


def test_every_setting_of_probes_is_decisive_or_only_about_time() -> None:
    """So that a new setting is not left out of the digest."""
    names = set(vars(RouterConfig()))
    of_probes = {name for name in names if name.startswith(("health_check_", "replica_tls_"))}
    assert of_probes - set(DECISIVE_SETTINGS) == {"health_check_interval_seconds"}
    assert {name for name in DECISIVE_SETTINGS if name.startswith("health_check_")} <= set(SHARED_SETTINGS)


@pytest.mark.parametrize(
    "settings",
    [
        {"health_check_interval_seconds": 1.0},
        {"failure_threshold": 7},
        {"router_id": "other"},
        {"replicas": [ReplicaEndpoint("http://a", health_check_path="/b")]},
    ],
)
def test_the_digest_leaves_out_what_decides_nothing(settings: dict[str, Any]) -> None:
    assert probe_print(RouterConfig(**settings)) == probe_print(RouterConfig())


def test_the_digest_knows_what_means_the_same() -> None:
    one = RouterConfig(health_check_headers={"Host": "a", "X-A": "b"}, health_check_statuses="200,300-399")
    other = RouterConfig(health_check_headers={"x-a": "b", "host": "a"}, health_check_statuses="200, 300-399")
    assert probe_print(one) == probe_print(other)


def test_the_digest_is_the_same_in_two_processes() -> None:
    program = (
        "from shared_registry.config import RouterConfig; from shared_registry.probing.target import probe_print;"
        "print(probe_print(RouterConfig(health_check_expect={'b': {'in': [1, 'x']}, 'a': True})))"
    )
    root = Path(__file__).parents[2]
    prints = {
        subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, timeout=50).stdout
        for _ in range(2)
    }
    here = probe_print(RouterConfig(health_check_expect={"a": True, "b": {"in": [1, "x"]}}))
    assert prints == {f"{here}\n".encode()}
