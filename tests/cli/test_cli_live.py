"""The commands that go on until Ctrl-C, and what ends or does not end them: real processes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis

from shared_registry.embedded import EmbeddedServer
from tests.support.command import command, environment, running
from tests.support.in_process import invoke
from tests.support.until import SECONDS, wait_for

A = "http://10.0.0.1:8000"
OwnServer = Callable[..., EmbeddedServer]


def on(server: EmbeddedServer) -> dict[str, str]:
    return {"SHARED_REGISTRY_REDIS_URL": server.url}


def test_a_watched_status_outlives_redis_and_ends_with_ctrl_c(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server()
    invoke("add", A, "--name", "gpu-1", **on(server))
    with (
        running(tmp_path, "status", "--watch", "--interval", "0.1", **on(server)) as table,
        running(tmp_path, "status", "-w", "--interval", "0.1", "--json", **on(server)) as lines,
    ):
        wait_for(lambda: table.out.count("namespace") > 1 and lines.out.count("\n") > 1, "renewals")
        server.kill()
        wait_for(lambda: " old: Redis is unavailable" in table.out and '"error"' in lines.out, "the trouble")
        told = table.out.partition(" old: Redis is unavailable")[0].rpartition("namespace")[2]
        assert "gpu-1 " in told, "the last table is still there"
        server.start()
        invoke("add", "http://10.0.0.2:8000", **on(server))
        wait_for(lambda: "10.0.0.2" in table.out and "10.0.0.2" in lines.out, "going on")
        for watching in (table, lines):
            done = watching.ends(signal.SIGINT)
            assert (done.code, done.err) == (0, "")
    documents = [json.loads(line) for line in lines.out.splitlines()]
    assert list(documents[0])[:3] == ["redis", "namespace", "at"]
    trouble = next(one for one in documents if "error" in one)
    assert list(trouble) == ["redis", "namespace", "error", "age_seconds"]
    assert documents[-1]["replicas"][-1]["url"] == "http://10.0.0.2:8000"


def test_a_watched_status_shows_a_change_before_its_interval(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server()
    with running(tmp_path, "status", "-w", "--interval", "600", "--json", **on(server)) as lines:
        for number, url in enumerate((A, "http://10.0.0.2:8000"), 1):
            wait_for(lambda: lines.out.count("\n") >= number, "the state before")  # noqa: B023
            invoke("add", url, **on(server))
        wait_for(lambda: "10.0.0.2" in lines.out, "the change")


def test_a_terminal_shows_one_redrawn_table_that_stays_afterwards(server: EmbeddedServer) -> None:
    reader, writer = pty.openpty()
    try:
        argv = command("status", "--watch", "--interval", "0.05", "-n", "nothing-there")
        variables = environment(**on(server), TERM="xterm")
        process = subprocess.Popen(argv, stdin=writer, stdout=writer, stderr=writer, env=variables)
        seen = b""
        try:
            while seen.count(b"namespace") < 3:
                seen += os.read(reader, 65536)
            process.send_signal(signal.SIGINT)
            seen += read_to_its_end(process, reader)
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(reader)
        os.close(writer)
    assert b"\x1b[1A" in seen, "the cursor goes back up"
    assert b"no replicas are registered" in seen.rpartition(b"namespace")[2]
    assert b"Traceback" not in seen


def read_to_its_end(process: subprocess.Popen[bytes], reader: int) -> bytes:
    """Read from a terminal until its process has ended and nothing is left: a terminal keeps a few kilobytes only."""
    seen, deadline = b"", time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        if select.select([reader], [], [], 0.0 if has_ended else 0.05)[0]:
            seen += os.read(reader, 65536)
        elif has_ended:
            return seen
    raise AssertionError("the process did not end")


def test_followed_events_outlive_redis_and_a_lost_history(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server(config={"appendonly": "yes"})
    invoke("add", A, **on(server))
    with (
        running(tmp_path, "events", "--follow", **on(server)) as lines,
        running(tmp_path, "events", "-f", "--after", "0", "--json", **on(server)) as documents,
    ):
        wait_for(lambda: "registered" in lines.out and "registered" in documents.out, "what was there before")
        invoke("drain", A, "--reason", "upgrade", **on(server))
        wait_for(lambda: ": upgrade" in lines.out and "upgrade" in documents.out, "what comes")
        server.kill()
        wait_for(lambda: "trying again until it answers" in lines.err, "the outage")
        server.start()
        invoke("enable", A, **on(server))
        wait_for(lambda: " active by " in lines.out, "what comes after it")
        invoke("remove", A, "--yes", **on(server))
        shown = (lines, documents)
        wait_for(lambda: all("replica_deregistered" in one.out for one in shown), "the removal")
        with server_client(server) as raw:
            raw.flushall()
        invoke("add", "http://10.0.0.2:8000", **on(server))
        wait_for(lambda: "10.0.0.2" in lines.out and "10.0.0.2" in documents.out, "the new history")
        ended = lines.ends(signal.SIGINT)
        told = documents.ends(signal.SIGTERM)
    assert (ended.code, told.code) == (0, 0)
    assert ended.err.count("trying again until it answers") == ended.err.count("Redis is back") == 1
    assert "events are missing" in ended.err or "starts again from its beginning" in ended.err
    kinds = [json.loads(line)["kind"] for line in told.out.splitlines()]
    assert kinds == [
        *("replica_registered", "replica_admin", "replica_admin", "replica_deregistered", "replica_registered")
    ]


def server_client(server: EmbeddedServer) -> Redis:
    return Redis.from_url(server.url)


def test_a_closed_output_pipe_gives_no_traceback(server: EmbeddedServer, namespace: str) -> None:
    variables = environment(**on(server), SHARED_REGISTRY_NAMESPACE=namespace)
    for number in range(3):
        invoke("add", f"http://10.0.0.{number}:80", SHARED_REGISTRY_NAMESPACE=namespace, **on(server))
    processes = [
        subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables)
        for words in (["events", "--follow"], ["status", "--watch", "--interval", "0.05"], ["keys"])
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
        invoke("drain", "http://10.0.0.1:80", SHARED_REGISTRY_NAMESPACE=namespace, **on(server))
        for process in processes:
            assert process.stderr is not None
            errors = process.stderr.read()
            assert process.wait(30) in (0, 1)
            assert errors == b""
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stderr.close()  # type: ignore[union-attr]
