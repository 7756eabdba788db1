"""SIGHUP: a router process reads its settings again, changes what can change while it runs, and says what cannot."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from websockets.asyncio.client import connect

from shared_registry.admin.observer import Observer
from shared_registry.config import RouterConfig
from shared_registry.config.route_rules import RouteRule
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import SECONDS, RouterProcess, RunningRouter, StartProcess, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="module")
async def other() -> AsyncIterator[Backend]:
    async with Backend() as other:
        yield other


class ConfigFile:
    """A router's file. Written whole, as an editor does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def words(self) -> tuple[str, str]:
        return "--config", str(self.path)

    def write(self, **settings: Any) -> None:
        self.write_text(yaml.safe_dump({"router": settings}))

    def write_text(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)


@pytest.fixture
def file(tmp_path: Path) -> ConfigFile:
    return ConfigFile(tmp_path / "router.yaml")


def hang_up(router: RouterProcess) -> None:
    router.command.process.send_signal(signal.SIGHUP)


def times(router: RouterProcess, text: str) -> int:
    return sum(text in line["message"] for line in router.lines)


async def urls(router: RouterProcess) -> list[str]:
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        return [replica["url"] for replica in (await http.get("/status")).json()["replicas"]]


async def test_a_new_replica_gets_sessions_and_live_ones_go_on(
    start_process: StartProcess, file: ConfigFile, backend: Backend, other: Backend
) -> None:
    file.write(replicas=[{"url": backend.url, "capacity": 1}])
    router = await start_process(words=file.words, wanted="new sessions go to")
    async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
        await client.send("before")
        assert await client.recv() == "before"
        file.write(replicas=[{"url": backend.url, "capacity": 1}, {"url": other.url, "capacity": 1}])
        hang_up(router)

        async def both_serve() -> bool:
            async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
                found = (await http.get("/status")).json()["replicas"]
            return [replica["status"] for replica in found] == ["healthy"] * 2

        await until(both_serve, "the new replica is healthy")
        async with connect(f"{router.ws}/v1/stream", proxy=None) as second:
            await second.send("after")
            assert await second.recv() == "after"
        await client.send("still")
        assert await client.recv() == "still"
    await until(lambda: router.has_said("reload: replicas: took effect"), "the reload is logged")


async def test_a_replica_gone_from_the_file_stays_and_is_named(
    start_process: StartProcess, file: ConfigFile, backend: Backend, other: Backend
) -> None:
    file.write(replicas=[backend.url, other.url])
    router = await start_process(words=file.words, wanted="new sessions go to")
    file.write(replicas=[backend.url])
    hang_up(router)
    await until(lambda: router.has_said(f"{other.url} is not in the config any more"), "the departure is logged")
    assert await urls(router) == [backend.url, other.url]


async def test_changed_settings_are_reported_with_those_that_need_a_restart(
    start_process: StartProcess, file: ConfigFile, backend: Backend
) -> None:
    file.write(max_frame_bytes=2048, max_queue=7)
    router = await start_process(backend.url, words=file.words)
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        assert (await http.get("/closed/a")).status_code == 200
        file.write(routes=[{"path": "/closed/*", "place": "none"}], max_queue=9, peer_timeout_seconds=33)
        hang_up(router)
        await until(lambda: router.has_said("peer_timeout_seconds"), "the last setting is reported")
        # FAST sets routes in the environment, which overrides the file at a reload as at the start
        assert (await http.get("/closed/a")).status_code == 200
    assert router.has_said("reload: max_frame_bytes: 2048 -> 67108864 took effect")
    assert router.has_said("reload: max_queue: needs a restart; still 7")
    assert router.has_said("reload: peer_timeout_seconds: needs a restart; still 60.0")
    hang_up(router)
    await until(lambda: times(router, "max_queue: needs a restart; still 7") == 2, "it is said again")
    assert times(router, "max_frame_bytes") == 1


@pytest.mark.parametrize(
    "text", ["router: [", "router: {max_queue: x, max_frame_bytes: -1}", "router: {max_frame_bytes: 9, nothing: 1}"]
)
async def test_a_broken_file_changes_nothing_and_is_one_line(
    start_process: StartProcess, file: ConfigFile, backend: Backend, text: str
) -> None:
    file.write(max_frame_bytes=2048)
    router = await start_process(backend.url, words=file.words)
    file.write_text(text)
    hang_up(router)
    await until(lambda: router.has_said("reload: nothing has changed"), "the refusal is logged")
    lines = [line for line in router.lines if "reload" in line["message"]]
    assert [line["level"] for line in lines] == ["error"]
    assert "\n" not in lines[0]["message"]
    file.path.unlink()
    hang_up(router)
    await until(lambda: times(router, "reload: nothing has changed") == 2, "a missing file is refused, too")
    file.write(max_frame_bytes=4096)
    hang_up(router)
    await until(lambda: router.has_said("max_frame_bytes: 2048 -> 4096 took effect"), "the mended file is read")


async def test_many_signals_in_quick_succession_end_with_the_last_file(
    start_process: StartProcess, file: ConfigFile, backend: Backend
) -> None:
    file.write(max_frame_bytes=2000)
    router = await start_process(backend.url, words=file.words)
    for size in range(2001, 2040):
        file.write(max_frame_bytes=size)
        hang_up(router)
    await until(lambda: router.has_said("-> 2039 took effect"), "the last one counts")
    router.command.process.send_signal(signal.SIGTERM)
    for _ in range(5):
        hang_up(router)
    assert await asyncio.to_thread(router.command.process.wait, SECONDS) == 0
    assert "Traceback" not in router.command.err


@pytest.mark.parametrize("is_joined", [False, True])
async def test_a_signal_while_redis_is_away_takes_effect_later(
    start_process: StartProcess,
    file: ConfigFile,
    backend: Backend,
    own_server: Callable[..., EmbeddedServer],
    is_joined: bool,
) -> None:
    redis = own_server()
    if not is_joined:
        redis.stop()
    file.write(replicas=[])
    wanted = "has joined" if is_joined else "waiting for"
    router = await start_process(redis_url=redis.url, words=file.words, wanted=wanted)
    if is_joined:
        redis.stop()
    file.write(replicas=[backend.url])
    hang_up(router)
    await until(lambda: router.has_said("reload: replicas: took effect"), "it is read")
    if is_joined:
        await until(lambda: router.has_said("replicas cannot be registered yet"), "it is tried")
    redis.start()
    await until(lambda: router.has_said("new sessions go to"), "the replica is registered when Redis is there")
    assert await urls(router) == [backend.url]


async def test_health_checks_and_the_published_fingerprint_follow(
    start_process: StartProcess, file: ConfigFile, backend: Backend, server: EmbeddedServer, namespace: str
) -> None:
    file.write(health_check={"failure_threshold": 2})
    router = await start_process(backend.url, words=file.words)
    file.write(health_check={"failure_threshold": 4, "expect_text": "never"})
    hang_up(router)

    async def is_unhealthy() -> bool:
        async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
            found = (await http.get("/status")).json()["replicas"][0]
        return bool(found["status"] == "unhealthy" and found["consecutive_failures"] >= 4)

    await until(is_unhealthy, "probes expect what the new settings say")
    settings = RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        health_check_interval_seconds=0.2,
        fast_interval_seconds=0.05,
        failure_threshold=4,
        health_check_expect_text="never",
    )
    async with Observer(settings) as observer:

        async def is_published() -> bool:
            return [one.info.config_fingerprint for one in (await observer.routers()).routers] == [
                settings.fingerprint()
            ]

        await until(is_published, "the new fingerprint is published")


async def test_requests_under_way_keep_the_settings_they_began_with(
    start_router: StartRouter, backend: Backend
) -> None:
    router = await start_router(backend.url, routes="[]")
    waiting = asyncio.create_task(router.http.get("/wait"))
    await until(lambda: backend.scopes, "the request is at the replica")
    rules = (RouteRule("/*", "none"),)
    router.router.reload(dataclasses.replace(router.router.config, routes=rules, response_timeout_seconds=7.0))
    assert (await router.http.get("/other")).status_code == 403
    backend.go_on.set()
    assert (await waiting).status_code == 200
    router.router.reload(dataclasses.replace(router.router.config, routes=()))
    assert (await router.http.get("/other")).status_code == 200


async def test_a_shorter_wait_in_the_queue_applies_to_new_sessions(start_router: StartRouter, backend: Backend) -> None:
    replicas = [ReplicaEndpoint(backend.url, capacity=1)]
    router = await start_router(replicas=replicas, is_awaited=False, queue_timeout_seconds=60)
    holder = asyncio.create_task(router.http.get("/wait"))

    async def is_taken() -> bool:
        return [replica["in_flight"] for replica in (await router.status())["replicas"]] == [1]

    await until(is_taken, "the slot is taken")
    waiter = asyncio.create_task(router.http.get("/waits"))

    async def waits() -> bool:
        return bool((await router.status())["queue"]["here"] == 1)

    await until(waits, "a session waits")
    router.router.reload(dataclasses.replace(router.router.config, queue_timeout_seconds=0.0))
    assert (await router.http.get("/refused")).status_code == 503
    backend.go_on.set()
    assert (await holder).status_code == 200
    assert (await waiter).status_code == 200


def idle_connections(router: RunningRouter) -> int:
    return int(router.router.pools[""].connections.idle_count)


async def test_a_reload_drops_pooled_connections_with_other_limits(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url, replica_idle_seconds=60.0)
    await router.http.get("/one")
    assert idle_connections(router) == 1
    under_way = asyncio.create_task(router.http.get("/wait"))
    await until(lambda: len(backend.scopes) == 2, "the second request is at the replica")
    router.router.reload(dataclasses.replace(router.router.config, response_timeout_seconds=7.0))
    backend.go_on.set()
    assert (await under_way).status_code == 200
    assert idle_connections(router) == 0
    await router.http.get("/two")
    assert idle_connections(router) == 1
