"""`shared-registry join` as a process beside a replica: joining, draining, leaving."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from shared_registry import AdminState, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.pods import Pods, pod_settings, pods_of, serves
from tests.support.replica_server import ReplicaServer
from tests.support.until import until

pytestmark = pytest.mark.timeout(180)  # pods are processes


@pytest.fixture
async def pods(server: EmbeddedServer, namespace: str) -> AsyncIterator[Pods]:
    async with pods_of(server.url, namespace) as make:
        yield make


@pytest.fixture
async def registry(server: EmbeddedServer, namespace: str) -> AsyncIterator[SharedReplicaRegistry]:
    async with SharedReplicaRegistry(pod_settings(server, namespace)) as registry:
        yield registry


def is_group(number: int) -> bool:
    """Return whether a process of the group is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, 0)
        return True
    return False


async def test_a_pod_joins_serves_drains_and_leaves(registry: SharedReplicaRegistry, pods: Pods) -> None:
    pod = pods()
    await pod.start("--capacity", "1", "--name", "pod-1")
    await until(lambda: serves(registry), "it serves")
    lease = await registry.acquire("a session")
    replica = registry.get("pod-1")
    assert replica is not None
    assert (replica.record.owner, replica.record.source) == ("pod-1", "announced")
    pod.process.terminate()
    await until(lambda: replica.admin is AdminState.DRAINING, "it drains")
    assert pod.process.returncode is None
    await lease.release()
    code, log = await pod.end()
    assert code == 128 + signal.SIGTERM, log
    assert replica.admin is AdminState.REMOVED


async def test_the_drain_of_a_pod_is_bounded(registry: SharedReplicaRegistry, pods: Pods) -> None:
    pod = pods()
    await pod.start("--drain-seconds", "1")
    await until(lambda: serves(registry), "it serves")
    lease = await registry.acquire("a session")
    pod.process.terminate()
    _, log = await pod.end()
    assert "still has 1 sessions" in log
    await lease.release()


async def test_a_child_that_dies_is_deregistered_at_once(registry: SharedReplicaRegistry, pods: Pods) -> None:
    pod = pods()
    await pod.start()
    await until(lambda: serves(registry), "it serves")
    os.kill(await pod.child(), signal.SIGKILL)
    code, log = await pod.end()
    assert code == 128 + signal.SIGKILL, log
    await until(lambda: not registry.all(), "it is removed")


async def test_the_exit_code_of_the_command_is_passed_on(pods: Pods) -> None:
    pod = pods()
    await pod.start(command=(sys.executable, "-c", "raise SystemExit(7)"))
    assert (await pod.end())[0] == 7
    await pod.start(command=("no-such-command-anywhere",))
    assert (await pod.end())[0] == 127
    await pod.start(command=("/etc/passwd",))
    assert (await pod.end())[0] == 126


@pytest.mark.parametrize(
    "options",
    [
        ("--name", ""),
        ("--name", "  "),
        ("--name", "http://127.0.0.1:8000"),
        ("--owner", "a\nb"),
        ("--label", "zone"),
        ("--label", "zone-"),
        ("--label", "zone=a", "--label", "zone=b"),
    ],
)
async def test_wrong_options_start_nothing(pods: Pods, options: tuple[str, ...]) -> None:
    pod = pods()
    await pod.start(*options, command=(sys.executable, "-c", "raise SystemExit(7)"))
    code, log = await pod.end()
    assert code == 2
    assert options[0].strip("-") in log


async def test_signals_reach_the_command(pods: Pods) -> None:
    pod = pods()
    code = (
        "import signal,sys;signal.signal(signal.SIGUSR1,lambda *_: sys.exit(9));print('up',flush=True);signal.pause()"
    )
    await pod.start(command=(sys.executable, "-c", code))
    child = await pod.child()

    def catches() -> bool:
        with open(f"/proc/{child}/status") as file:  # noqa: PTH123
            caught = next(line for line in file if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) & 1 << (signal.SIGUSR1 - 1))

    await until(catches, "the command handles the signal")
    pod.process.send_signal(signal.SIGUSR1)
    assert (await pod.end())[0] == 9


async def test_a_signal_while_the_command_starts_ends_nothing_else(pods: Pods) -> None:
    """The command sends it as its first step."""
    for _ in range(5):
        pod = pods()
        await pod.start(command=("sh", "-c", "trap 'exit 9' USR1; kill -USR1 $PPID; while :; do sleep 0.05; done"))
        assert (await pod.end())[0] == 9


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_a_script_started_ends_with_it(
    registry: SharedReplicaRegistry, pods: Pods, end: signal.Signals
) -> None:
    """The script alone gets the signal, from `join` or from elsewhere."""
    pod = pods()
    server = f"{sys.executable} -m tests.support.replica_server --port {pod.port}"
    await pod.start(command=("sh", "-c", f"{server}; exit 5"))
    await until(lambda: serves(registry), "it serves")
    script = await pod.child()
    os.kill(pod.process.pid if end is signal.SIGTERM else script, end)
    code, log = await pod.end()
    assert code == 128 + end, log
    assert not is_group(script)


async def test_what_ignores_the_request_to_end_is_killed(registry: SharedReplicaRegistry, pods: Pods) -> None:
    pod = pods()
    server = f"trap '' TERM; {sys.executable} -m tests.support.replica_server --port {pod.port}"
    await pod.start("--stop-seconds", "0.5", command=("sh", "-c", f"({server}; sleep 1000); exit 5"))
    await until(lambda: serves(registry), "it serves")
    script = await pod.child()
    pod.process.terminate()
    code, _ = await pod.end()
    assert code == 128 + signal.SIGTERM
    await until(lambda: not is_group(script), "nothing of it is left")


async def test_a_second_request_kills_what_is_ending(registry: SharedReplicaRegistry, pods: Pods) -> None:
    pod = pods()
    server = f"{sys.executable} -m tests.support.replica_server --port {pod.port}"
    await pod.start("--stop-seconds", "1000", command=("sh", "-c", f"trap '' TERM; {server}; sleep 1000"))
    await until(lambda: serves(registry), "it serves")
    pod.process.terminate()
    await until(lambda: not registry.all(), "it is deregistered")
    pod.process.terminate()
    assert (await pod.end())[0] == 128 + signal.SIGKILL


async def test_without_a_command_a_lost_terminal_ends_it(registry: SharedReplicaRegistry, pods: Pods) -> None:
    async with ReplicaServer() as replica:
        pod = pods(port=replica.port)
        await pod.start(command=())
        await until(lambda: serves(registry), "it serves")
        pod.process.send_signal(signal.SIGHUP)
        assert (await pod.end())[0] == 0
        await until(lambda: not registry.all(), "it is deregistered")


async def test_without_redis_it_leaves_after_one_try(namespace: str) -> None:
    async with pods_of("redis://127.0.0.1:9", namespace) as pods:
        pod = pods()
        await pod.start()
        await pod.until_it_says("is not announced")
        pod.process.terminate()
        code, log = await pod.end()
        assert code == 128 + signal.SIGTERM
        assert log.count("cannot be deregistered") == 1


async def test_a_namespace_of_another_cluster_is_refused(server: EmbeddedServer, namespace: str, pods: Pods) -> None:
    async with SharedReplicaRegistry(pod_settings(server, namespace, cluster="prod-eu")) as registry:
        pod = pods()
        await pod.start(env={"SHARED_REGISTRY_CLUSTER": "prod-us"})
        assert "is announced" not in await pod.until_it_says("belongs to the cluster 'prod-eu'")
        assert registry.all() == []
        other = pods()
        await other.start(env={"SHARED_REGISTRY_CLUSTER": "prod-eu"})
        await until(lambda: serves(registry), "the other one serves")


async def test_two_machines_with_one_address(registry: SharedReplicaRegistry, pods: Pods) -> None:
    async with ReplicaServer() as replica:
        first, second = pods(port=replica.port), pods(port=replica.port)
        await first.start("--owner", "machine-1", command=())
        await until(lambda: serves(registry), "it serves")
        incarnation = registry.all()[0].record.incarnation
        await second.start("--owner", "machine-2", command=())
        await second.until_it_says("held by machine-1")
        first.process.kill()
        await until(lambda: [one.record.owner for one in registry.all()] == ["machine-2"], "the other has it", 60)
        assert registry.all()[0].record.incarnation != incarnation


async def test_a_restarted_pod_stays_drained(registry: SharedReplicaRegistry, pods: Pods) -> None:
    for number in range(2):
        pod = pods()
        await pod.start("--name", "pod-1")
        await until(lambda: [one.name for one in registry.all()] == ["pod-1"], "it is registered")
        if number == 0:
            await registry.drain("pod-1", reason="broken fan")
            pod.process.terminate()
            await pod.end()
            await until(lambda: not registry.all(), "it has left")
    [replica] = registry.all()
    assert (replica.admin, replica.record.admin_reason) == (AdminState.DRAINING, "broken fan")
    await registry.enable("pod-1")
    await until(lambda: serves(registry), "it serves")
