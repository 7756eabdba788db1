"""FastVideo's streaming servers that announce themselves: examples/fastvideo, with a stand-in for the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from websockets.asyncio.client import ClientConnection, connect

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.config import load_config
from shared_registry.embedded import EmbeddedServer
from tests.support.command import ROOT, command, descendants, environment
from tests.support.programs import free_port
from tests.support.until import until

EXAMPLES = ROOT / "examples" / "fastvideo"
README = (EXAMPLES / "README.md").read_text()
[JOIN] = [shlex.split(line) for line in README.splitlines() if line.startswith("shared-registry join ")]
[SERVE] = [
    shlex.split(line)
    for line in README.splitlines()
    if line.startswith("shared-registry serve --config examples/fastvideo/j")
]
SECONDS = 30.0
LONG = 3600.0
"""Seconds of a warm-up or a segment that the test ends itself."""
LEFT_SECONDS = 9.0
"""Less than the 10 s after which a server that sends no heartbeat any more is dropped."""
PROMPT = json.dumps({"type": "segment_prompt_source", "prompt": "a cat"})


class World:
    """Programs of the example on this machine."""

    def __init__(self, folder: Path, server: EmbeddedServer, namespace: str, stack: contextlib.AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._variables = {
            "SHARED_REGISTRY_REDIS_URL": server.url,
            "SHARED_REGISTRY_NAMESPACE": namespace,
            "SHARED_REGISTRY_HEALTH_CHECK_INTERVAL_SECONDS": "0.2",
            "SHARED_REGISTRY_ADMIN_PORT": "off",
        }

    async def run(self, *words: str, name: str, **variables: str) -> asyncio.subprocess.Process:
        """Run a program until the test ends."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *words,
                cwd=ROOT,
                env=environment(**self._variables, **variables),
                stderr=log,
                start_new_session=True,
            )
        self._stack.push_async_callback(_end, process)
        return process

    def stand_in(self, port: int, options: Mapping[str, float]) -> list[str]:
        """Return the command line of a server at a port; its options are those of the stand-in."""
        config = yaml.safe_load((EXAMPLES / "serve.yaml").read_text())
        config["server"] |= {"host": "127.0.0.1", "port": port}
        path = self.folder / f"serve-{port}.yaml"
        path.write_text(yaml.safe_dump(config))
        more = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return [sys.executable, "-m", "tests.support.fastvideo_server", "--config", str(path), *more]

    async def join(self, name: str, **options: float) -> tuple[str, asyncio.subprocess.Process]:
        """Run the example's `join` with a server of this name; return the server's url too."""
        port = free_port()
        at = JOIN.index("--")
        words = JOIN[1:at]
        words[words.index("--url") + 1] = url = f"http://127.0.0.1:{port}"
        words[words.index("--name") + 1] = name
        return url, await self.run(*command(*words), "--", *self.stand_in(port, options), name=name)

    async def serve(self) -> str:
        """Run the example's router; return the url of its WebSocket."""
        port = free_port()
        await self.run(*command(*SERVE[1:], "--port", str(port)), name="router")
        await self._answers(f"http://127.0.0.1:{port}/healthz")
        return f"ws://127.0.0.1:{port}/v1/stream"

    @staticmethod
    async def _answers(url: str) -> None:
        async def does() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await page(url)).status_code == 200
            return False

        await until(does, f"{url} answers")


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), SECONDS)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def server_of(joined: asyncio.subprocess.Process) -> int:
    """Return the process id of the server that a `join` has started."""
    [server] = [pid for pid, line in descendants(joined.pid).items() if "fastvideo_server" in line]
    return server


async def warms_up(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return bool((await page(f"{url}/readyz")).json()["status"] == "warming")
    return False


async def page(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http:
        return await http.get(url)


@pytest.fixture
async def world(tmp_path: Path, server: EmbeddedServer, namespace: str) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        yield World(tmp_path, server, namespace, stack)


@pytest.fixture
async def registry(server: EmbeddedServer, namespace: str) -> AsyncIterator[SharedReplicaRegistry]:
    config = RouterConfig(redis_url=server.url, namespace=namespace, health_check_path="/readyz")
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        yield registry


async def frames_until(client: ClientConnection, kind: str) -> list[str]:
    """Receive until a frame of this kind has come; return the kinds of all."""
    found: list[str] = []
    while kind not in found:
        frame = await asyncio.wait_for(client.recv(), SECONDS)
        if isinstance(frame, str):
            found.append(json.loads(frame)["type"])
    return found


@contextlib.asynccontextmanager
async def session(url: str, client_id: str) -> AsyncIterator[ClientConnection]:
    async with connect(url, proxy=None) as client:
        await client.send(json.dumps({"type": "session_init_v2", "client_id": client_id}))
        yield client


async def both_ready(registry: SharedReplicaRegistry, count: int = 2) -> None:
    await until(lambda: [one.is_healthy for one in registry.all()] == [True] * count, "the servers are healthy")


async def test_each_server_gets_one_session_and_others_wait(world: World, registry: SharedReplicaRegistry) -> None:
    urls = [(await world.join(name))[0] for name in ("gpu-a", "gpu-b")]
    router = await world.serve()
    await both_ready(registry)
    async with contextlib.AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(session(router, name)) for name in ("a", "b")]
        for client in (first, second):
            await frames_until(client, "gpu_assigned")
        async with session(router, "c") as third:
            waiting = json.loads(await asyncio.wait_for(third.recv(), SECONDS))
            assert (waiting["type"], waiting["position"]) == ("queue_status", 1)
            await second.send(PROMPT)
            await frames_until(second, "ltx2_segment_complete")
            await first.close()
            assert "error" not in await frames_until(third, "ltx2_stream_start")
    assert [(await page(f"{url}/status")).json()["rejected"] for url in urls] == [0, 0]


async def test_a_server_that_warms_up_gets_no_session(world: World, registry: SharedReplicaRegistry) -> None:
    url, joined = await world.join("gpu-a", warmup_seconds=LONG)
    router = await world.serve()
    log = world.folder / "gpu-a.log"
    await until(lambda: "waiting until" in log.read_text() and "warming" in log.read_text(), "it waits")
    async with session(router, "a") as client:
        waiting = asyncio.create_task(frames_until(client, "gpu_assigned"))
        assert await warms_up(url)
        assert registry.all() == []
        os.kill(server_of(joined), signal.SIGUSR1)
        await waiting
        assert (await page(f"{url}/readyz")).json()["status"] == "ready"


async def test_a_client_that_leaves_amid_a_segment_disturbs_nobody(
    world: World, registry: SharedReplicaRegistry
) -> None:
    """The server has the former session until the segment ends, and rejects others: only the router sees that."""
    url, joined = await world.join("gpu-a", segment_seconds=LONG)
    router = await world.serve()
    await both_ready(registry, 1)
    async with session(router, "a") as client:
        await frames_until(client, "ltx2_stream_start")
        await client.send(PROMPT)
        await frames_until(client, "ltx2_segment_start")

    async def has_rejected() -> bool:
        return bool((await page(f"{url}/status")).json()["rejected"])

    async with session(router, "b") as client:
        assigned = asyncio.create_task(frames_until(client, "gpu_assigned"))
        await until(has_rejected, "the server rejects the next session")
        os.kill(server_of(joined), signal.SIGUSR1)
        assert "error" not in await assigned


async def test_a_server_that_is_stopped_finishes_its_session(world: World, registry: SharedReplicaRegistry) -> None:
    _, joined = await world.join("gpu-a")
    router = await world.serve()
    await both_ready(registry, 1)
    async with session(router, "a") as client:
        await frames_until(client, "ltx2_stream_start")
        joined.terminate()
        await until(lambda: registry.all()[0].admin.value == "draining", "it drains")
        await client.send(PROMPT)
        await frames_until(client, "ltx2_segment_complete")
        assert joined.returncode is None
    assert await asyncio.wait_for(joined.wait(), SECONDS) == 0
    await until(lambda: not registry.all(), "it has left")


async def test_a_server_that_is_killed_leaves_at_once(world: World, registry: SharedReplicaRegistry) -> None:
    _, joined = await world.join("gpu-a")
    await world.serve()
    await both_ready(registry, 1)
    os.kill(server_of(joined), signal.SIGKILL)
    await until(lambda: not registry.all(), "it has left", LEFT_SECONDS)
    assert await asyncio.wait_for(joined.wait(), SECONDS) == 128 + signal.SIGKILL


async def test_fastvideos_own_router_sees_readiness_too(world: World, registry: SharedReplicaRegistry) -> None:
    """Its settings have no `expect`: that comes from the environment, as the README says."""
    assert """SHARED_REGISTRY_HEALTH_CHECK_EXPECT='{"status": "ready"}'""" in README
    port, url_port = free_port(), free_port()
    settings = yaml.safe_load((EXAMPLES / "router.yaml").read_text())
    url = f"http://127.0.0.1:{url_port}"
    settings["router"] |= {"host": "127.0.0.1", "port": port, "replicas": [{"url": url}]}
    settings["router"]["health_check"] |= {"path": "/readyz", "interval_seconds": 0.2}
    config = world.folder / "router.yaml"
    config.write_text(yaml.safe_dump(settings))
    await world.run(
        sys.executable,
        str(EXAMPLES / "router.py"),
        str(config),
        name="router",
        SHARED_REGISTRY_HEALTH_CHECK_EXPECT='{"status": "ready"}',
    )
    server = await world.run(*world.stand_in(url_port, {"warmup_seconds": LONG}), name="server")

    async def statuses() -> list[str]:
        with contextlib.suppress(httpx.TransportError):
            return [one["status"] for one in (await page(f"http://127.0.0.1:{port}/status")).json()["replicas"]]
        return []

    async def are(status: str) -> bool:
        return await statuses() == [status]

    await until(lambda: warms_up(url), "the server warms up")
    await until(lambda: are("unhealthy"), "the router sees that")
    server.send_signal(signal.SIGUSR1)
    await until(lambda: are("healthy"), "the server is ready")
    assert (await page(f"{url}/readyz")).json()["status"] == "ready"


def test_the_settings_of_the_example_are_whole(caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(EXAMPLES / "joining.yaml", environ={}).config
    assert (config.health_check_path, dict(config.health_check_expect or {})) == ("/readyz", {"status": "ready"})
    assert caplog.text == ""
    assert JOIN[JOIN.index("--capacity") + 1] == "1"
    assert [word for word in (*JOIN, *SERVE) if word.endswith(".yaml") and not (ROOT / word).exists()] == []
    assert re.findall(r"^[a-z]+:", (EXAMPLES / "serve.yaml").read_text(), re.MULTILINE)


def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "kubernetes" / "fastvideo.yaml").read_text())
    return found


def test_the_chart_has_the_same_settings() -> None:
    router = yaml.safe_load((EXAMPLES / "joining.yaml").read_text())["router"]
    assert values()["config"] == {key: value for key, value in router.items() if key != "port"}
    assert values()["replicas"]["capacity"] == 1


async def test_kubernetes_reads_what_the_server_says(world: World) -> None:
    port = free_port()
    server = await world.run(*world.stand_in(port, {"warmup_seconds": LONG}), name="server")
    words = [
        word.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for word in values()["replicas"]["probe"]["exec"]["command"]
    ]
    assert words[0] == "python3"

    async def probe() -> int:
        return await (await world.run(sys.executable, *words[1:], name="probe")).wait()

    await until(lambda: warms_up(f"http://127.0.0.1:{port}"), "the server warms up")
    assert await probe() != 0
    server.send_signal(signal.SIGUSR1)

    async def passes() -> bool:
        return await probe() == 0

    await until(passes, "the probe passes")
    assert (await page(f"http://127.0.0.1:{port}/readyz")).json()["status"] == "ready"
