"""The command: what it prints, what it exits with, and that a mistake is one clear line without a secret in it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry import __version__
from shared_registry.cli.log_output import LOG_FIELDS
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.command import SECRET, Running, is_one_error, run, running
from tests.support.in_process import invoke
from tests.support.replica_server import ReplicaServer
from tests.support.until import wait_for

OwnServer = Callable[..., EmbeddedServer]

SERVE = ["serve", "--host", "127.0.0.1", "--port", "0"]
NOBODY = "redis://127.0.0.1:1/0"
REPLICA_FIELDS = [
    *("url", "name", "primary", "weight", "capacity", "labels"),
    *("health_check_path", "health_check_port", "source", "in_flight"),
    *("status", "status_since", "admin", "admin_since", "admin_reason", "admin_by", "ejected_until", "ejections"),
    *("last_ok_at", "last_failure_at", "last_latency_ms", "last_error"),
    *("consecutive_failures", "consecutive_successes"),
    *("prober", "suspected_by", "asked", "unreached_by", "reached_by", "refuted_prober"),
    *("owner", "ttl_seconds", "last_heartbeat_at", "expired_at", "trouble"),
]


def write(directory: Path, text: str) -> str:
    path = directory / "router.yaml"
    path.write_text(text)
    return str(path)


# What is asked wrongly


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ["is empty", "router:"]),
        ("- 1", ["must be a mapping", "list"]),
        ("router: [1]", ["router:", "must be a mapping"]),
        ("rooter: {}", ["no router:", "rooter"]),
        ("router: {replicas: [", ["not YAML", "line 1"]),
        ("router: {replicas: [{url: 'http://a', weight: .nan}]}", ["replicas[0].weight", "nan", "router.replicas"]),
        (f"router: {{replicas: ['http://u:{SECRET}@a']}}", ["replicas[0].url"]),
        ("router: {namespace: 'a b'}", ["namespace", "a b", "router.namespace"]),
        ("router: {redis_url: 'memcached://a'}", ["redis_url", "scheme", "rediss"]),
        (f"router: {{redis_url: 'redis://u:{SECRET}@a/zero'}}", ["redis_url", "database number"]),
        ("router: {lease_seconds: 1, renew_interval_seconds: 1}", ["renew_interval_seconds", "below half"]),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_wrong_file_is_reported(tmp_path: Path, text: str, named: list[str]) -> None:
    path = write(tmp_path, text)
    done = invoke("status", "--config", path)
    assert is_one_error(done, 2), done
    assert all(word in done.err for word in [*named, path]), done.err


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    done = run("serve", "--config", str(tmp_path / "none.yaml"))
    assert is_one_error(done, 2), done
    assert "none.yaml" in done.err
    assert "check the path" in done.err


def test_several_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "router: {port: 70000, namespace: ''}")
    done = invoke("status", "--config", path, SHARED_REGISTRY_LEASE_SECONDS="0")
    assert done.code == 2
    assert done.err.startswith("error: 3 settings are wrong:")
    assert all(name in done.err for name in ("port", "namespace", "SHARED_REGISTRY_LEASE_SECONDS"))


@pytest.mark.parametrize(
    "words",
    [
        ["status", "-n", "a b"],
        ["--namespace", "a b", "check"],
        ["status", "--redis", f"http://u:{SECRET}@a"],
        ["--redis", f"redis://u:{SECRET}@a:b", "serve"],
        ["check", "--redis", f"redis://{SECRET}@a/b"],
        ["status", "--redis", f"redis://a?password={SECRET}&socket_timeout=soon"],
    ],
)
def test_a_wrong_option_is_reported_without_the_secret_in_it(words: list[str]) -> None:
    done = invoke(*words)
    assert is_one_error(done, 2), done
    assert ("namespace" if "a b" in words else "redis_url") in done.err


@pytest.mark.parametrize(
    "words", [["stat"], ["status", "--no-such"], ["serve", "--wait-redis", "0"], ["serve", "--wait-redis", "nan"]]
)
def test_wrong_usage_exits_with_2(words: list[str]) -> None:
    done = invoke(*words)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = invoke("serve", "--host", "127.0.0.1", "--port", str(port))
    assert (done.code, done.out, len(done.err_lines)) == (2, "", 1), done
    assert f"port: cannot listen on 127.0.0.1:{port} (Address already in use)" in done.err
    assert "--port" in done.err


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_here_is_one_clear_line(host: str) -> None:
    done = invoke("serve", "--host", host, "--port", "0")
    assert (done.code, done.out, len(done.err_lines)) == (2, "", 1), done
    assert done.err.startswith("error: ")
    assert f"cannot listen on {host}:0" in done.err


# What help there is


def test_the_version_is_printed() -> None:
    assert run("--version").out == f"shared-registry {__version__}\n"


@pytest.mark.parametrize("name", ["serve", "status", "check", "demo"])
def test_help_has_an_example(name: str) -> None:
    done = invoke(name, "--help")
    assert done.code == 0
    assert f"shared-registry {name}" in done.out


# What Redis has against it


@pytest.mark.parametrize("name", ["status", "check"])
def test_without_redis_the_exit_status_is_3(name: str) -> None:
    done = invoke(name, SHARED_REGISTRY_REDIS_URL=NOBODY)
    assert is_one_error(done, 3), done
    assert NOBODY in done.err


def test_serve_gives_up_waiting_with_one_line_per_edge() -> None:
    done = run(*SERVE, "--wait-redis", "0.5", SHARED_REGISTRY_REDIS_URL=f"redis://:{SECRET}@127.0.0.1:1/0")
    assert is_one_error(done, 3, is_logging=True), done
    room, serving, admin, waiting, last = done.err_lines
    assert "room for" in room
    assert "router: serving on http://127.0.0.1:" in serving
    assert "admin: serving on http://127.0.0.1:" in admin
    assert "WARNING" in waiting
    assert "waiting for" in waiting
    assert "within 0.5 s" in last


def test_serve_joins_once_redis_is_there(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server()
    server.stop()
    with running(tmp_path, *SERVE, SHARED_REGISTRY_REDIS_URL=server.url) as router:
        wait_for(lambda: "waiting for" in router.err, "the first line")
        server.start()
        wait_for(lambda: "leads in epoch" in router.err, "leading")
        done = router.ends(signal.SIGTERM)
    assert done.code == 0
    assert done.err.count("waiting for") == done.err.count("has joined") == 1


@pytest.mark.parametrize("name", ["serve", "status", "check"])
@pytest.mark.parametrize("credentials", ["", f":not-{SECRET}@", f"user:not-{SECRET}@"])
def test_a_wrong_password_is_reported_but_not_shown(own_server: OwnServer, name: str, credentials: str) -> None:
    server = own_server(config={"requirepass": SECRET})
    words = SERVE if name == "serve" else [name]
    done = invoke(*words, SHARED_REGISTRY_REDIS_URL=server.url.replace("//", f"//{credentials}"))
    assert is_one_error(done, 2, is_logging=name == "serve"), done
    assert "password" in done.err


def test_the_right_password_is_not_shown_either(own_server: OwnServer) -> None:
    server = own_server(config={"requirepass": SECRET})
    for words in (["status"], ["status", "--json"], ["check", "--json"]):
        done = invoke(*words, SHARED_REGISTRY_REDIS_URL=server.url.replace("//", f"//:{SECRET}@"))
        assert (done.code, done.err) == (0, "")
        assert "127.0.0.1" in done.out
        assert SECRET not in done.out


def test_a_refused_change_is_not_said_to_be_unknown(own_server: OwnServer) -> None:
    """Redis answers, and lacks the replicas that `min-replicas-to-write` asks for."""
    server = own_server(config={"min-replicas-to-write": "2"})
    done = invoke("add", "http://127.0.0.1:1", SHARED_REGISTRY_REDIS_URL=server.url)
    assert done.code == 3
    assert done.out == "http://127.0.0.1:1: failed\n"
    assert "NOREPLICAS" in done.err
    assert done.err.endswith(f"; redis_url is {server.url}\n")


@pytest.mark.parametrize("name", ["status", "check", "serve"])
def test_a_server_that_may_evict_keys_is_warned_of(own_server: OwnServer, tmp_path: Path, name: str) -> None:
    server = own_server(config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})
    if name == "serve":
        with running(tmp_path, *SERVE, SHARED_REGISTRY_REDIS_URL=server.url) as command:
            wait_for(lambda: "has joined" in command.err, "joining")
            done = command.ends(signal.SIGTERM)
    else:
        done = invoke(name, SHARED_REGISTRY_REDIS_URL=server.url)
    assert done.code == 0
    [warning] = [line for line in done.err_lines if "allkeys-lru" in line]
    assert "warning" in warning.lower()
    assert "noeviction" in warning


@pytest.mark.parametrize("name", ["replicas", "meta", "events", "leader"])
def test_a_key_of_a_wrong_type_is_named(raw: Any, keys: Keys, variables: dict[str, str], name: str) -> None:
    key = getattr(keys, name)
    raw.set(key, "text")
    checked = invoke("check", **variables)
    assert (checked.code, checked.err) == (1, "")
    assert f"type: {key}: is a string" in checked.out
    [violation] = json.loads(invoke("check", "--json", **variables).out)["violations"]
    assert (violation["rule"], violation["key"]) == ("type", key)
    seen = invoke("status", **variables)
    assert seen.code == 0 if name == "leader" else is_one_error(seen, 1)


def test_serve_refuses_a_key_of_a_wrong_type(raw: Any, keys: Keys, variables: dict[str, str]) -> None:
    raw.set(keys.routers, "text")
    done = run(*SERVE, **variables)
    assert is_one_error(done, 1, is_logging=True), done
    assert keys.routers in done.err


@pytest.mark.parametrize("name", ["status", "check", "routers", "leases", "queue", "events"])
def test_a_namespace_of_another_schema_is_refused(raw: Any, keys: Keys, variables: dict[str, str], name: str) -> None:
    raw.hset(keys.meta, "schema", "1")
    done = invoke(name, **variables)
    assert is_one_error(done, 2), done
    assert "schema 1" in done.err


# What it shows


def test_status_and_check_write_nothing(raw: Any, keys: Keys, variables: dict[str, str]) -> None:
    for words in (["status"], ["status", "--json"], ["check"]):
        done = invoke(*words, **variables, SHARED_REGISTRY_REPLICAS="http://127.0.0.1:1")
        assert (done.code, done.err) == (0, "")
    assert raw.keys(f"{keys.prefix}*") == []
    assert "the namespace is empty" in invoke("status", **variables).out


@pytest.mark.parametrize("is_before", [True, False])
def test_options_may_stand_before_or_after_the_command(
    server: EmbeddedServer, namespace: str, *, is_before: bool
) -> None:
    options = ["--redis", server.url, "-n", namespace, "--json"]
    done = invoke(*options, "status") if is_before else invoke("status", *options, SHARED_REGISTRY_NAMESPACE="another")
    assert json.loads(done.out)["namespace"] == namespace


async def test_status_and_check_show_a_running_router(
    raw: Any, keys: Keys, variables: dict[str, str], server: EmbeddedServer, tmp_path: Path
) -> None:
    async with ReplicaServer() as replica:
        replicas = f"[{{url: {replica.url()}, name: '[bold]a'}}]"
        path = write(tmp_path, f"router: {{router_id: '[one]', lease_seconds: 30, replicas: {replicas}}}")
        with running(tmp_path, *SERVE, "-c", path, **variables) as router:
            await asyncio.to_thread(wait_for, lambda: "new sessions go to [bold]a" in router.err, "a selection")
            status = await asyncio.to_thread(invoke, "status", "--json", **variables)
            shown = await asyncio.to_thread(invoke, "status", **variables)
            checked = await asyncio.to_thread(invoke, "check", **variables)
            done = await asyncio.to_thread(router.ends, signal.SIGTERM)
    told = json.loads(status.out)
    assert told["leader"]["router"].startswith("[one]~")
    assert told["leader"]["epoch"] == told["epoch"] == int(raw.hget(keys.meta, "epoch"))
    assert told["history_id"] == raw.hget(keys.meta, "history_id")
    assert (told["redis"], told["namespace"], told["live_routers"]) == (server.url, keys.namespace, 1)
    [seen] = told["replicas"]
    assert list(seen) == REPLICA_FIELDS
    assert (seen["url"], seen["name"], seen["status"], seen["admin"]) == (replica.url(), "[bold]a", "healthy", "active")
    assert abs(told["at"] - seen["last_ok_at"]) < 60
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["routers", "1", "live"] in lines
    assert any(line[:3] == ["[bold]a", "secondary", "healthy"] for line in lines)
    assert (checked.code, checked.out) == (0, f"namespace {keys.namespace}: all invariants hold\n")
    assert done.code == 0
    assert raw.zcard(keys.routers) == 0
    assert not raw.exists(keys.leader)
    assert [fields["kind"] for _, fields in raw.xrange(keys.events)][-2:] == ["leader_resigned", "router_left"]


# How `serve` goes on, and ends


def wait_until_leading(router: Running) -> None:
    wait_for(lambda: "leads in epoch" in router.err, "leading")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_ends_serve_cleanly_and_at_once(
    raw: Any, keys: Keys, variables: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, *SERVE, **variables, SHARED_REGISTRY_GRACE_SECONDS="60") as router:
        wait_until_leading(router)
        assert raw.zcard(keys.routers) == 1
        done = router.ends(number, seconds=30)  # without a session to wait for it waits for no grace
    assert (done.code, done.out) == (0, "")
    assert "router: stopped" in done.err_lines[-1]
    assert raw.zcard(keys.routers) == 0
    assert not raw.exists(keys.leader)


def test_a_signal_ends_the_wait_for_redis(tmp_path: Path) -> None:
    with running(tmp_path, *SERVE, SHARED_REGISTRY_REDIS_URL=NOBODY) as router:
        wait_for(lambda: "waiting for" in router.err, "the first line")
        done = router.ends(signal.SIGTERM)
    assert done.code == 0
    _, serving, admin, waiting, stopped = done.err_lines
    assert "serving on" in serving
    assert "admin: serving on" in admin
    assert "waiting for" in waiting
    assert "router: stopped" in stopped


def test_serve_logs_json_for_programs(variables: dict[str, str], tmp_path: Path) -> None:
    with running(tmp_path, "--json", *SERVE, **variables) as router:
        wait_until_leading(router)
        done = router.ends(signal.SIGTERM)
    lines = [json.loads(line) for line in done.err_lines]
    fields = {"at", "level", "logger", "message"}
    for name, what in (("url", "router: serving"), ("admin_url", "admin: serving")):
        assert [line["message"].partition(" on ")[0] for line in lines if name in line] == [what]
    assert all(line.keys() - set(LOG_FIELDS) == fields for line in lines)
    [leading] = [line for line in lines if "router" in line and "epoch" in line]
    assert leading["namespace"] == variables["SHARED_REGISTRY_NAMESPACE"]
    [own] = [line for line in lines if line["message"].startswith("leader: leading in epoch")]
    assert (own["namespace"], own["epoch"]) == (leading["namespace"], leading["epoch"])
    assert leading["message"] == f"leader: {leading['router']} leads in epoch {leading['epoch']}"


def test_serve_outlives_redis_and_logs_each_edge_once(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server()
    with running(tmp_path, *SERVE, SHARED_REGISTRY_REDIS_URL=server.url) as router:
        wait_until_leading(router)
        server.kill()
        wait_for(lambda: "keeping the last view" in router.err and "lost epoch" in router.err, "both edges")
        server.start()
        wait_for(lambda: router.err.count("leads in epoch") == 2, "leading again")
        done = router.ends(signal.SIGTERM)
    assert done.code == 0
    assert "Traceback" not in done.err
    warnings = [line.split(" WARNING ")[1] for line in done.err_lines if " WARNING " in line]
    # At its end there is no leader, and also if it follows the shared state again before one is elected.
    once = [line for line in warnings if line != "leader: there is no leader"]
    assert len(once) == len(set(once)), done.err
    assert len(warnings) - len(once) <= 2, done.err
