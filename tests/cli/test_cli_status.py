"""What `status` answers at 3 a.m.: the sentence, what is not well, and a table that fits."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.command import running
from tests.support.in_process import Command
from tests.support.until import wait_for

STYLES = re.compile(r"\x1b\[[0-9;]*m")
URLS = [f"http://10.0.0.{number}:8000" for number in range(1, 5)]


@pytest.fixture
def fleet(command: Command, raw: Any, keys: Keys) -> Command:
    """Four replicas: one is down with sessions on it, one is drained, two are healthy."""
    for number, url in enumerate(URLS):
        labels = ("--label", f"zone={'ab'[number % 2]}")
        assert command("add", url, "--name", f"gpu-{number}", "--capacity", "4", *labels).code == 0
        raw.hset(keys.replica(url), "status", "healthy")
    down = {"status": "unhealthy", "last_error": "connect: refused", "in_flight": "3", "consecutive_failures": "4"}
    raw.hset(keys.replica(URLS[0]), mapping=down)
    assert command("drain", "gpu-2", "--by", "ann@desk", "--reason", "new kernel").code == 0
    return command


def test_the_first_line_is_one_sentence(fleet: Command, command: Command) -> None:
    first = fleet("status").out.splitlines()[0]
    assert first.startswith("Nobody leads: 2 of 3 replicas healthy (1 draining), 0 of 8 slots taken")
    told = json.loads(command("status", "--json").out)
    assert told["summary"] == {"level": "bad", "text": first}


def test_each_replica_that_is_not_well_is_explained(fleet: Command) -> None:
    lines = fleet("status").out.splitlines()
    assert any(line.startswith("gpu-0: unhealthy since ") and "refused; 3 sessions on it" in line for line in lines)
    assert any(line.startswith("gpu-2: draining since ") and "by ann@desk: new kernel; no" in line for line in lines)
    assert not any(line.startswith(("gpu-1:", "gpu-3:")) for line in lines)


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_gets_whole_rows_with_names_first(fleet: Command, width: int) -> None:
    out = STYLES.sub("", fleet("status", COLUMNS=str(width), FORCE_COLOR="1").out)
    assert max(map(len, map(str.rstrip, out.splitlines()))) <= width
    table = [line for line in out.splitlines() if line.startswith(("replica ", "gpu-1 ", "gpu-3 "))]
    assert [line.split()[0] for line in table] == ["replica", "gpu-1", "gpu-3"]
    assert "http://10" not in out
    assert "in flight" in table[0]


def test_a_pipe_gets_the_same_columns_and_whole_sentences(fleet: Command) -> None:
    drawn = STYLES.sub("", fleet("status", COLUMNS="60", FORCE_COLOR="1").out).splitlines()
    piped = fleet("status", COLUMNS="60").out.splitlines()
    assert piped[0].endswith("nobody waits.")
    assert [line.split()[:2] for line in piped[-4:]] == [line.split()[:2] for line in drawn[-4:]]


def test_a_long_url_is_never_folded(command: Command) -> None:
    url = "http://a-replica-with-a-long-name.some-rack.some-datacenter.example:8000"
    assert command("add", url).code == 0
    assert any(line.startswith(url) for line in command("status", COLUMNS="60").out.splitlines())


def test_wide_shows_urls_however_narrow_the_terminal(fleet: Command) -> None:
    out = fleet("status", "--wide", COLUMNS="60").out
    assert all(url in out for url in URLS)


def shown(found: str) -> list[str]:
    return [replica["name"] for replica in json.loads(found)["replicas"]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--unhealthy",), ["gpu-0", "gpu-2"]),
        (("-l", "zone=a"), ["gpu-0", "gpu-2"]),
        (("-l", "zone=b"), ["gpu-1", "gpu-3"]),
        (("-l", "zone!=a", "-l", "zone"), ["gpu-1", "gpu-3"]),
        (("--unhealthy", "-l", "zone=b"), []),
        (("--sort", "sessions"), ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]),
        (("--sort", "free"), ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]),
        (("--sort", "status"), ["gpu-0", "gpu-2", "gpu-1", "gpu-3"]),
    ],
)
def test_replicas_are_selected_and_sorted(fleet: Command, words: tuple[str, ...], expected: list[str]) -> None:
    assert shown(fleet("status", "--json", *words).out) == expected
    lines = fleet("status", *words).out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("gpu-") and ":" not in line.split()[0]] == expected
    if len(expected) < len(URLS):
        assert f"{len(expected)} of 4 replicas" in lines


def test_a_malformed_selector_is_a_usage_error(command: Command) -> None:
    done = command("status", "-l", "zone=a=b")
    assert (done.code, done.out) == (2, "")
    assert "NAME=VALUE" in done.err


def test_a_watch_may_begin_while_redis_is_away(own_server: Callable[..., EmbeddedServer], tmp_path: Path) -> None:
    server = own_server()
    server.kill()
    words = ("status", "--watch", "--interval", "0.1")
    with (
        running(tmp_path, *words, SHARED_REGISTRY_REDIS_URL=server.url) as table,
        running(tmp_path, *words, "--json", SHARED_REGISTRY_REDIS_URL=server.url) as lines,
    ):
        wait_for(lambda: "cannot be read" in table.out and '"error"' in lines.out, "the trouble")
        server.start()
        wait_for(lambda: "no replicas are registered" in table.out and '"summary"' in lines.out, "the first status")
        assert json.loads(lines.out.splitlines()[0])["age_seconds"] is None


def test_wide_shows_source_owner_and_age_of_the_heartbeat(fleet: Command, raw: Any, keys: Keys) -> None:
    announced = {"source": "announced", "owner": "pod-9", "last_heartbeat_at_ms": int(time.time() * 1000) - 3000}
    raw.hset(keys.replica(URLS[1]), mapping=announced)
    lines = fleet("status", "--wide", COLUMNS="60").out.splitlines()
    heading = next(line.split() for line in lines if line.startswith("replica"))
    assert heading[-3:] == ["source", "owner", "heartbeat"]
    rows = {line.split()[0]: line.split() for line in lines}
    assert rows["gpu-1"][-5:-3] == ["announced", "pod-9"]
    assert rows["gpu-1"][-1] == "ago"
    assert rows["gpu-3"][-3:] == ["explicit", "-", "-"]
