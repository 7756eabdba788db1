"""`shared-registry join` and `Announcement` as processes beside replicas, with routers on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry import (
    AdminState,
    Announcement,
    NoHealthyReplica,
    ReplicaEndpoint,
    RouterConfig,
    SharedReplicaRegistry,
)
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from tests.support.failover.scenarios import stopped
from tests.support.replica_server import ReplicaServer
from tests.support.until import until

TTL = 5.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def settings(server: EmbeddedServer, namespace: str, **more: Any) -> RouterConfig:
    return RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        health_check_interval_seconds=0.3,
        fast_interval_seconds=0.1,
        **more,
    )


def children_of(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


class Pod:
    """`shared-registry join` in a process group of its own, with a replica as its command."""

    def __init__(self, server: EmbeddedServer, namespace: str, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._where = ("--redis", server.url, "--namespace", namespace)
        self.output = b""

    async def start(self, *options: str, command: tuple[str, ...] | None = None) -> None:
        """Start it; without a command of its own it runs a mock replica."""
        if command is None:
            command = (sys.executable, "-m", "tests.support.replica_server", "--port", str(self.port))
        words = ("-m", "shared_registry", "join", *self._where, "--url", self.url, "--ttl", f"{TTL:g}", *options)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            *(("--", *command) if command else ()),
            start_new_session=True,
            stderr=asyncio.subprocess.PIPE,
        )

    async def child(self) -> int:
        """Return the process id of its command."""
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"

        def found() -> str:
            with open(path) as file:  # noqa: PTH123
                return file.read()

        await until(found, "a child")
        return int(found().split()[0])

    async def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and log."""
        _, errors = await asyncio.wait_for(self.process.communicate(), 60)
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()

    async def clean_up(self) -> None:
        if not hasattr(self, "process"):
            return
        child = None
        with contextlib.suppress(OSError, IndexError):
            child = int(children_of(self.process.pid).split()[0])
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


Pods = Callable[..., Pod]


@pytest.fixture
async def pods(server: EmbeddedServer, namespace: str) -> AsyncIterator[Pods]:
    made: list[Pod] = []

    def make(**options: Any) -> Pod:
        made.append(Pod(server, namespace, **options))
        return made[-1]

    yield make
    for pod in made:
        await pod.clean_up()


@pytest.fixture
async def registry(server: EmbeddedServer, namespace: str) -> AsyncIterator[SharedReplicaRegistry]:
    async with SharedReplicaRegistry(settings(server, namespace)) as registry:
        yield registry


def serves(registry: SharedReplicaRegistry) -> bool:
    with contextlib.suppress(NoHealthyReplica):
        return registry.select() is not None
    return False


async def kinds(registry: SharedReplicaRegistry) -> list[EventKind]:
    return [event.kind for event in await registry.events()]


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


async def test_a_killed_wrapper_takes_its_command_along(registry: SharedReplicaRegistry, pods: Pods) -> None:
    pod = pods()
    await pod.start()
    await until(lambda: serves(registry), "it serves")
    child = await pod.child()
    pod.process.kill()

    def is_gone() -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{child}/stat") as file:  # noqa: PTH123
            return file.read().split()[2] == "Z"

    await until(is_gone, "the command has ended")
    await until(lambda: not registry.all(), "the replica has expired", 60)


async def test_something_else_at_a_dead_pods_address_serves_nobody(registry: SharedReplicaRegistry, pods: Pods) -> None:
    pod = pods()
    await pod.start()
    await until(lambda: serves(registry), "it serves")
    child = await pod.child()
    os.kill(pod.process.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    killed_at = asyncio.get_running_loop().time()

    async def listens() -> bool:
        with contextlib.suppress(OSError):
            foreign = ReplicaServer(port=pod.port)
            await foreign.start()
            foreigners.append(foreign)
            return True
        return False

    foreigners: list[ReplicaServer] = []
    await until(listens, "something else answers there")
    try:
        await until(lambda: not registry.all(), "the replica has expired", 60)
        took = asyncio.get_running_loop().time() - killed_at
        assert took < TTL + 10, "as a busy machine allows"
        assert EventKind.REPLICA_EXPIRED in await kinds(registry)
        assert not serves(registry)
    finally:
        await foreigners[0].stop()


async def test_two_machines_with_one_address(registry: SharedReplicaRegistry, pods: Pods) -> None:
    async with ReplicaServer() as replica:
        first, second = pods(port=replica.port), pods(port=replica.port)
        await first.start("--owner", "machine-1", command=())
        await until(lambda: serves(registry), "it serves")
        incarnation = registry.all()[0].record.incarnation
        await second.start("--owner", "machine-2", command=())
        line = b""
        assert second.process.stderr is not None
        while b"held by machine-1" not in line:
            line = await asyncio.wait_for(second.process.stderr.readline(), 30)
            assert line
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


async def test_an_outage_longer_than_the_time_to_live_loses_nobody(own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    config = settings(server, "outage", redis_timeout_seconds=0.5)
    async with ReplicaServer() as replica:
        endpoint = ReplicaEndpoint(replica.url())
        async with (
            SharedReplicaRegistry(config) as registry,
            Announcement(config, endpoint, ttl_seconds=TTL) as announcement,
        ):
            await until(lambda: serves(registry), "it serves")
            incarnation = registry.all()[0].record.incarnation
            with stopped(server):
                await asyncio.sleep(TTL * 1.5)
            await until(lambda: announcement.is_held and not announcement.trouble, "it is announced again", 60)
            await asyncio.sleep(TTL * 1.5)
            assert EventKind.REPLICA_EXPIRED not in await kinds(registry)
            assert registry.all()[0].record.incarnation == incarnation
        async with SharedReplicaRegistry(config) as registry:
            await until(lambda: not registry.all(), "it has left")
