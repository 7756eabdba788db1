"""The settings: defaults, what is refused and in which words, which do not fit together, and what is shown of them."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import textwrap
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from shared_registry.config import SHARED_SETTINGS, InvalidSettings, RouterConfig, validate_endpoint
from shared_registry.errors import ConfigError, RegistryError
from shared_registry.model import ReplicaEndpoint
from tests.tools.config_reference import docstring

INF, NAN = math.inf, math.nan
A, B = "http://a:8000", "http://b:8000"
DNS = {"kind": "dns", "name": "a", "host": "h", "port": 1}
KUBERNETES = {"kind": "kubernetes", "name": "a", "service": "s", "port": 1}

THE_ORIGINALS: dict[str, Any] = {
    "host": "0.0.0.0",
    "port": 9000,
    "replicas": [],
    "health_check_path": "/health",
    "health_check_interval_seconds": 5.0,
    "health_check_timeout_seconds": 2.0,
    "failure_threshold": 3,
    "recovery_threshold": 2,
}
OURS: dict[str, Any] = {
    "health_check_expect": {},
    "health_check_expect_text": None,
    "health_check_expect_pattern": None,
    "health_check_statuses": "200-399",
    "health_check_type": "http",
    "health_check_port": None,
    "health_check_method": "GET",
    "health_check_headers": {},
    "health_check_request_body": None,
    "replica_tls_ca_file": None,
    "replica_tls_certificate_file": None,
    "replica_tls_key_file": None,
    "replica_tls_server_name": None,
    "replica_tls_verify": True,
    "redis_url": "redis://127.0.0.1:6379/0",
    "namespace": "default",
    "cluster": None,
    "router_id": None,
    "lease_seconds": 3.0,
    "renew_interval_seconds": 1.0,
    "heartbeat_seconds": 1.0,
    "router_expiry_seconds": 5.0,
    "fast_interval_seconds": 1.0,
    "probing": "leader",
    "may_lead": True,
    "probe_concurrency": 256,
    "refresh_seconds": 1.0,
    "max_staleness_seconds": None,
    "policy": "priority",
    "hash_max_load": None,
    "panic_percent": None,
    "max_ejection_percent": 50.0,
    "base_ejection_seconds": 30.0,
    "ejection_failures": 5,
    "slow_start_seconds": 0.0,
    "affinity_seconds": 300.0,
    "max_queue": 10_000,
    "hold_grace_seconds": 5.0,
    "degraded_placement": "share",
    "local_cooldown_seconds": 5.0,
    "redis_timeout_seconds": 1.0,
    "discovery": (),
    "connect_timeout_seconds": 2.0,
    "response_timeout_seconds": 300.0,
    "first_byte_timeout_seconds": None,
    "total_timeout_seconds": 0.0,
    "max_body_bytes": 256 * 1024 * 1024,
    "max_clients": None,
    "peer_timeout_seconds": 60.0,
    "replica_idle_seconds": 1.5,
    "header_timeout_seconds": 10.0,
    "tls_certificate_file": None,
    "tls_key_file": None,
    "tls_client_ca_file": None,
    "api_keys": (),
    "api_keys_file": None,
    "forward_api_key": False,
    "websocket_api_key": "header",
    "cors_origins": (),
    "trusted_proxies": ("127.0.0.0/8", "::1/128"),
    "routes": (),
    "pools": (),
    "placement": "exact",
    "session_key": None,
    "on_lost": "keep",
    "queue_timeout_seconds": 0.0,
    "max_frame_bytes": 64 * 1024 * 1024,
    "websocket_ping_seconds": 0.0,
    "grace_seconds": 30.0,
    "log_level": "info",
    "workers": 1,
    "access_log": "off",
    "access_log_file": None,
    "tracing": "off",
    "admin_host": "127.0.0.1",
    "admin_port": "auto",
    "agent_port": "off",
    "admin_names": (),
    "admin_access": "read",
    "admin_tokens": (),
    "admin_tokens_file": None,
    "admin_client_ca_file": None,
    "admin_client_access": "operate",
    "max_api_leases": 2000,
}
LOCAL_SETTINGS = {
    "host",
    "port",
    "replicas",
    "discovery",
    "replica_tls_ca_file",
    "replica_tls_certificate_file",
    "replica_tls_key_file",
    "replica_tls_server_name",
    "replica_tls_verify",
    "redis_url",
    "namespace",
    "cluster",
    "router_id",
    "may_lead",
    "probe_concurrency",
    "refresh_seconds",
    "max_staleness_seconds",
    "policy",
    "hash_max_load",
    "degraded_placement",
    "local_cooldown_seconds",
    "redis_timeout_seconds",
    "connect_timeout_seconds",
    "response_timeout_seconds",
    "first_byte_timeout_seconds",
    "total_timeout_seconds",
    "max_body_bytes",
    "max_clients",
    "peer_timeout_seconds",
    "replica_idle_seconds",
    "header_timeout_seconds",
    "tls_certificate_file",
    "tls_key_file",
    "tls_client_ca_file",
    "api_keys",
    "api_keys_file",
    "forward_api_key",
    "websocket_api_key",
    "cors_origins",
    "trusted_proxies",
    "routes",
    "pools",
    "placement",
    "session_key",
    "on_lost",
    "queue_timeout_seconds",
    "max_frame_bytes",
    "websocket_ping_seconds",
    "grace_seconds",
    "log_level",
    "workers",
    "access_log",
    "access_log_file",
    "tracing",
    "admin_host",
    "admin_port",
    "agent_port",
    "admin_names",
    "admin_access",
    "admin_tokens",
    "admin_tokens_file",
    "admin_client_ca_file",
    "admin_client_access",
    "max_api_leases",
}
NAMES = [*THE_ORIGINALS, *OURS]


def config(**settings: Any) -> RouterConfig:
    return RouterConfig(**settings)


def refusal(settings: Mapping[str, Any]) -> str:
    with pytest.raises(InvalidSettings) as caught:
        config(**settings)
    return str(caught.value)


def test_the_originals_settings_come_first_with_order_and_defaults() -> None:
    assert [field.name for field in dataclasses.fields(RouterConfig)] == NAMES
    assert {name: getattr(RouterConfig(), name) for name in THE_ORIGINALS} == THE_ORIGINALS
    assert config(*()) == RouterConfig(*THE_ORIGINALS.values())


def test_our_settings_have_the_documented_defaults() -> None:
    default = RouterConfig()
    assert {name: getattr(default, name) for name in OURS} == {**OURS, "router_id": default.router_id}
    assert default.router_id


@pytest.mark.parametrize(
    ("host_name", "router_id"),
    [
        ("gpu-1.example.com", "gpu-1.example.com"),
        ("my host/a~b", "my-host-a-b"),
        ("x" * 80, "x" * 64),
        ("bücher", "b-cher"),
        ("~", "router"),
        ("", "router"),
    ],
)
def test_router_id_is_derived_from_the_host_name(
    monkeypatch: pytest.MonkeyPatch, host_name: str, router_id: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host_name)
    assert config().router_id == config(router_id=None).router_id == router_id


def test_plain_constructors_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARED_REGISTRY_PORT", "1")
    assert RouterConfig().port == RouterConfig.adopt(SimpleNamespace(host="h")).port == 9000


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 0},
        {"port": 65535},
        {"host": "::"},
        {"health_check_interval_seconds": 1},
        {"health_check_interval_seconds": 0.001},
        {"health_check_interval_seconds": 1e6},
        {"health_check_timeout_seconds": 60.0, "health_check_interval_seconds": 1.0},
        {"failure_threshold": 1, "recovery_threshold": 1},
        {"health_check_path": "/"},
        {"health_check_path": "/ready?full=1&x=%20"},
        {"health_check_expect": {"status": "ready", "n": 1, "x": 0.5, "ok": True}},
        {"health_check_expect": None},
        {"namespace": "A.b_c-9"},
        {"namespace": "x" * 64},
        {"router_id": "host:9000"},
        {"router_id": "x" * 64},
        {"lease_seconds": 0.3, "renew_interval_seconds": 0.1},
        {"lease_seconds": 2.5, "renew_interval_seconds": 1.2},
        {"max_staleness_seconds": 2},
        {"max_staleness_seconds": 1.0, "refresh_seconds": 0.5},
        {"replicas": (ReplicaEndpoint(A), ReplicaEndpoint(B, primary=True), ReplicaEndpoint("http://c", primary=True))},
    ],
)
def test_good_values_are_accepted(settings: dict[str, Any]) -> None:
    made = config(**settings)
    for name, value in settings.items():
        assert getattr(made, name) == (list(value) if name == "replicas" else value or type(getattr(made, name))())


SECONDS = [name for name in NAMES if name.endswith("_seconds")]
MAY_BE_ZERO = {
    "hold_grace_seconds",
    "slow_start_seconds",
    "affinity_seconds",
    "local_cooldown_seconds",
    "queue_timeout_seconds",
    "total_timeout_seconds",
    "websocket_ping_seconds",
    "grace_seconds",
    "access_log",
    "access_log_file",
}
WHOLE = [
    "port",
    "failure_threshold",
    "recovery_threshold",
    "probe_concurrency",
    "max_frame_bytes",
    "max_body_bytes",
    "workers",
]
WORDS = ["host", "health_check_path", "namespace", "redis_url"]


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, NAN, INF, -INF, "5", True, b"1", [], 10**400])
def test_durations_are_positive_finite_numbers(name: str, value: object) -> None:
    if name in MAY_BE_ZERO and value in (0, 0.0) and not isinstance(value, bool):
        assert getattr(config(**{name: value}), name) == 0.0
        return
    assert refusal({name: value}).startswith(f"{name}: must be ")


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [-1, 1.5, 3.0, "3", True, NAN, None])
def test_counts_are_whole_numbers(name: str, value: object) -> None:
    assert refusal({name: value}).startswith(f"{name}: must be ")


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("value", [None, 3, True, b"x", ["x"], "", " ", "a b", "a\n", "a\x00", "\u2028"])
def test_words_are_clean_text(name: str, value: object) -> None:
    assert refusal({name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 65536}, "port: must be at most 65535, got 65536; the default is 9000"),
        ({"access_log": "apache"}, "access_log: must be 'off', 'text' or 'json', got 'apache'"),
        ({"access_log_file": 5}, "access_log_file: 5 is no path of a file"),
        ({"on_lost": "drop"}, "on_lost: must be 'keep' or 'close', got 'drop'"),
        (
            {"session_key": "body:id"},
            "session_key: 'body:id' is not usable; write header:NAME, cookie:NAME, query:NAME or",
        ),
        ({"discovery": {"kind": "file"}}, "discovery: must be a list such as [{kind: dns, name: pods, host: rep"),
        ({"discovery": ["pods"]}, "discovery[0]: must be a mapping such as {kind: dns, name: pods"),
        ({"discovery": [{"kind": "consul", "name": "a"}]}, "discovery[0].kind: must be file, dns or kubernetes, got"),
        ({"discovery": [{"kind": "file", "name": "a"}]}, "discovery[0].path: is missing; a source of kind file needs"),
        ({"discovery": [{"kind": "file", "path": "a"}]}, "discovery[0].name: is missing; a source of kind file needs"),
        (
            {"discovery": [{"kind": "file", "name": "a", "path": "a", "pth": 1}]},
            "discovery[0]: unknown key 'pth'; did you mean path?",
        ),
        ({"discovery": [{"kind": "dns", "name": "a", "host": "h"}]}, "discovery[0].port: is missing; only SRV"),
        (
            {"discovery": [{"kind": "dns", "name": "a", "host": "h", "port": "http"}]},
            "discovery[0].port: must be a number from 1 to 65535, got 'http'",
        ),
        ({"discovery": [KUBERNETES | {"server": "https://[::1"}]}, "discovery[0].server: 'https://[::1' is not a url"),
        ({"discovery": [KUBERNETES | {"server": "https://a:99999"}]}, "discovery[0].server: 99999 is not a valid port"),
        ({"discovery": [KUBERNETES | {"server": "https://b@a"}]}, "discovery[0].server: contains credentials; remove"),
        (
            {"discovery": [DNS | {"nameservers": ["127.0.0.1:99999"]}]},
            "discovery[0].nameservers: '127.0.0.1:99999' is no address; write",
        ),
        (
            {"discovery": [{"kind": "dns", "name": "a b", "host": "h", "port": 1}]},
            "discovery[0].name: 'a b' is not usable; write for example pods",
        ),
        (
            {"discovery": [{"kind": "dns", "name": "a", "host": "h", "port": 1, "interval_seconds": 0}]},
            "discovery[0].interval_seconds: must be a number from 0.05 to 3600, got 0",
        ),
        (
            {"discovery": [{"kind": "file", "name": "a", "path": "x"}, {"kind": "file", "name": "a", "path": "y"}]},
            "discovery: file:a is the name of two sources; give each a name of its own",
        ),
        ({"routes": {"path": "/a"}}, "routes: must be a list such as [{path: /v1/models, place: any}], got"),
        ({"routes": ["/a"]}, "routes[0]: must be a mapping such as {path: /v1/models, place: any}, got '/a'"),
        ({"routes": [{"path": "/a", "palce": "any"}]}, "routes[0]: unknown key 'palce'; did you mean place?"),
        ({"routes": [{"path": "a", "place": "any"}]}, "routes[0].path: 'a' is not usable; write a path such as"),
        ({"routes": [{"path": "/a*b", "place": "any"}]}, "routes[0].path: '/a*b' is not usable"),
        ({"routes": [{"path": "/a", "place": "slot"}]}, "routes[0].place: must be lease, any or none, got 'slot'"),
        ({"routes": [{"path": "/a"}]}, "routes[0].place: must be lease, any or none, got None"),
        (
            {"routes": [{"path": "/a", "place": "any", "methods": "GET"}]},
            "routes[0].methods: must be a list such as [GET, HEAD], got 'GET'",
        ),
        (
            {"routes": [{"path": "/a", "place": "any", "methods": ["GET", "G T"]}]},
            "routes[0].methods: 'G T' is no method; write for example GET, POST or WEBSOCKET",
        ),
        ({"routes": "[{"}, "routes: '[{' is not JSON"),
        (
            {"tls_certificate_file": "a.pem"},
            "tls_certificate_file: needs tls_key_file; if one file holds both, give it",
        ),
        ({"tls_key_file": "a.pem"}, "tls_key_file: needs tls_certificate_file"),
        ({"tls_client_ca_file": "a.pem"}, "tls_client_ca_file: has no effect without tls_certificate_file; give"),
        ({"admin_client_ca_file": "a.pem"}, "admin_client_ca_file: has no effect without tls_certificate_file; give"),
        ({"tls_client_ca_file": 7}, "tls_client_ca_file: 7 is no path of a file"),
        (
            {"api_keys_file": "keys", "session_key": "header:X-Api-Key"},
            "session_key: header:X-Api-Key has the API key, which is removed; use another place, or set",
        ),
        ({"api_keys": 7}, "api_keys: must be a list such as ['team-a: sha256:HEX'], got int"),
        (
            {"websocket_api_key": "cookie"},
            "websocket_api_key: must be 'header', 'subprotocol' or 'query', got 'cookie'",
        ),
        ({"cors_origins": 7}, "cors_origins: must be a list such as [https://app.example.com], got 7"),
        ({"cors_origins": ["a.example.com"]}, "cors_origins[0]: 'a.example.com' is no origin; write one such as"),
        ({"cors_origins": ["https://a/"]}, "cors_origins[0]: 'https://a/' is no origin; write one such as https://app"),
        ({"cors_origins": ["https://*.a"]}, "cors_origins[0]: 'https://*.a' is no origin"),
        ({"cors_origins": ["null"]}, "cors_origins[0]: 'null' is no origin"),
        ({"cors_origins": ["*", "https://a"]}, "cors_origins: '*' contains all others; write either '*' or a list"),
        ({"cors_origins": [None]}, "cors_origins[0]: None is no origin"),
        ({"trusted_proxies": 7}, "trusted_proxies: must be a list such as [10.0.0.0/8, 192.168.1.7], got 7"),
        ({"trusted_proxies": ["10.0.0.1", "nginx"]}, "trusted_proxies[1]: 'nginx' is no address and no network; write"),
        ({"trusted_proxies": "10.0.0.1/33"}, "trusted_proxies[0]: '10.0.0.1/33' is no address and no network"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "'10.0.0.1/8' has bits set behind its prefix; write 10.0.0.0/8 for"),
        ({"trusted_proxies": ["::ffff:10.0.0.1"]}, "matches nothing; write the IPv4 address without ::ffff:"),
        ({"trusted_proxies": [7]}, "trusted_proxies[0]: 7 is no address and no network"),
        (
            {"admin_port": -1},
            "admin_port: must be a port from 1 to 65535, 0 for any free one, auto (the default) or off",
        ),
        ({"agent_port": "auto"}, "agent_port: must be a port from 1 to 65535, or off (the default), got 'auto'"),
        ({"agent_port": 65_536}, "or off (the default), got 65536"),
        ({"admin_port": "on"}, "auto (the default) or off, got 'on'"),
        ({"admin_port": True}, "auto (the default) or off, got True"),
        ({"admin_port": 65_536}, "auto (the default) or off, got 65536"),
        ({"admin_host": "a b"}, "admin_host: 'a b' is no address; write one such as 0.0.0.0"),
        ({"admin_names": ["http://a"]}, "admin_names[0]: 'http://a' is no host name; write one such as router-1.exa"),
        ({"trusted_proxies": ["10.0.0.1"] * 1001}, "trusted_proxies: has 1001 items; use at most 1000"),
        ({"session_key": "first_frame."}, "session_key: 'first_frame.' is not usable"),
        ({"session_key": "header:a b"}, "session_key: 'header:a b' is not usable"),
        (
            {"policy": "random"},
            "policy: 'random' is not among hash, least_loaded, priority, round_robin",
        ),
        ({"hash_max_load": 1}, "hash_max_load: must be greater than 1, got 1"),
        ({"panic_percent": 101}, "panic_percent: must be at most 100, got 101"),
        ({"max_ejection_percent": 101}, "max_ejection_percent: must be at most 100, got 101"),
        ({"ejection_failures": 0}, "ejection_failures: must be at least 1, got 0; the default is 5"),
        ({"degraded_placement": "some"}, "degraded_placement: must be 'share', 'off' or 'unlimited', got 'some'"),
        ({"failure_threshold": 0}, "failure_threshold: must be at least 1, got 0; the default is 3"),
        ({"recovery_threshold": 0}, "recovery_threshold: must be at least 1, got 0"),
        ({"probe_concurrency": 0}, "probe_concurrency: must be at least 1"),
        ({"health_check_interval_seconds": 0.0}, "must be greater than 0, got 0.0; the default is 5.0"),
        ({"health_check_timeout_seconds": "2s"}, "must be a number, got '2s'; the default is 2.0"),
        ({"lease_seconds": 1e9}, "lease_seconds: must be at most 3600"),
        ({"lease_seconds": 0.01, "renew_interval_seconds": 0.01}, "lease_seconds: must be at least 0.1"),
        ({"refresh_seconds": 0.001}, "refresh_seconds: must be at least 0.01"),
        ({"health_check_path": "health"}, "health_check_path: 'health' must start with '/'"),
        ({"health_check_path": "/a b"}, "percent-encode"),
        ({"health_check_path": "/a#b"}, "percent-encode"),
        ({"health_check_path": "/ä"}, "percent-encode"),
        ({"health_check_path": "/a\r\nHost: x"}, "percent-encode"),
        ({"namespace": "a{b}"}, "namespace: 'a{b}' is not usable; write 1 to 64"),
        ({"namespace": "x" * 65}, "namespace: "),
        ({"namespace": "a\n"}, "namespace: "),
        ({"cluster": "a{b}"}, "cluster: 'a{b}' is not usable; write 1 to 64"),
        ({"cluster": "x" * 65}, "cluster: "),
        ({"router_id": "a~b"}, "router_id: 'a~b' is not usable"),
        ({"router_id": "a/b"}, "router_id: "),
        ({"router_id": "a b"}, "router_id: "),
        ({"router_id": "a\n"}, "router_id: "),
        ({"router_id": "a\x00"}, "router_id: "),
        ({"router_id": ""}, "router_id: "),
        ({"router_id": "x" * 65}, "router_id: "),
        ({"router_id": 7}, "router_id: 7 is not usable"),
        ({"redis_url": "http://h"}, "redis_url: its scheme is not one of redis, rediss, valkey, valkeys, unix"),
        ({"health_check_expect": "ready"}, "health_check_expect: must be a mapping"),
        ({"health_check_expect": {1: "x"}}, "health_check_expect: its keys must be text, got 1; quote it"),
        ({"health_check_expect": {"a": None}}, "health_check_expect['a']: must be text, a finite number or true/false"),
        ({"health_check_expect": {"a": [1]}}, "health_check_expect['a']"),
        ({"health_check_expect": {"a": NAN}}, "health_check_expect['a']"),
        ({"health_check_expect": {"a": -INF}}, "health_check_expect['a']"),
        (
            {"renew_interval_seconds": 1.5},
            "renew_interval_seconds: must be below half of lease_seconds (3), got 1.5; use",
        ),
        (
            {"lease_seconds": 2},
            "renew_interval_seconds: must be below half of lease_seconds (2), got 1; use about 0.667",
        ),
        ({"heartbeat_seconds": 2.5}, "heartbeat_seconds: must be below half of router_expiry_seconds (5), got 2.5"),
        ({"router_expiry_seconds": 2.0}, "heartbeat_seconds: must be below half of router_expiry_seconds (2), got 1"),
        ({"max_staleness_seconds": 1.9}, "max_staleness_seconds: must be at least twice refresh_seconds (1), got 1.9"),
        (
            {"refresh_seconds": 5.0, "max_staleness_seconds": 4.0},
            "max_staleness_seconds: must be at least twice refresh_seconds",
        ),
        ({"prot": 1}, "prot: no such setting; did you mean port?"),
        ({"zzz": 1}, "zzz: no such setting; remove it"),
    ],
)
def test_a_refusal_names_field_value_and_remedy(settings: dict[str, Any], message: str) -> None:
    assert message in refusal(settings)


def test_the_error_is_a_registry_error_and_a_value_error() -> None:
    with pytest.raises(ConfigError) as caught:
        config(port=-1)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, RegistryError)
    assert caught.value.__suppress_context__  # pydantic's own error would show the values
    assert caught.value.__cause__ is None
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_one_message_lists_all_problems_also_across_fields() -> None:
    message = refusal(
        {
            "port": -1,
            "lease_seconds": 1.0,
            "router_expiry_seconds": 1.0,
            "max_staleness_seconds": 0.1,
            "replicas": [
                ReplicaEndpoint("ftp://a"),
                ReplicaEndpoint(B, weight=0, capacity=-1),
                ReplicaEndpoint(B + "/x"),
            ],
            "unheard_of": 1,
        }
    )
    lines = message.splitlines()
    assert lines[0] == "9 settings are wrong:"
    assert [line.removeprefix("  - ").partition(":")[0] for line in lines[1:]] == [
        "port",
        "replicas[0].url",
        "replicas[1].weight",
        "replicas[1].capacity",
        "replicas[2].url",
        "renew_interval_seconds",
        "heartbeat_seconds",
        "max_staleness_seconds",
        "unheard_of",
    ]


def test_a_wrong_field_causes_no_complaint_about_its_neighbour() -> None:
    assert refusal({"lease_seconds": NAN}).count("\n") == 0


def test_too_many_positional_values_are_one_problem() -> None:
    values: list[Any] = [getattr(RouterConfig(), name) for name in NAMES]
    with pytest.raises(ConfigError) as caught:
        RouterConfig(*[*values, 1, 2, 3])
    assert str(caught.value) == f"too many values: there are {len(NAMES)} settings; give them by name"


def test_messages_stay_short_whatever_the_value() -> None:
    nested: list[object] = []
    for _ in range(60):
        nested = [nested, nested]
    for value in ("x" * 10**6, nested, {"a": ["b" * 10**6]}, {"a" * 10**6: None}, 10**5000):
        for name in ("port", "namespace", "health_check_path", "health_check_expect", "lease_seconds"):
            assert len(refusal({name: value})) < 400


# --- replicas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "message"),
    [
        ([ReplicaEndpoint(f"{A}/v1")], "replicas[0].url: 'http://a:8000/v1' must be given without a path"),
        ([ReplicaEndpoint(f"{A}?x=1")], "query/fragment"),
        (
            [ReplicaEndpoint(A, name="x"), ReplicaEndpoint("http://b", name="x")],
            "replicas[1].name: http://a:8000 and http://b are both named 'x'; give each a name of its own",
        ),
        ([ReplicaEndpoint(A), ReplicaEndpoint(A)], "replicas[1].url: Duplicate of replicas[0] (http://a:8000); list"),
        (
            [ReplicaEndpoint("HTTP://A:80/"), ReplicaEndpoint(B), ReplicaEndpoint("http://a")],
            "replicas[2].url: Duplicate",
        ),
        ([ReplicaEndpoint("http://u:secret@a")], "replicas[0].url: contains credentials"),
        ([A], "replicas[0]: must have a url"),
        ([None], "replicas[0]: must have a url"),
        ([ReplicaEndpoint], "replicas[0]: must have a url"),
        ([type("Endpoint", (), {"url": A})], "replicas[0]: must have a url"),
        (A, "replicas: must be a list of ReplicaEndpoint, got str"),
        (None, "replicas: must be a list of ReplicaEndpoint, got NoneType"),
        ({"url": "http://u:secret@a"}, "replicas: must be a list of ReplicaEndpoint, got dict"),
        (
            [{"url": "http://u:secret@a"}],
            "replicas[0]: must have a url, as ReplicaEndpoint('http://host:port') has; got dict",
        ),
    ],
)
def test_wrong_replicas_are_refused(replicas: object, message: str) -> None:
    text = refusal({"replicas": replicas})
    assert message in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("url", value) for value in ("", None, 8000, "a:8000")],
        *[("name", value) for value in (3, b"x", "a\nb", "\x1b[31m", "x" * 201)],
        *[("primary", value) for value in ("false", 0, 1, None)],
        *[("weight", value) for value in (0, -1, 0.0, NAN, INF, -INF, "1", True, None, 1e-300, 1e300, 10**400)],
        *[("capacity", value) for value in (-1, 1.0, "1", True, None, NAN, 2**53 + 1)],
        *[("order", value) for value in (-1, 1.0, "1", False, 2**53 + 1)],
    ],
)
def test_wrong_endpoint_fields_are_refused(field: str, value: Any) -> None:
    endpoint = ReplicaEndpoint(**{"url": A, field: value})
    with pytest.raises(ConfigError) as caught:
        validate_endpoint(endpoint, f"replicas[{7}]")
    assert str(caught.value).startswith(f"replicas[7].{field}: ")
    assert "\n" not in str(caught.value)


def test_an_endpoint_is_copied_and_keeps_its_spelling() -> None:
    given = ReplicaEndpoint("HTTP://A:80/", name="", primary=True, weight=2, capacity=3, order=0)
    checked = validate_endpoint(given)
    assert checked == ReplicaEndpoint("HTTP://A:80/", name=None, primary=True, weight=2.0, capacity=3, order=0)
    assert checked is not given
    assert isinstance(checked.weight, float)


def test_changes_are_checked_like_the_rest() -> None:
    foreign = SimpleNamespace(url=A, name="one", weight=2.0)
    changed = validate_endpoint(foreign, changes={"name": "two", "capacity": 3})
    assert changed == ReplicaEndpoint(A, "two", weight=2.0, capacity=3)
    with pytest.raises(ConfigError, match=r"replica\.weight: must be a number above 0 .*, got 0"):
        validate_endpoint(foreign, "replica", {"weight": 0})
    with pytest.raises(ConfigError, match=r"endpoint\.wieght: no such setting; did you mean weight\?"):
        validate_endpoint(foreign, changes={"wieght": 2.0})
    with pytest.raises(ConfigError, match=r"endpoint\.url: no such setting"):
        validate_endpoint(foreign, changes={"url": "http://b"})


def test_endpoints_of_other_classes_are_read_by_their_attributes() -> None:
    foreign = SimpleNamespace(url=A, name="one", primary=True, weight=2.0, zone="x")
    assert validate_endpoint(foreign) == ReplicaEndpoint(A, "one", primary=True, weight=2.0)
    assert validate_endpoint(SimpleNamespace(url=A)) == ReplicaEndpoint(A)


def test_objects_of_the_caller_are_not_changed() -> None:
    replicas, expect = [ReplicaEndpoint(A)], {"status": "ready"}
    made = config(replicas=replicas, health_check_expect=expect)
    expect["status"] = "no"
    replicas.clear()
    assert made.replicas == [ReplicaEndpoint(A)]
    assert made.health_check_expect == {"status": "ready"}


# --- adopting, replacing, showing -----------------------------------------------------------------------------------


def test_any_object_with_the_originals_attributes_is_adopted() -> None:
    class Foreign:
        host, port = "127.0.0.1", 9100
        health_check_interval_seconds, health_check_timeout_seconds = 1, 0.5
        failure_threshold = 5
        unheard_of = object()

        @property
        def replicas(self) -> list[object]:
            return [SimpleNamespace(url=A, name=None, primary=True, weight=1)]

    assert RouterConfig.adopt(Foreign()) == RouterConfig(
        host="127.0.0.1",
        port=9100,
        replicas=[ReplicaEndpoint(A, primary=True)],
        health_check_interval_seconds=1.0,
        health_check_timeout_seconds=0.5,
        failure_threshold=5,
    )


def test_adopting_our_config_returns_it_and_refuses_wrong_settings() -> None:
    ours = RouterConfig(port=1)
    assert RouterConfig.adopt(ours) is ours
    with pytest.raises(ConfigError, match="failure_threshold: must be at least 1"):
        RouterConfig.adopt(SimpleNamespace(failure_threshold=0))


@pytest.mark.parametrize("source", [None, {"host": "h"}, "router.yaml", RouterConfig, object()])
def test_an_object_that_is_no_config_is_refused(source: object) -> None:
    with pytest.raises(ConfigError, match="has no setting such as host or replicas; pass a RouterConfig"):
        RouterConfig.adopt(source)


def test_replace_checks_again_and_nothing_changes_in_place() -> None:
    base = config(port=1, replicas=[ReplicaEndpoint(A)])
    assert dataclasses.replace(base, port=2) == config(port=2, replicas=[ReplicaEndpoint(A)])
    with pytest.raises(ConfigError, match="renew_interval_seconds"):
        dataclasses.replace(base, lease_seconds=1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.port = 3  # type: ignore[misc]
    assert copy.deepcopy(base) == pickle.loads(pickle.dumps(base)) == base


@pytest.mark.parametrize(("interval", "effective"), [(5.0, 1.0), (1.0, 1.0), (0.5, 0.5)])
def test_the_fast_interval_is_never_more_than_the_ordinary_one(interval: float, effective: float) -> None:
    made = config(health_check_interval_seconds=interval)
    assert made.fast_interval_seconds == 1.0
    assert made.effective_fast_interval_seconds == effective


@pytest.mark.parametrize("secret_url", ["redis://u:secret@h/0", "redis://h/0?password=secret", "redis://secret@h"])
def test_passwords_are_never_shown(secret_url: str) -> None:
    made = config(redis_url=secret_url, replicas=[ReplicaEndpoint(A)])
    assert made.redis_url == secret_url
    for text in (repr(made), str(made), f"{[made]}", str(made.shown())):
        assert "secret" not in text
        assert "***" in text
    for name in NAMES:
        assert f"{name}=" in repr(made)
        assert name in made.shown()
    assert "secret" not in refusal({"redis_url": secret_url + " ", "port": -1})


OTHER_VALUES: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 1,
    "replicas": [ReplicaEndpoint(A)],
    "discovery": [{"kind": "file", "name": "fleet", "path": "replicas.yaml"}],
    "health_check_path": "/readyz",
    "health_check_interval_seconds": 6.0,
    "health_check_timeout_seconds": 3.0,
    "failure_threshold": 4,
    "recovery_threshold": 3,
    "health_check_expect": {"status": "ready"},
    "health_check_expect_text": "ready",
    "health_check_expect_pattern": "re+ady",
    "health_check_statuses": "200",
    "health_check_type": "tcp",
    "health_check_port": 8081,
    "health_check_method": "HEAD",
    "health_check_headers": {"Host": "other"},
    "health_check_request_body": "{}",
    "replica_tls_ca_file": "ca.pem",
    "replica_tls_certificate_file": "certificate.pem",
    "replica_tls_key_file": "key.pem",
    "replica_tls_server_name": "other",
    "replica_tls_verify": False,
    "redis_url": "redis://h",
    "namespace": "other",
    "cluster": "other",
    "router_id": "other",
    "lease_seconds": 4.0,
    "renew_interval_seconds": 0.5,
    "heartbeat_seconds": 0.5,
    "router_expiry_seconds": 6.0,
    "fast_interval_seconds": 0.5,
    "probing": "shared",
    "may_lead": False,
    "probe_concurrency": 1,
    "refresh_seconds": 2.0,
    "max_staleness_seconds": 9.0,
    "policy": "hash",
    "hash_max_load": 1.25,
    "panic_percent": 50.0,
    "max_ejection_percent": 0.0,
    "base_ejection_seconds": 60.0,
    "ejection_failures": 3,
    "slow_start_seconds": 30.0,
    "affinity_seconds": 60.0,
    "max_queue": 5,
    "hold_grace_seconds": 6.0,
    "degraded_placement": "off",
    "local_cooldown_seconds": 0.0,
    "redis_timeout_seconds": 2.0,
    "connect_timeout_seconds": 3.0,
    "response_timeout_seconds": 3.0,
    "first_byte_timeout_seconds": 3.0,
    "total_timeout_seconds": 3.0,
    "max_body_bytes": 2048,
    "max_clients": 5,
    "peer_timeout_seconds": 3.0,
    "replica_idle_seconds": 3.0,
    "header_timeout_seconds": 3.0,
    "tls_certificate_file": "certificate.pem",
    "tls_key_file": "key.pem",
    "tls_client_ca_file": "clients.pem",
    "api_keys": ["a: sk-0123456789abcdef"],
    "api_keys_file": "keys",
    "forward_api_key": True,
    "websocket_api_key": "query",
    "cors_origins": ["*"],
    "trusted_proxies": ["10.0.0.0/8"],
    "routes": [{"path": "/a", "place": "any"}],
    "pools": [{"name": "a"}],
    "placement": "local",
    "session_key": "cookie:sid",
    "on_lost": "close",
    "queue_timeout_seconds": 30.0,
    "max_frame_bytes": 2048,
    "websocket_ping_seconds": 20.0,
    "grace_seconds": 0.0,
    "log_level": "warning",
    "workers": 2,
    "access_log": "json",
    "access_log_file": "/var/log/access.log",
    "tracing": "otlp",
    "admin_host": "0.0.0.0",
    "admin_port": "off",
    "agent_port": 11_000,
    "admin_names": ["router-1.example.com"],
    "admin_access": "none",
    "admin_tokens": ["a: sk-0123456789abcdef read"],
    "admin_tokens_file": "tokens",
    "admin_client_ca_file": "operators.pem",
    "admin_client_access": "lease",
    "max_api_leases": 5,
}


NEEDED: dict[str, dict[str, Any]] = {
    "health_check_request_body": {"health_check_method": "POST"},
    "replica_tls_certificate_file": {"replica_tls_key_file": "key.pem"},
    "replica_tls_key_file": {"replica_tls_certificate_file": "certificate.pem"},
    "tls_certificate_file": {"tls_key_file": "key.pem"},
    "tls_key_file": {"tls_certificate_file": "certificate.pem"},
    "tls_client_ca_file": {"tls_certificate_file": "certificate.pem", "tls_key_file": "key.pem"},
    "admin_client_ca_file": {"tls_certificate_file": "certificate.pem", "tls_key_file": "key.pem"},
    "without tls_certificate_file": {},
    "without tls_key_file": {},
    "without replica_tls_certificate_file": {},
    "without replica_tls_key_file": {},
}
"""Settings without which another one cannot be set."""


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_covers_exactly_the_settings_that_routers_share(name: str) -> None:
    assert (name in SHARED_SETTINGS) != (name in LOCAL_SETTINGS)
    needed = NEEDED.get(name, {})
    changed = config(**{name: OTHER_VALUES[name]} | needed)
    assert (changed.fingerprint() != config(**NEEDED.get(f"without {name}", needed)).fingerprint()) == (
        name in SHARED_SETTINGS
    )


def test_the_fingerprint_is_the_same_everywhere() -> None:
    assert config().fingerprint() == "c063e32cc9ad"
    assert config(health_check_interval_seconds=5).fingerprint() == config().fingerprint()
    one, other = {"a": 1, "b": True}, {"b": True, "a": 1}
    assert config(health_check_expect=one).fingerprint() == config(health_check_expect=other).fingerprint()
    prints = {config(health_check_expect={"a": value}).fingerprint() for value in (1, 1.0, True, "1")}
    assert len(prints) == 4


def test_a_clamped_fast_interval_does_not_change_the_fingerprint() -> None:
    clamped = config(health_check_interval_seconds=0.5)
    assert clamped.fingerprint() == dataclasses.replace(clamped, fast_interval_seconds=0.5).fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_explained(name: str) -> None:
    described = docstring(name)
    first_sentence, _, more = " ".join(described.split()).partition(". ")
    assert first_sentence
    assert more
    assert ("seconds" in first_sentence.lower()) == (name in SECONDS)
    assert described == textwrap.dedent(described)
