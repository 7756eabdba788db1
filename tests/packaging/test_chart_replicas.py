"""The replicas of the Helm chart as processes: `join` beside a server, and what Kubernetes does with both."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared_registry import AdminState, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.chart_containers import Pod
from tests.support.helm import EXAMPLES, rendered
from tests.support.nginx import listens
from tests.support.programs import free_port, mock_replica
from tests.support.until import until

SECONDS = 30.0


@pytest.fixture
async def registry(server: EmbeddedServer, namespace: str) -> AsyncIterator[SharedReplicaRegistry]:
    config = RouterConfig(redis_url=server.url, namespace=namespace, health_check_interval_seconds=0.3)
    async with SharedReplicaRegistry(config) as registry:
        yield registry


def pod_of(folder: Path, server: EmbeddedServer, namespace: str, url: str) -> Pod:
    """Return a pod with `join` beside a server that runs at this url."""
    settings = [
        f"config.namespace={namespace}",
        f"replicas.port={url.rpartition(':')[2]}",
        "replicas.capacity=1",
        "replicas.labels.zone=a",
        "tls.existingSecret=router-tls",  # which the pods of replicas do not mount
    ]
    objects = rendered(EXAMPLES / "join.yaml", settings=settings)
    return Pod(folder, objects, "StatefulSet", redis_url=server.url)


def pre_stop(pod: Pod) -> list[str]:
    words: list[str] = pod.container("replica")["lifecycle"]["preStop"]["exec"]["command"]
    return words


async def test_the_server_goes_on_until_its_sessions_have_ended(
    registry: SharedReplicaRegistry, server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with mock_replica("gpu-a") as url:
        pod = pod_of(tmp_path, server, namespace, url)
        async with pod.running("join") as join:
            await until(registry.select, "the replica takes sessions")
            [replica] = registry.all()
            assert (replica.url, replica.name) == (url, "video-replica-0")
            assert (replica.record.endpoint.capacity, dict(replica.record.endpoint.labels)) == (1, {"zone": "a"})
            lease = await registry.acquire("a session")
            # Kubernetes stops a pod: SIGTERM to the one container, and the hook of the other before its SIGTERM.
            join.terminate()
            async with pod.running("replica", pre_stop(pod)) as hook:
                await until(lambda: replica.admin is AdminState.DRAINING, "it drains")
                assert (join.returncode, hook.returncode) == (None, None)
                await lease.release()
                assert await asyncio.wait_for(hook.wait(), SECONDS) == 0
                await until(lambda: replica.admin is AdminState.REMOVED, "it has left")
            assert await asyncio.wait_for(join.wait(), SECONDS) == 0, pod.log("join")


async def test_a_join_that_is_started_again_takes_its_word_back(
    registry: SharedReplicaRegistry, server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with mock_replica("gpu-a") as url:
        pod = pod_of(tmp_path, server, namespace, url)
        (tmp_path / "join" / "left").touch()
        async with pod.running("join"):
            await until(registry.select, "the replica takes sessions")
            assert not (tmp_path / "join" / "left").exists()


async def test_no_signal_is_lost_at_the_start(server: EmbeddedServer, namespace: str, tmp_path: Path) -> None:
    pod = pod_of(tmp_path, server, namespace, "http://127.0.0.1:1")
    wrapper = pod.container("join")["command"]
    left = tmp_path / "join" / "left"
    left.touch()
    for seconds in (0.0, 0.002, 0.5, 0.99, 1.0, 1.01, 1.1):
        async with pod.running("join", [*wrapper, "sleep", "60"]) as process:
            while left.exists():  # noqa: ASYNC110  the command may not have been started yet
                await asyncio.sleep(0)
            await asyncio.sleep(seconds)
            process.terminate()
            assert await asyncio.wait_for(process.wait(), SECONDS) == 128 + signal.SIGTERM
            assert left.exists()


async def test_a_second_signal_ends_the_drain(
    registry: SharedReplicaRegistry, server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with mock_replica("gpu-a") as url:
        pod = pod_of(tmp_path, server, namespace, url)
        async with pod.running("join") as join:
            await until(registry.select, "the replica takes sessions")
            async with await registry.acquire("a session"):
                join.terminate()
                await until(lambda: registry.all()[0].admin is AdminState.DRAINING, "it drains")
                join.terminate()
                assert await asyncio.wait_for(join.wait(), SECONDS) == 0
                assert (tmp_path / "join" / "left").exists()


async def test_a_wrapper_starts_the_server_and_ends_it_last(
    registry: SharedReplicaRegistry, server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    port = free_port()
    serve = tmp_path / "serve.yaml"
    serve.write_text(f"server: {{host: 127.0.0.1, port: {port}}}\n")
    settings = [f"config.namespace={namespace}", f"replicas.port={port}"]
    objects = rendered(EXAMPLES / "fastvideo.yaml", settings=settings)
    (tmp_path / "pod").mkdir()
    pod = Pod(tmp_path / "pod", objects, "StatefulSet", redis_url=server.url)
    words = pod.container("replica")["command"]
    words[words.index("--") + 1 :] = [sys.executable, "-m", "tests.support.fastvideo_server", "--config", str(serve)]
    async with pod.running("replica", words) as process:
        await until(registry.select, "the replica takes sessions")
        [replica] = registry.all()
        assert (replica.url, replica.record.endpoint.capacity) == (f"http://127.0.0.1:{port}", 1)
        async with await registry.acquire("a session"):
            process.terminate()
            await until(lambda: replica.admin is AdminState.DRAINING, "it drains")
            assert await listens(port)
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0, pod.log("replica")
        await until(lambda: replica.admin is AdminState.REMOVED, "it has left")
