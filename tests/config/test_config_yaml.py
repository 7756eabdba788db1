"""Settings from a YAML file: which forms are read, and how a file that is wrong is refused."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared_registry.config import RouterConfig, load_yaml
from shared_registry.config.yaml_file import BLOCKS, ROUTER_KEYS
from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "router.yaml"


def load(path: Path, text: str | bytes) -> RouterConfig:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_yaml(path)


def replicas(path: Path, *items: str) -> list[ReplicaEndpoint]:
    return load(path, "router:\n  replicas:\n" + "".join(f"  - {item}\n" for item in items)).replicas


def test_the_originals_file_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = """
        generator: {model: x, num_gpus: 2}
        router:
          host: 127.0.0.1
          port: 9100
          replicas:
            - url: http://streamer-a:8000
              name: a
              primary: true
            - url: http://streamer-b:8000/
              weight: 2
          health_check:
            path: /readyz
            interval_seconds: 4
            timeout_seconds: 1.5
            failure_threshold: 5
            recovery_threshold: 1
        """
    assert load(path, text) == RouterConfig(
        "127.0.0.1",
        9100,
        [ReplicaEndpoint("http://streamer-a:8000", "a", True), ReplicaEndpoint("http://streamer-b:8000/", weight=2.0)],
        "/readyz",
        4.0,
        1.5,
        5,
        1,
    )
    assert not caplog.records


def test_every_setting_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = RouterConfig(
        port=1,
        replicas=[ReplicaEndpoint("http://a", "a", True, 2.0, 8, 3, {"zone": "a", "gpu": "h100"}, "/ready", 8081)],
        health_check_expect={"status": "ready", "n": 1, "engine.queue": {"lt": 10, "in": [1, 2]}},
        health_check_headers={"Host": "replica.internal"},
        health_check_statuses="200-299,404",
        replica_tls_ca_file="ca.pem",
        redis_url="redis://:pw@h/1",
        namespace="pool",
        router_id="r1",
        lease_seconds=6.0,
        max_staleness_seconds=30.0,
        fast_interval_seconds=0.5,
        probe_concurrency=9,
    )
    router: dict[str, Any] = {block: {} for block in BLOCKS}
    places = {setting: (router[block], key) for block, keys in BLOCKS.items() for key, setting in keys.items()}
    for name, value in dataclasses.asdict(wanted).items():
        block, key = places.get(name, (router, name))
        block[key] = value
    assert load(path, yaml.safe_dump({"router": router})) == wanted
    assert load(path, yaml.safe_dump({"router": router}, default_flow_style=True)) == wanted
    assert not caplog.records


def test_every_setting_has_one_key() -> None:
    names = [field.name for field in dataclasses.fields(RouterConfig)]
    assert sorted([*ROUTER_KEYS, *(name for keys in BLOCKS.values() for name in keys.values())]) == sorted(names)


@pytest.mark.parametrize(
    "text",
    [
        "router: {}",
        "router: {health_check: null, replicas: null}",
        "router: {health_check: {}, replicas: []}",
        "router:\n  port:\n  router_id: ~\n  health_check:\n    expect:\n    path:\n",
        '{"router": {}, "other": [1]}',
        "\ufeffrouter: {}",
    ],
)
def test_an_absent_or_empty_key_takes_its_default(path: Path, text: str) -> None:
    assert load(path, text) == RouterConfig()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('port: "9001"', "port", 9001),
        ("port: 9001.0", "port", 9001),
        ("lease_seconds: '4.5'", "lease_seconds", 4.5),
        ("lease_seconds: 1e1", "lease_seconds", 10.0),  # YAML 1.1 reads 1e1 as text
        ("lease_seconds: 4", "lease_seconds", 4.0),
        ("namespace: 12", "namespace", "12"),
        ("router_id: 1.5", "router_id", "1.5"),
        ("health_check: {failure_threshold: ' 4 '}", "failure_threshold", 4),
        ("health_check: {expect: {ok: yes, n: 1, x: 1.5, s: '1'}}", "health_check_expect", None),
    ],
)
def test_numbers_and_text_are_read_as_the_setting_requires(path: Path, text: str, name: str, value: object) -> None:
    wanted = {"ok": True, "n": 1, "x": 1.5, "s": "1"} if value is None else value
    got = getattr(load(path, f"router:\n  {text}"), name)
    assert (got, repr(got)) == (wanted, repr(wanted))


@pytest.mark.parametrize(
    ("item", "endpoint"),
    [
        ("http://a", ReplicaEndpoint("http://a")),
        ("url: http://a", ReplicaEndpoint("http://a")),
        ("{url: http://a, name: null, primary: null, weight: null}", ReplicaEndpoint("http://a")),
        ("{url: http://a, name: 7}", ReplicaEndpoint("http://a", "7")),
        ("{url: http://a, primary: 'true', weight: '2'}", ReplicaEndpoint("http://a", primary=True, weight=2.0)),
        ("{url: http://a, primary: 'False'}", ReplicaEndpoint("http://a")),
        ("{url: http://a, primary: 1, capacity: '3', order: 0}", ReplicaEndpoint("http://a", None, True, 1.0, 3, 0)),
    ],
)
def test_replicas_may_be_urls_or_mappings(path: Path, item: str, endpoint: ReplicaEndpoint) -> None:
    assert replicas(path, item) == [endpoint]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty; write a router: block"),
        (b"# nothing\n", "is empty; write a router: block"),
        (b"- router", "must be a mapping with a router: block, not list"),
        (b"router", "must be a mapping with a router: block, not str"),
        (b"{}", "has no router: block; add one"),
        (b"routers: {}", "has no router: block; did you mean routers: to be router:?"),
        (b"router:", "router: must be a mapping, not nothing; write `router: {}`"),
        (b"router: [1]", "router: must be a mapping, not list"),
        (b"router: {health_check: 5}", "router.health_check: must be a mapping such as {path: /health}, not int"),
        (b"router: {replica_tls: a.pem}", "router.replica_tls: must be a mapping such as {ca_file: /etc/ssl/"),
        (b"router:\n  port: 1\n bad: 2\n", "not YAML: line 3, column 2:"),
        (b"router:\n\tport: 1\n", "not YAML: line 2, column 1:"),
        (b"router: [1", "not YAML: line 1"),
        (
            b"router: !!python/object/apply:os.getcwd []",
            "not YAML: line 1, column 9: could not determine a constructor",
        ),
        (b"a: 1\n---\nrouter: {}", "not YAML: line 2"),
        (b"router: {host: \xff}", "not text"),
        (b"router: {host: \x00}", "not text"),
        (b"router: {}\nother: {day: 2001-99-99}", "not usable YAML (ValueError)"),
        (b"[" * 5000, "not usable YAML (RecursionError)"),
    ],
)
def test_a_file_without_router_settings_is_refused_by_name(path: Path, text: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, text)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match=r"cannot be read .*; check the path"):
            load_yaml(path)
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        load_yaml(str(tmp_path / "missing.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "port: 9000.5",
            "port: must be a whole number, got 9000.5; the default is 9000 (set by router.port in {path})",
        ),
        ("port: yes", "port: must be a whole number, got True"),
        ("port: '0x10'", "port: must be a whole number, got '0x10'"),
        ("lease_seconds: 5s", "lease_seconds: must be a number, got '5s'"),
        ("lease_seconds: .nan", "lease_seconds: must be a finite number"),
        ("lease_seconds: 'inf'", "lease_seconds: must be a number, got 'inf'"),
        ("lease_seconds: '1e999'", "lease_seconds: must be a finite number"),
        ("host: yes", "line 2: router.host: yes is read as true"),
        ("redis_url: redis://:secret@h:x", "redis_url: names no valid host:port"),
        (
            "health_check: {interval_seconds: 0}",
            "health_check_interval_seconds: must be greater than 0, got 0; the default is 5.0"
            " (set by router.health_check.interval_seconds in {path})",
        ),
        (
            "lease_seconds: 1",
            "must be below half of lease_seconds (1), got 1; use about 0.333 (set by router.lease_seconds",
        ),
        (
            "replicas: {url: http://a}",
            "replicas: must be a list of ReplicaEndpoint, got dict (set by router.replicas in",
        ),
        ("replicas: http://a", "replicas: must be a list of ReplicaEndpoint, got str"),
        ("replicas: [http://a, 3]", "replicas[1]: must have a url"),
        ("replicas: [~]", "replicas[0]: must have a url"),
        ("replicas: [{name: x}]", "replicas[0].url: expected an http(s) url"),
        ("replicas: [{url: http://a, primary: maybe}]", "replicas[0].primary: must be True or False, got 'maybe'"),
        ("replicas: [{url: http://a, weight: heavy}]", "replicas[0].weight: must be a number above 0"),
        ("replicas: [{url: http://a}, {url: 'HTTP://A/'}]", "replicas[1].url: Duplicate of replicas[0]"),
        ("health_check: {expect: {a: [1]}}", "health_check_expect['a']: must be text"),
        ("health_check: &h {expect: *h}", "health_check_expect['expect']: 'expect' is no condition"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, f"router:\n  {text}")
    assert message.format(path=path) in str(caught.value)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_all_mistakes_in_a_file_are_listed_at_once(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, "router: {port: x, health_check: 3, replicas: [{url: http://a/b}, {url: http://c, weight: -1}]}")
    assert str(caught.value).startswith("4 settings are wrong:\n")


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("prot: 1", "unknown key 'prot' in router is ignored; did you mean port?"),
        ("helth_check: {}", "unknown key 'helth_check' in router is ignored; did you mean health_check?"),
        ("replica: []", "unknown key 'replica' in router is ignored; did you mean replicas?"),
        ("failure_threshold: 3", "'failure_threshold' in router is ignored; did you mean router.health_check.failure_"),
        ("health_check_path: /x", "'health_check_path' in router is ignored; did you mean router.health_check.path?"),
        ("health_check: {interval: 3}", "'interval' in router.health_check is ignored; did you mean interval_seconds?"),
        (
            "health_check: {redis_url: x}",
            "'redis_url' in router.health_check is ignored; did you mean router.redis_url?",
        ),
        ("replicas: [{url: http://a, wieght: 1}]", "'wieght' in router.replicas[0] is ignored; did you mean weight?"),
        ("zzz: 1", "unknown key 'zzz' in router is ignored; known keys: affinity_seconds, api_keys, "),
        ("1: 2", "unknown key '1' in router is ignored"),
        ("on: 2", "unknown key 'True' in router is ignored"),
    ],
)
def test_unknown_keys_are_named_with_the_nearest_known_one(
    path: Path, caplog: pytest.LogCaptureFixture, text: str, warning: str
) -> None:
    caplog.set_level(logging.WARNING)
    load(path, f"router:\n  {text}")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert warning in caplog.text
    assert str(path) in caplog.text


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("router:\n  replicas: [http://a]\n  port: 1\n  replicas: [http://b]\n", "router.replicas", "lines 2 and 4"),
        ("router:\n  namespace: prod\nrouter:\n  port: 9001\n", "router", "lines 1 and 3"),
        ("router: {}\nother:\n- a: {x: 1,\n     x: 2}\n", "other[0].a.x", "lines 3 and 4"),
        ("router: {port: 1, port: 1}", "router.port", "line 1"),
        ("router:\n  replicas:\n  - url: http://a\n    url: http://b\n", "router.replicas[0].url", "lines 3 and 4"),
        ("router:\n  port: 1\n  'port': 2\n", "router.port", "lines 2 and 3"),
        ("router: {}\na: {1: x, 0x1: y}\n", "a.0x1", "line 2"),
        ("a: &a {port: 1}\nb: &b {host: h}\nrouter:\n  <<: *a\n  <<: *b\n", "router.<<", "lines 4 and 5"),
        ("a: &a {port: 1, port: 2}\nrouter:\n  <<: *a\n", "a.port", "line 1"),
        ('{"router": {"port": 1,\n"port": 2}}', "router.port", "lines 1 and 2"),
    ],
)
def test_a_key_that_stands_twice_is_refused(path: Path, text: str, key: str, lines: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, text)
    assert f"{path}: {key}: stands twice, in {lines}; " in str(caught.value)


def test_merged_mappings_may_be_overridden(path: Path) -> None:
    text = """
        a: &a {port: 1, host: a}
        b: &b {port: 2, namespace: b}
        router: {<<: [*a, *b], port: 3}
        """
    config = load(path, text)
    assert (config.port, config.host, config.namespace) == (3, "a", "b")


@pytest.mark.parametrize(
    ("text", "key", "read"),
    [
        ("port: 90:01", "port", "90:01 is read as a number of base 60"),
        ("port: 010", "port", "010 is read as the octal number 8"),
        ("lease_seconds: 1:30.5", "lease_seconds", "1:30.5 is read as a number of base 60"),
        ("health_check: {interval_seconds: 1:05}", "health_check.interval_seconds", "1:05 is read as a number"),
        ("namespace: no", "namespace", 'no is read as false; write "no"'),
        ("namespace: 2026-11-01", "namespace", '2026-11-01 is read as a date; write "2026-11-01"'),
        ("router_id: 1.50", "router_id", 'read as the number 1.5; write "1.50"'),
        ("router_id: 1_000", "router_id", 'read as the number 1000; write "1_000"'),
        ("router_id: 0x1F", "router_id", 'read as the number 31; write "0x1F"'),
        ("replicas: [10:20]", "replicas[0]", "10:20 is read as a number of base 60"),
        ("replicas: [{url: http://a, name: on}]", "replicas[0].name", "on is read as true"),
        ("replicas: [{url: http://a, name: 007}]", "replicas[0].name", "007 is read as the octal number 7"),
        ("replicas: [{url: http://a, labels: {zone: no}}]", "replicas[0].labels.zone", "no is read as false"),
        ("replicas: [{url: http://a, labels: {off: x}}]", "replicas[0].labels.off", "off is read as false"),
        ("replicas: [{url: http://a, labels: {v: 1.10}}]", "replicas[0].labels.v", "1.10 is read as the number 1.1"),
        ("health_check: {headers: {X-Debug: yes}}", "health_check.headers.X-Debug", "yes is read as true"),
        ("health_check: {expect: {on: 1}}", "health_check.expect.on", "on is read as true"),
        ("health_check: {expect: {since: 2026-11-01}}", "health_check.expect.since", "is read as a date"),
        ("<<: {port: 012}", "port", "012 is read as the octal number 10"),
        ("<<: [{port: 012}]", "port", "012 is read as the octal number 10"),
    ],
)
def test_values_that_yaml_changes_are_refused(path: Path, text: str, key: str, read: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, f"router:\n  {text}")
    assert f"{path}: line 2: router.{key}: " in str(caught.value)
    assert read in str(caught.value)
    assert "RouterConfig" not in str(caught.value)


def test_all_surprises_of_a_file_are_reported_once(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, "router:\n  port: 90:01\n  namespace: no\n  lease_seconds: .inf\n  refresh_seconds: .nan\n")
    found = str(caught.value)
    for name in (
        "line 2: router.port",
        "line 3: router.namespace",
        "lease_seconds: must be a finite",
        "refresh_seconds: ",
    ):
        assert found.count(f"- {path}: {name}" if "line" in name else f"- {name}") == 1, (name, found)
    assert "- port" not in found
    assert "- namespace" not in found, "a value is not reported once more as one of a wrong type"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('port: "9001"', "port", 9001),
        ("port: 9_001", "port", 9001),
        ("port: 0x2329", "port", 9001),
        ("lease_seconds: 1e3", "lease_seconds", 1000.0),
        ("namespace: '010'", "namespace", "010"),
        ("namespace: 1e3", "namespace", "1e3"),
        ("replica_tls: {verify: no}", "replica_tls_verify", False),
        ("renew_interval_seconds: 0", None, None),
    ],
)
def test_values_read_as_they_look_are_not_refused(path: Path, text: str, name: str | None, value: object) -> None:
    if name is None:
        with pytest.raises(ConfigError, match="renew_interval_seconds: must be at least"):
            load(path, f"router:\n  {text}")
        return
    assert getattr(load(path, f"router:\n  {text}"), name) == value


def test_other_programs_blocks_may_hold_any_values(path: Path) -> None:
    assert load(path, "other: {at: 12:30, mode: 0755, day: 2026-11-01, on: no}\nrouter: {port: 5}").port == 5
