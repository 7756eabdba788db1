"""The embedded server: its address, its settings, its restarts and its end."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded import server as embedded
from shared_registry.errors import ConfigError, StoreUnavailable, UsageError
from tests.support.until import wait_for

OwnServer = Callable[..., EmbeddedServer]
KEEP = {"appendonly": "yes", "appendfsync": "always"}


def ask(server: EmbeddedServer, *command: str, password: str | None = None) -> Any:
    with Redis.from_url(server.url, password=password, decode_responses=True) as client:
        return client.execute_command(*command)


def setting(server: EmbeddedServer, name: str) -> Any:
    with Redis.from_url(server.url, decode_responses=True) as client:
        return client.config_get(name)[name]


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as trial:
        return trial.connect_ex((host, port)) == 0


def test_url_and_pid_are_those_of_the_server(own_server: OwnServer) -> None:
    server = own_server()
    assert server.url == f"redis://127.0.0.1:{server.port}/0"
    assert ask(server, "INFO")["process_id"] == server.pid
    assert server.is_running


def test_the_server_listens_on_loopback_and_neither_persists_nor_evicts(own_server: OwnServer) -> None:
    server = own_server()
    assert setting(server, "bind") == "127.0.0.1"
    assert (setting(server, "save"), setting(server, "appendonly")) == ("", "no")
    assert setting(server, "maxmemory-policy") == "noeviction"


def test_the_server_and_its_directory_are_gone_after_with(redis_binary: Path) -> None:
    with EmbeddedServer(binary=redis_binary) as server:
        assert (server.data_dir / "server.log").exists()
    assert not server.is_running
    assert not accepts(server.port)
    assert not server.data_dir.exists()


def test_a_given_directory_stays(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server(data_dir=tmp_path / "with space" / "data")
    server.__exit__(None, None, None)
    assert not accepts(server.port)
    assert (server.data_dir / "server.log").exists()


def test_a_relative_directory_is_accepted(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = own_server(data_dir=Path("data"), config=KEEP)
    monkeypatch.chdir("/")
    server.kill()
    server.start()
    assert (tmp_path / "data" / "server.log").exists()


def test_a_restarted_server_is_empty_on_the_same_port(own_server: OwnServer) -> None:
    server = own_server()
    port, pid = server.port, server.pid
    ask(server, "SET", "key", "value")
    server.kill()
    assert not server.is_running
    server.start()
    assert (server.port, ask(server, "GET", "key")) == (port, None)
    assert server.pid != pid


@pytest.mark.parametrize("end", [EmbeddedServer.kill, EmbeddedServer.stop])
def test_a_restarted_server_has_what_it_persisted(own_server: OwnServer, end: Callable[[EmbeddedServer], None]) -> None:
    server = own_server(config=KEEP)
    ask(server, "SET", "key", "value")
    end(server)
    server.start()
    assert ask(server, "GET", "key") == "value"


def test_start_returns_once_the_data_is_loaded(own_server: OwnServer) -> None:
    slow_load = {"key-load-delay": 5_000, "rdbcompression": "no"}  # us for one key; it answers after every 2 MB
    server = own_server(config={**KEEP, **slow_load})
    with Redis.from_url(server.url) as client:
        client.mset({f"key{number}": "x" * 200_000 for number in range(60)})
        client.bgrewriteaof()
        wait_for(lambda: not client.info()["aof_rewrite_in_progress"])
        client.set("last", "value")
    server.kill()
    server.start()
    assert ask(server, "GET", "last") == "value"


def test_a_server_killed_from_elsewhere_can_be_started_again(own_server: OwnServer) -> None:
    server = own_server()
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: not server.is_running)
    server.start()
    assert ask(server, "PING")


def test_a_paused_server_runs_and_can_be_stopped(own_server: OwnServer) -> None:
    server = own_server()
    os.kill(server.pid, signal.SIGSTOP)
    assert server.is_running
    begun = time.monotonic()
    server.stop()
    assert not accepts(server.port)
    assert time.monotonic() - begun < embedded._GRACE_SECONDS


def test_settings_are_passed_on_in_redis_conf_form(own_server: OwnServer) -> None:
    limits = {"client-output-buffer-limit": "pubsub 1mb 2mb 3", "notify-keyspace-events": ""}
    server = own_server(config={"MAXMEMORY": 0, "save": "900 1", **limits})
    assert setting(server, "save") == "900 1"
    assert setting(server, "client-output-buffer-limit").endswith("pubsub 1048576 2097152 3")


def test_the_server_can_have_a_password(own_server: OwnServer) -> None:
    server = own_server(config={"RequirePass": "secret"})
    assert ask(server, "PING", password="secret")
    with pytest.raises(AuthenticationError):
        ask(server, "PING")
    assert (server.data_dir / "server.conf").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["bind", "PORT", "daemonize", "dir", "logfile"])
def test_settings_that_would_make_the_server_unreachable_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        EmbeddedServer(config={name: "x"})


def test_attributes_need_a_start_and_a_second_start_is_refused(redis_binary: Path) -> None:
    server = EmbeddedServer(binary=redis_binary)
    for attribute in ("port", "pid", "url"):
        with pytest.raises(UsageError, match="start"):
            getattr(server, attribute)
    server.stop()
    server.kill()
    with server, pytest.raises(UsageError, match="already running"):
        server.start()


def test_a_wrong_setting_is_shown_with_the_log(redis_binary: Path) -> None:
    server = EmbeddedServer(binary=redis_binary, config={"no-such-setting": "1"})
    with pytest.raises(StoreUnavailable, match="no-such-setting"):
        server.start()
    assert not server.is_running


def test_a_program_that_never_answers_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho hello from the log\nexec sleep 60\n")
    program.chmod(0o755)
    server = EmbeddedServer(binary=program, startup_seconds=2.0)
    with pytest.raises(StoreUnavailable, match=r"within 2 s(.|\n)*hello from the log"):
        server.start()
    assert not server.is_running


def test_a_taken_port_given_by_the_caller_is_an_error(server: EmbeddedServer, redis_binary: Path) -> None:
    second = EmbeddedServer(binary=redis_binary, port=server.port)
    with pytest.raises(StoreUnavailable, match=rf"port {server.port} is in use"):
        second.start()
    assert not second.is_running
    assert ask(server, "INFO")["process_id"] == server.pid


def first_then_free(*ports: int) -> Iterator[int]:
    """Yield these ports, and then as many free ones as are wanted."""
    return itertools.chain(ports, iter(embedded._free_port, 0))


def test_a_port_taken_by_another_server_is_replaced(
    server: EmbeddedServer, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = first_then_free(server.port, server.port)
    monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
    second = own_server()
    assert second.port != server.port
    assert ask(second, "INFO")["process_id"] == second.pid


def test_a_port_taken_by_another_program_is_replaced(own_server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = first_then_free(taken.getsockname()[1])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        assert own_server().port != taken.getsockname()[1]


def test_many_servers_start_at_once(own_server: OwnServer) -> None:
    servers = [own_server() for _ in range(6)]
    assert len({server.port for server in servers}) == 6


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_parent_killed_by_sigkill_takes_the_server_along(
    redis_binary: Path, tmp_path: Path, *, is_paused: bool
) -> None:
    code = f"""
        import os, signal, sys, threading, time
        from pathlib import Path
        from shared_registry.embedded import EmbeddedServer

        server = EmbeddedServer(binary=Path({str(redis_binary)!r}), data_dir=Path({str(tmp_path)!r}))
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        if {is_paused}:
            os.kill(server.pid, signal.SIGSTOP)
        print(server.port, flush=True)
        time.sleep(60)
    """
    command, root = [sys.executable, "-c", textwrap.dedent(code)], Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert accepts(port)
        parent.kill()
        wait_for(lambda: not accepts(port))
