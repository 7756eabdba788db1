"""A registry that was built before a fork is a router of its own in each process that starts it, and in no other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from shared_registry import SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.command import SECONDS, environment
from tests.support.forking_process import A, build

Message = dict[str, Any]
REMEDY = "await start() in this process"


@pytest.fixture
def fork(server: EmbeddedServer, namespace: str) -> Callable[[str], Message]:
    """Play a scenario in a process of its own, and return what came of it."""

    def fork(scenario: str) -> Message:
        words = [sys.executable, "-m", "tests.support.forking_process", scenario, server.url, namespace]
        with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, start_new_session=True) as process:
            try:
                out, _ = process.communicate(timeout=3 * SECONDS)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0
        results: Message = json.loads(out)
        return results

    return fork


def expect_two_routers(results: Message) -> None:
    assert results["codes"] == [0, 0], results
    keys = [one["key"] for one in results["messages"]]
    assert len(set(keys)) == 2
    assert all(key.startswith("web~") for key in keys)
    assert results["pids"] == {one["key"]: str(one["pid"]) for one in results["messages"]}
    assert (results["in_flight"], results["more"]) == ("6", [{"more": False}] * 2)
    assert results["key here"] == ""


def test_two_workers_forked_after_construction_are_two_routers(fork: Callable[[str], Message]) -> None:
    results = fork("preload")
    expect_two_routers(results)
    first, second = (one["luck"] for one in results["messages"])
    assert first != second, "what is left to chance is the same in both"


def test_repeated_tasks_run_in_each_worker(fork: Callable[[str], Message]) -> None:
    results = fork("preload_seeded")
    expect_two_routers(results)
    first, second = (one["luck"] for one in results["messages"])
    assert first == second


def test_connections_opened_before_a_fork_stay_with_their_process(fork: Callable[[str], Message]) -> None:
    results = fork("used_before")
    expect_two_routers(results)
    assert all(REMEDY in answer for answer in results["refused"].values())
    assert results["parent goes on"] == "done"


def test_a_listener_in_a_forked_process_hears_its_own_life(fork: Callable[[str], Message]) -> None:
    results = fork("listening")
    assert results["code"] == 0, results
    assert results["started"]["heard"].count("ViewLoaded") == 1
    assert "ReplicaDrained" in results["drained"]["heard"]
    assert results["mine"].count("ViewLoaded") == 1, "the other's start is not this one's"
    assert results["mine then"].count("ReplicaDrained") == results["drained"]["heard"].count("ReplicaDrained") == 1


def test_a_forked_copy_of_a_started_registry_needs_a_start(fork: Callable[[str], Message]) -> None:
    results = fork("started_before")
    refused = results["refused"]
    assert (refused.pop("stop"), refused.pop("is_started"), refused.pop("router_key")) == ("done", False, "")
    for verb, answer in refused.items():
        assert answer.startswith("UsageError"), (verb, answer)
        assert REMEDY in answer, (verb, answer)
    before, after = results["keys"]
    assert before == after != results["joined"]["key"], "the parent stays what it was"
    assert (results["joined"]["lease"], results["code"]) == (A, 0)
    assert results["mine"] == ["done"] * 5
    assert results["leads"]
    assert results["age"] < SECONDS


def test_a_client_used_before_a_fork_is_refused_by_name(fork: Callable[[str], Message]) -> None:
    results = fork("with_own_client")
    assert results["unused"]["key"].startswith("web~")
    assert "build client and registry in this process" in results["used"]["refused"]


def test_the_drop_in_registry_forks_like_any_other(fork: Callable[[str], Message]) -> None:
    results = fork("fastvideo")
    first, second = (one["key"] for one in results["messages"])
    assert first != second
    assert results["codes"] == [0, 0]


async def test_each_start_of_one_registry_has_another_key(server: EmbeddedServer, namespace: str) -> None:
    registry: SharedReplicaRegistry = build(server.url, namespace)
    assert registry.router_key == ""
    keys = []
    for _ in range(3):
        handle = registry.get(A)
        async with registry:
            assert registry.get(A) is handle, "handles outlive a start"
            keys.append(registry.router_key)
            await registry.drain(A, by="somebody")
            (event,) = (await registry.events())[-1:]
            assert event.router == registry.router_key
            await registry.enable(A)
    assert len(set(keys)) == 3
