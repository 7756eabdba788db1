"""Settings from variables, which source wins over which, and that every value can be traced to its source."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared_registry.config import LoadedConfig, Origin, OriginKind, RouterConfig, from_env, load_config
from shared_registry.config.admin_tokens import check_admin_tokens
from shared_registry.config.api_keys import check_api_keys
from shared_registry.config.discovery_rules import DiscoveryRule
from shared_registry.config.draft import Draft
from shared_registry.config.pool_rules import PoolRule
from shared_registry.config.problems import Problem
from shared_registry.config.route_rules import RouteRule
from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint

PREFIX = "SHARED_REGISTRY_"
NAMES = [field.name for field in dataclasses.fields(RouterConfig)]
FROM_TEXT: dict[str, tuple[str, object]] = {
    "host": ("127.0.0.1", "127.0.0.1"),
    "port": (" 9001 ", 9001),
    "replicas": ("http://a:1, http://b:2,", [ReplicaEndpoint("http://a:1"), ReplicaEndpoint("http://b:2")]),
    "discovery": (
        '[{"kind": "file", "name": "fleet", "path": "replicas.yaml"}]',
        (DiscoveryRule("file", "fleet", path="replicas.yaml"),),
    ),
    "health_check_path": ("/readyz", "/readyz"),
    "health_check_interval_seconds": ("4", 4.0),
    "health_check_timeout_seconds": (".5", 0.5),
    "failure_threshold": ("+4", 4),
    "recovery_threshold": ("1", 1),
    "health_check_expect": ('{"status": "ready", "n": 1}', {"status": "ready", "n": 1}),
    "health_check_expect_text": ("ready", "ready"),
    "health_check_expect_pattern": ("re+ady", "re+ady"),
    "health_check_statuses": ("200-299, 404", "200-299,404"),
    "health_check_type": ("http", "http"),
    "health_check_port": ("8081", 8081),
    "health_check_method": ("POST", "POST"),
    "health_check_headers": ('{"X-A": "b"}', {"X-A": "b"}),
    "health_check_request_body": ("{}", "{}"),
    "replica_tls_ca_file": ("ca.pem", "ca.pem"),
    "replica_tls_certificate_file": ("certificate.pem", "certificate.pem"),
    "replica_tls_key_file": ("key.pem", "key.pem"),
    "replica_tls_server_name": ("replica.internal", "replica.internal"),
    "replica_tls_verify": ("yes", True),
    "redis_url": ("redis://:pw@h:1/2", "redis://:pw@h:1/2"),
    "namespace": ("12", "12"),
    "cluster": ("12", "12"),
    "router_id": ("7", "7"),
    "lease_seconds": ("3.5", 3.5),
    "renew_interval_seconds": ("5e-1", 0.5),
    "heartbeat_seconds": ("2.", 2.0),
    "router_expiry_seconds": ("10", 10.0),
    "fast_interval_seconds": ("0.5", 0.5),
    "probing": ("shared", "shared"),
    "may_lead": ("false", False),
    "probe_concurrency": ("8", 8),
    "refresh_seconds": ("2", 2.0),
    "max_staleness_seconds": ("30", 30.0),
    "policy": ("hash", "hash"),
    "hash_max_load": ("1.25", 1.25),
    "panic_percent": ("50", 50.0),
    "max_ejection_percent": ("20", 20.0),
    "base_ejection_seconds": ("10", 10.0),
    "ejection_failures": ("3", 3),
    "slow_start_seconds": ("30", 30.0),
    "affinity_seconds": ("0", 0.0),
    "max_queue": ("7", 7),
    "hold_grace_seconds": ("6", 6.0),
    "degraded_placement": ("off", "off"),
    "local_cooldown_seconds": ("1", 1.0),
    "redis_timeout_seconds": ("2", 2.0),
    "connect_timeout_seconds": ("3", 3.0),
    "response_timeout_seconds": ("60", 60.0),
    "first_byte_timeout_seconds": ("20", 20.0),
    "total_timeout_seconds": ("600", 600.0),
    "max_body_bytes": ("4096", 4096),
    "max_clients": ("500", 500),
    "peer_timeout_seconds": ("15", 15.0),
    "replica_idle_seconds": ("4", 4.0),
    "header_timeout_seconds": ("5", 5.0),
    "tls_certificate_file": ("certificate.pem", "certificate.pem"),
    "tls_key_file": ("key.pem", "key.pem"),
    "tls_client_ca_file": ("ca.pem", "ca.pem"),
    "api_keys": ("a: sk-0123456789abcdef /v1/*", check_api_keys([{"a": "sk-0123456789abcdef /v1/*"}])),
    "api_keys_file": ("keys", "keys"),
    "forward_api_key": ("yes", True),
    "websocket_api_key": ("query", "query"),
    "cors_origins": ("https://A:443, http://b:81", ("https://a", "http://b:81")),
    "trusted_proxies": ("10.0.0.1, 2001:DB8::/32", ("10.0.0.1/32", "2001:db8::/32")),
    "routes": ('[{"path": "/a", "methods": ["get"], "place": "any"}]', (RouteRule("/a", "any", ("GET",)),)),
    "pools": ('[{"name": "a", "models": ["x"]}]', (PoolRule("a", ("x",)),)),
    "placement": ("local", "local"),
    "session_key": ("first_frame.client_id", "first_frame.client_id"),
    "on_lost": ("close", "close"),
    "queue_timeout_seconds": ("30", 30.0),
    "max_frame_bytes": ("1048576", 1048576),
    "websocket_ping_seconds": ("20", 20.0),
    "grace_seconds": ("0", 0.0),
    "log_level": ("debug", "debug"),
    "workers": ("4", 4),
    "access_log": ("json", "json"),
    "access_log_file": ("/tmp/a.log", "/tmp/a.log"),
    "tracing": ("otlp", "otlp"),
    "admin_host": ("0.0.0.0", "0.0.0.0"),
    "admin_port": ("9100", 9100),
    "agent_port": ("9200", 9200),
    "admin_names": ("A.example, b.example", ("a.example", "b.example")),
    "admin_access": ("none", "none"),
    "admin_tokens": ("a: sk-0123456789abcdef lease", check_admin_tokens([{"a": "sk-0123456789abcdef lease"}])),
    "admin_tokens_file": ("tokens", "tokens"),
    "admin_client_ca_file": ("ca.pem", "ca.pem"),
    "admin_client_access": ("lease", "lease"),
    "max_api_leases": ("7", 7),
}


NEEDED = {
    "health_check_request_body": ["health_check_method"],
    "replica_tls_certificate_file": ["replica_tls_key_file"],
    "replica_tls_key_file": ["replica_tls_certificate_file"],
    "tls_certificate_file": ["tls_key_file"],
    "tls_key_file": ["tls_certificate_file"],
    "tls_client_ca_file": ["tls_certificate_file", "tls_key_file"],
    "admin_client_ca_file": ["tls_certificate_file", "tls_key_file"],
}
"""Settings without which another one cannot be set."""


def variable(name: str) -> str:
    return PREFIX + name.upper()


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_can_come_from_a_variable(name: str) -> None:
    text, value = FROM_TEXT[name]
    needed = {variable(other): FROM_TEXT[other][0] for other in NEEDED.get(name, ())}
    got = getattr(from_env({variable(name): text, "PORT": "1"} | needed), name)
    assert (got, repr(got)) == (value, repr(value))


def test_all_variables_together_over_a_base() -> None:
    base = RouterConfig(
        port=1, namespace="base", max_staleness_seconds=9.0, replicas=[ReplicaEndpoint("http://c", "c")]
    )
    assert from_env({}, base) == base
    assert from_env({}) == RouterConfig()
    assert from_env({variable("port"): "2"}, base) == dataclasses.replace(base, port=2)
    together = {name: pair for name, pair in FROM_TEXT.items() if name != "pools"}  # which exclude replicas
    everything = from_env({variable(name): text for name, (text, _) in together.items()}, base)
    assert everything == RouterConfig(**{name: value for name, (_, value) in together.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "  "])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_variable_counts_as_absent(name: str, text: str) -> None:
    base = RouterConfig(port=1, max_staleness_seconds=9.0)
    assert from_env({variable(name): text}, base) == base


def test_none_clears_an_optional_setting() -> None:
    base = RouterConfig(max_staleness_seconds=9.0)
    assert from_env({variable("max_staleness_seconds"): "None"}, base).max_staleness_seconds is None


def test_replicas_may_be_a_json_list() -> None:
    text = '["http://a", {"url": "http://b", "name": 7, "primary": "yes", "weight": "2", "capacity": 4, "order": null}]'
    assert from_env({variable("replicas"): text}).replicas == [
        ReplicaEndpoint("http://a"),
        ReplicaEndpoint("http://b", "7", primary=True, weight=2.0, capacity=4),
    ]


@pytest.mark.parametrize(
    ("setting", "text", "key"),
    [
        ("replicas", '[{"url": "http://a", "weight": 1, "weight": 2}]', "weight"),
        ("health_check_expect", '{"status": "ok", "a": {"b": 1, "b": 1}}', "b"),
        ("health_check_headers", '{"Host": "a", "Host": "b"}', "Host"),
    ],
)
def test_a_key_given_twice_in_json_is_refused(setting: str, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting}: the key '{key}' is there twice") as caught:
        from_env({variable(setting): text})
    assert variable(setting) in str(caught.value)


def test_an_unknown_key_of_a_replica_is_named(caplog: pytest.LogCaptureFixture) -> None:
    text = '[{"url": "http://a", "wieght": 2, "qqq": 1}]'
    assert from_env({variable("replicas"): text}).replicas == [ReplicaEndpoint("http://a")]
    assert (
        "SHARED_REGISTRY_REPLICAS: unknown key 'wieght' in replicas[0] is ignored; did you mean weight?" in caplog.text
    )
    assert "unknown key 'qqq' in replicas[0] is ignored; known keys: capacity, " in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("replicas", '["http://u:secret@a"', "replicas: begins with '[', but is not JSON: Expecting ',' delimiter at"),
        ("replicas", "[" * 100_000, "replicas: begins with '[', but is not JSON: "),
        ("replicas", '["http://a", {"url": "http://b", "weight": -1}]', "replicas[1].weight: must be a number above 0"),
        ("replicas", '["http://a", 7]', "replicas[1]: must have a url"),
        ("port", "80a", "port: must be a whole number, got '80a'; the default is 9000"),
        ("port", "9000.0", "port: must be a whole number"),
        ("port", "1_000", "port: must be a whole number"),
        ("port", "٣", "port: must be a whole number"),
        ("port", "70000", "port: must be at most 65535"),
        ("port", "9" * 30, "port: must be a whole number"),
        ("lease_seconds", "3s", "lease_seconds: must be a number, got '3s'"),
        ("lease_seconds", "nan", "lease_seconds: must be a number, got 'nan'"),
        ("lease_seconds", "1e999", "lease_seconds: must be a finite number"),
        ("lease_seconds", "1", "renew_interval_seconds: must be below half of lease_seconds (1)"),
        ("max_staleness_seconds", "never", "max_staleness_seconds: must be a number"),
        ("health_check_expect", "status=ready", "health_check_expect: must be a mapping"),
        ("health_check_expect", "[" * 100_000, "health_check_expect: must be a mapping"),
        ("health_check_expect", '{"a": NaN}', "health_check_expect['a']: must be text, a finite number"),
        ("replicas", "http://a,http://a/", "replicas[1].url: Duplicate"),
        ("replicas", "http://u:secret@a", "replicas[0].url: contains credentials"),
        ("redis_url", "redis://:secret@h:port", "redis_url: names no valid host:port"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_env({variable(name): text})
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(f"(set by {variable(name)})")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SHARED_REGISTRY_PROT", "did you mean SHARED_REGISTRY_PORT?"),
        ("SHARED_REGISTRY_HEARTBEAT", "did you mean SHARED_REGISTRY_HEARTBEAT_SECONDS?"),
        ("SHARED_REGISTRY_", "unset it"),
        ("SHARED_REGISTRY_QQQ", "unset it"),
    ],
)
def test_unknown_variables_are_named_without_their_value(
    caplog: pytest.LogCaptureFixture, name: str, hint: str
) -> None:
    caplog.set_level(logging.WARNING)
    assert from_env({name: "secret"}) == RouterConfig()
    assert [record.getMessage().startswith(f"unknown variable {name} is ignored; ") for record in caplog.records] == [
        True
    ]
    assert hint in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "environ",
    [
        {"SHARED_REGISTRY_TEST_SERVER": "x"},
        {"shared_registry_port": "1", "PORT": "1", "XSHARED_REGISTRY_PORT": "1"},
        # A Kubernetes service named shared-registry puts these into every pod beside it.
        {
            "SHARED_REGISTRY_SERVICE_HOST": "10.0.0.1",
            "SHARED_REGISTRY_SERVICE_PORT": "6379",
            "SHARED_REGISTRY_SERVICE_PORT_HTTP": "6379",
            "SHARED_REGISTRY_PORT": "tcp://10.0.0.1:6379",
            "SHARED_REGISTRY_PORT_6379_TCP": "tcp://10.0.0.1:6379",
            "SHARED_REGISTRY_PORT_6379_TCP_ADDR": "10.0.0.1",
        },
    ],
)
def test_variables_that_are_not_settings_are_left_alone(
    caplog: pytest.LogCaptureFixture, environ: Mapping[str, str]
) -> None:
    caplog.set_level(logging.DEBUG)
    assert from_env(environ) == RouterConfig()
    assert not caplog.records


# --- all sources together -------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "router.yaml"
    file.write_text("router: {host: file, port: 1, namespace: file, lease_seconds: 4}")
    return file


def test_command_line_beats_variables_beat_file_beats_defaults(path: Path) -> None:
    environ = {variable("port"): "2", variable("namespace"): "env"}
    loaded = load_config(path, environ, {"namespace": "cli", "port": None})
    assert loaded.config == RouterConfig(host="file", port=2, namespace="cli", lease_seconds=4.0)
    told = {name: str(origin) for name, origin in loaded.origins.items() if origin.kind is not OriginKind.DEFAULT}
    assert told == {
        "host": f"router.host in {path}",
        "port": "SHARED_REGISTRY_PORT",
        "namespace": "the command line",
        "lease_seconds": f"router.lease_seconds in {path}",
    }
    assert list(loaded.origins) == NAMES
    assert loaded.origins["redis_url"] == Origin(OriginKind.DEFAULT)
    assert {origin.kind for origin in loaded.origins.values()} == set(OriginKind)


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_reports_the_source_it_came_from(tmp_path: Path, name: str) -> None:
    _, value = FROM_TEXT[name]
    others = NEEDED.get(name, ())
    environ = {variable(one): FROM_TEXT[one][0] for one in (name, *others)}
    assert load_config(None, environ).origins[name].kind is OriginKind.ENVIRONMENT
    loaded = load_config(None, {}, {one: FROM_TEXT[one][1] for one in (name, *others)})
    assert loaded.origins[name].kind is OriginKind.COMMAND_LINE
    assert getattr(loaded.config, name) == value
    rest = loaded.origins.keys() - {name, *others}
    assert {loaded.origins[other].kind for other in rest} == {OriginKind.DEFAULT}


def test_without_arguments_only_this_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in NAMES:
        monkeypatch.delenv(variable(known), raising=False)
    monkeypatch.setenv("SHARED_REGISTRY_PORT", "4321")
    assert load_config().config == RouterConfig(port=4321)
    assert load_config(environ={}) == LoadedConfig(RouterConfig(), load_config(environ={}).origins)


def test_values_of_the_command_line_are_not_converted() -> None:
    with pytest.raises(ConfigError, match=r"port: must be a whole number, got '1'; .* \(set by the command line\)"):
        load_config(None, {}, {"port": "1"})
    with pytest.raises(ConfigError, match=r"prot: no such setting; did you mean port\? \(set by the command line\)"):
        load_config(None, {}, {"prot": 1})


def test_one_message_lists_what_is_wrong_in_all_sources(path: Path) -> None:
    path.write_text("router: {host: '', lease_seconds: 1.5, port: -1}")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {variable("failure_threshold"): "x", variable("port"): "2"}, {"renew_interval_seconds": 1.0})
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 settings are wrong:"
    assert [line.rpartition("(set by ")[2] for line in lines[1:]] == [
        f"router.host in {path})",
        "SHARED_REGISTRY_FAILURE_THRESHOLD)",
        f"the command line and router.lease_seconds in {path})",
    ]


def test_a_stronger_draft_keeps_the_problems_of_a_weaker_one() -> None:
    weaker, stronger = Draft(problems=[Problem("a: wrong")]), Draft(problems=[Problem("b: wrong")])
    weaker.update(stronger)
    with pytest.raises(ConfigError, match="2 settings are wrong:\n  - a: wrong\n  - b: wrong"):
        weaker.build()


def test_a_loaded_config_is_read_only() -> None:
    loaded = load_config(environ={})
    with pytest.raises(TypeError):
        loaded.origins["port"] = Origin(OriginKind.FILE)  # type: ignore[index]
