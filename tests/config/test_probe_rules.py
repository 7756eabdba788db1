"""The settings of probes: what is refused, by name, and what does not fit together."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from shared_registry.config import InvalidSettings, RouterConfig, load_yaml, validate_endpoint
from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint

SECRET = "s3cret"


def refusal(**settings: Any) -> str:
    with pytest.raises(InvalidSettings) as caught:
        RouterConfig(**settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("health_check_type", "grpc", "health_check_type: must be 'http', 'tcp' or 'websocket', got 'grpc'"),
        ("health_check_port", 0, "health_check_port: must be at least 1, got 0"),
        ("health_check_port", 70000, "health_check_port: must be at most 65535, got 70000"),
        ("health_check_port", True, "health_check_port: must be a whole number"),
        ("health_check_method", "get", "health_check_method: must be 'GET', 'HEAD',"),
        ("health_check_method", "GET / HTTP/1.1\r\nX: y", "health_check_method: must be 'GET', 'HEAD',"),
        ("health_check_headers", "X: y", "health_check_headers: must be a mapping such as"),
        ("health_check_headers", {"X\r\nY": "z"}, r"health_check_headers['X\r\nY']: is no name of a header"),
        ("health_check_headers", {"X:": "z"}, "health_check_headers['X:']: is no name of a header"),
        ("health_check_headers", {"": "z"}, "health_check_headers['']: is no name of a header"),
        ("health_check_headers", {1: "z"}, "health_check_headers[1]: is no name of a header"),
        ("health_check_headers", {"X": "a\r\nY: b"}, "health_check_headers['X']: its value must be text of at most"),
        ("health_check_headers", {"X": "a\n"}, "health_check_headers['X']: its value must be text of at most"),
        ("health_check_headers", {"X": "a\x00"}, "health_check_headers['X']: its value must be text of at most"),
        ("health_check_headers", {"X": "ä"}, "health_check_headers['X']: its value must be text of at most"),
        ("health_check_headers", {"X": " a"}, "health_check_headers['X']: its value must be text of at most"),
        ("health_check_headers", {"X": 7}, "health_check_headers['X']: its value must be text of at most"),
        ("health_check_headers", {"X": "a" * 5000}, "health_check_headers['X']: its value must be text of at most"),
        ("health_check_headers", {"Content-Length": "1"}, "health_check_headers['Content-Length']: cannot be set"),
        ("health_check_headers", {"transfer-encoding": "x"}, "health_check_headers['transfer-encoding']: cannot be"),
        ("health_check_headers", {"Sec-WebSocket-Key": "x"}, "health_check_headers['Sec-WebSocket-Key']: cannot be"),
        ("health_check_headers", {"X-A": "1", "x-a": "2"}, "health_check_headers['x-a']: is given twice"),
        ("health_check_headers", {f"X-{n}": "" for n in range(33)}, "health_check_headers: must be at most 32, got 33"),
        ("health_check_request_body", b"x", "health_check_request_body: must be text of at most 65536 bytes"),
        ("health_check_request_body", "ä" * 40_000, "health_check_request_body: must be text of at most 65536 bytes"),
        ("health_check_statuses", "", "health_check_statuses: '' is no status from 200 to 999"),
        ("health_check_statuses", [], "health_check_statuses: [] is not usable; write statuses and ranges such as"),
        ("health_check_statuses", "2xx", "health_check_statuses: '2xx' is no status from 200 to 999"),
        ("health_check_statuses", "299-200", "health_check_statuses: '299-200' is no status"),
        ("health_check_statuses", "100-199", "health_check_statuses: '100-199' is no status"),
        ("health_check_statuses", "200,,404", "health_check_statuses: '' is no status"),
        ("health_check_statuses", [200, True], "health_check_statuses: True is no status"),
        ("health_check_statuses", {"200": 1}, "health_check_statuses: {'200': 1} is not usable"),
        ("health_check_expect", {"a": {}}, "health_check_expect['a']: has no condition; write one such as {gt: 0}"),
        ("health_check_expect", {"a": {"gte": 1}}, "health_check_expect['a']: 'gte' is no condition; did you mean g"),
        ("health_check_expect", {"a": {"state": 1}}, "health_check_expect['a']: 'state' is no condition; use eq, ne,"),
        ("health_check_expect", {"a": {"lt": "1"}}, "health_check_expect['a'].lt: must be a finite number, got '1'"),
        ("health_check_expect", {"a": {"lt": True}}, "health_check_expect['a'].lt: must be a finite number, got True"),
        ("health_check_expect", {"a": {"gt": float("nan")}}, "health_check_expect['a'].gt: must be a finite number"),
        ("health_check_expect", {"a": {"in": []}}, "health_check_expect['a'].in: must be a list of texts, finite"),
        ("health_check_expect", {"a": {"in": [[1]]}}, "health_check_expect['a'].in: must be a list of texts, finite"),
        ("health_check_expect", {"a": {"exists": 1}}, "health_check_expect['a'].exists: must be true or false, got 1"),
        ("health_check_expect", {"a": {"matches": "("}}, "health_check_expect['a'].matches: '(' is no regular"),
        ("health_check_expect", {"a": {"matches": 1}}, "health_check_expect['a'].matches: must be a regular"),
        ("health_check_expect_text", 1, "health_check_expect_text: must be text of at most 1000 characters"),
        ("health_check_expect_pattern", "(", "health_check_expect_pattern: '(' is no regular expression: missing ),"),
        ("health_check_expect_pattern", "x" * 1001, "health_check_expect_pattern: must be a regular expression of at"),
        ("health_check_expect_pattern", "(a+)+$", "health_check_expect_pattern: '(a+)+$' repeats a group that"),
        ("replica_tls_ca_file", "a\x00b", "replica_tls_ca_file: 'a\\x00b' is no path of a file"),
        ("replica_tls_ca_file", 7, "replica_tls_ca_file: 7 is no path of a file"),
        ("replica_tls_server_name", "a b", "replica_tls_server_name: 'a b' is no host name"),
        ("replica_tls_server_name", "a\r\nb", "replica_tls_server_name: 'a\\r\\nb' is no host name"),
        ("replica_tls_verify", "no", "replica_tls_verify: "),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(name: str, value: Any, message: str) -> None:
    assert refusal(**{name: value}).startswith(message)


def test_the_value_of_a_header_is_never_shown() -> None:
    assert SECRET not in refusal(health_check_headers={"Authorization": f"{SECRET}\n"})
    assert SECRET not in refusal(health_check_headers=SECRET)
    config = RouterConfig(health_check_headers={"Authorization": f"Bearer {SECRET}", "Host": "a"})
    assert SECRET not in repr(config)
    assert SECRET not in json.dumps(config.shown())
    assert config.shown()["health_check_headers"] == {"Authorization": "***", "Host": "a"}
    assert config.fingerprint() != RouterConfig(health_check_headers={"Authorization": "x", "Host": "a"}).fingerprint()


@pytest.mark.parametrize(
    "pattern",
    [r"(a|b)+c", r"a+b*", r"\(a+\)+", r"(ab)+", r"[(a+)]+", r"(?:ready|up)$", r"(a{3})+", r"[]+)(]+", r"([\]+(]b)+"],
)
def test_ordinary_patterns_are_accepted_and_quick(pattern: str) -> None:
    config = RouterConfig(health_check_expect_pattern=pattern)
    began = time.monotonic()
    re.search(str(config.health_check_expect_pattern), "ab" * 500 + "!")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "(a*)*b", r"([a-z]+\s*)+$", "(?:a+){2,}", "(x(a+))+", "(a{1,})*", r"([(]a+)*", r"(\(a+)*"]
)
def test_patterns_that_may_take_for_ever_are_refused(pattern: str) -> None:
    assert "repeats a group that contains a repetition" in refusal(health_check_expect_pattern=pattern)
    assert "repeats a group" in refusal(health_check_expect={"a": {"matches": pattern}})


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            {"health_check_type": "tcp", "health_check_expect": {"a": 1}},
            ["health_check_expect: has no effect with health_check_type tcp; remove it, or use http"],
        ),
        (
            {"health_check_type": "tcp", "health_check_path": "/x", "health_check_headers": {"A": "b"}},
            ["health_check_path: has no effect with", "health_check_headers: has no effect with"],
        ),
        (
            {
                "health_check_type": "tcp",
                "replicas": [ReplicaEndpoint("http://a"), ReplicaEndpoint("http://b", health_check_path="/x")],
            },
            ["replicas[1].health_check_path: has no effect with health_check_type tcp"],
        ),
        (
            {"health_check_type": "websocket", "health_check_statuses": 101},
            ["health_check_statuses: '101' is no status"],
        ),
        (
            {"health_check_type": "websocket", "health_check_statuses": 204, "health_check_method": "POST"},
            ["health_check_method: has no effect with health_check_type websocket", "health_check_statuses: has no"],
        ),
        (
            {"health_check_method": "HEAD", "health_check_expect": {"a": 1}, "health_check_expect_pattern": "x"},
            [
                "health_check_expect: a response to health_check_method HEAD has no body; use GET",
                "health_check_expect_pattern: a response to health_check_method HEAD has no body",
            ],
        ),
        (
            {"health_check_request_body": "x"},
            ["health_check_request_body: cannot be sent with health_check_method GET; use POST or PUT"],
        ),
        (
            {"replica_tls_certificate_file": "a.pem"},
            ["replica_tls_certificate_file: needs replica_tls_key_file; if one file holds both, give it twice"],
        ),
        ({"replica_tls_key_file": "a.pem"}, ["replica_tls_key_file: needs replica_tls_certificate_file"]),
        (
            {"replica_tls_verify": False, "replica_tls_ca_file": "a.pem"},
            ["replica_tls_ca_file: has no effect with replica_tls_verify false"],
        ),
        (
            {"port": -1, "health_check_port": -1, "health_check_request_body": "x"},
            ["port: must be at least 0", "health_check_port: must be at least 1", "health_check_request_body: cannot"],
        ),
    ],
)
def test_what_does_not_fit_together_is_named(settings: dict[str, Any], messages: list[str]) -> None:
    text = refusal(**settings)
    for message in messages:
        assert message in text
    assert len(text.splitlines()) == (1 if len(messages) == 1 else len(messages) + 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"health_check_type": "tcp", "health_check_port": 8081},
        {"health_check_type": "websocket", "health_check_path": "/ws", "health_check_headers": {"Origin": "http://a"}},
        {"health_check_method": "HEAD", "health_check_statuses": 204},
        {"replica_tls_verify": False, "replica_tls_server_name": "a"},
        {"replica_tls_certificate_file": "a.pem", "replica_tls_key_file": "a.pem"},
    ],
)
def test_what_fits_together_is_accepted(settings: dict[str, Any]) -> None:
    assert RouterConfig(**settings) != RouterConfig()


def test_a_file_names_the_place_of_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "router.yaml"
    path.write_text(
        "router:\n  health_check: {type: tcp, expect: {a: 1}}\n  replica_tls: {certificate_file: a.pem}\n"
        "  replicas: [{url: 'http://a', health_check_port: 0}]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 settings are wrong:"
    assert f"(set by router.health_check.expect in {path} and router.health_check.type in {path})" in lines[2]
    assert f"(set by router.replica_tls.certificate_file in {path})" in lines[3]
    assert "replicas[0].health_check_port: must be a port from 1 to 65535" in lines[1]


def test_a_file_may_write_everything(tmp_path: Path) -> None:
    path = tmp_path / "router.yaml"
    path.write_text(
        "router:\n  health_check:\n    method: POST\n    request_body: '{}'\n    statuses: [200-299, 404]\n"
        "    port: '81'\n"
        "    headers: {Host: a}\n    expect: {engine.queue: {lt: 10, ge: 0}, state: {in: [ready, warm]}}\n"
        "  replica_tls: {verify: 'yes', server_name: a}\n"
        "  replicas: [{url: 'http://a', health_check_path: /r, health_check_port: '82'}]\n"
    )
    config = load_yaml(path)
    assert (config.health_check_statuses, config.health_check_port) == ("200-299,404", 81)
    assert config.health_check_expect == {"engine.queue": {"lt": 10, "ge": 0}, "state": {"in": ["ready", "warm"]}}
    assert config.replicas == [ReplicaEndpoint("http://a", health_check_path="/r", health_check_port=82)]
    assert config.replica_tls_verify is True


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"health_check_path": "x"}, "endpoint.health_check_path: must start with '/', such as /health, got 'x'"),
        ({"health_check_path": "/x\r\nY: z"}, "endpoint.health_check_path: has white space, '#' or non-ASCII"),
        ({"health_check_path": 7}, "endpoint.health_check_path: must start with '/'"),
        ({"health_check_port": 0}, "endpoint.health_check_port: must be a port from 1 to 65535"),
        ({"health_check_port": "81"}, "endpoint.health_check_port: must be a port from 1 to 65535"),
        ({"health_check_port": True}, "endpoint.health_check_port: must be a port from 1 to 65535"),
    ],
)
def test_a_replicas_target_is_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_endpoint(ReplicaEndpoint("http://a", **values))
    assert str(caught.value).startswith(message)
