"""`serve --workers`: several processes share a port, each a router of its own; none outlives their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml
from websockets.asyncio.client import connect

from shared_registry.admin.observer import Observer
from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import SECONDS, RouterProcess, StartProcess
from tests.support.backend import Backend
from tests.support.command import alive, descendants, is_one_error, run
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def ask(router: RouterProcess, path: str = "/status") -> httpx.Response:
    """Ask over a connection of its own, so that any worker may get it."""
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        return await http.get(path)


async def worker_of(router: RouterProcess) -> tuple[int, int]:
    status = (await ask(router)).json()
    return status["worker"], status["pid"]


async def workers_of(router: RouterProcess, count: int) -> dict[int, int]:
    """Return the process of each worker, once all have answered."""
    found: dict[int, int] = {}

    async def all_answer() -> bool:
        found.update([await worker_of(router)])
        return len(found) == count and await all_ready(router, set(found.values()))

    await until(all_answer, "all workers answer")
    return found


async def all_ready(router: RouterProcess, pids: set[int]) -> bool:
    for _ in range(20):
        if (await ask(router, "/readyz")).status_code != 200:
            return False
    return True


async def test_all_workers_get_requests_and_are_routers_of_their_own(
    start_process: StartProcess, backend: Backend, server: EmbeddedServer, namespace: str
) -> None:
    router = await start_process(backend.url, workers=3)
    workers = await workers_of(router, 3)
    assert sorted(workers) == [1, 2, 3]
    assert set(workers.values()) == set(descendants(router.command.process.pid))
    answers = Counter([(await ask(router, "/any")).status_code for _ in range(30)])
    assert answers == {200: 30}
    async with Observer(RouterConfig(redis_url=server.url, namespace=namespace)) as observer:
        routers = (await observer.routers()).routers
    assert {one.info.pid for one in routers} == set(workers.values())
    assert len({one.info.key for one in routers}) == 3
    assert {line["worker"] for line in router.lines if "has joined" in line["message"]} == {1, 2, 3}


async def test_a_killed_worker_comes_back_while_all_clients_are_served(
    start_process: StartProcess, backend: Backend
) -> None:
    router = await start_process(backend.url, workers=2)
    workers = await workers_of(router, 2)
    async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        statuses = await sessions_by_worker(router, 2)
        [victim] = [number for number, sessions in statuses.items() if sessions == 0]
        os.kill(workers[victim], signal.SIGKILL)
        for _ in range(20):
            assert (await ask(router, "/any")).status_code == 200
        await client.send("still")
        assert await client.recv() == "still"
    again = await workers_of(router, 2)
    assert again[victim] != workers[victim]
    assert again[3 - victim] == workers[3 - victim]
    assert router.has_said(f"worker {victim} was ended by SIGKILL; starting it again")


async def sessions_by_worker(router: RouterProcess, count: int) -> dict[int, int]:
    found: dict[int, int] = {}

    async def all_answer() -> bool:
        status = (await ask(router)).json()
        found[status["worker"]] = status["sessions"]
        return len(found) == count

    await until(all_answer, "all workers answer")
    return found


async def test_a_worker_that_keeps_dying_leaves_clients_to_the_others(
    start_process: StartProcess, backend: Backend
) -> None:
    router = await start_process(backend.url, workers=2)
    workers = await workers_of(router, 2)
    for time in range(1, 4):
        os.kill(workers[1], signal.SIGKILL)
        await until(lambda time=time: times(router, "worker 1 was ended") == time, "its death is noticed")  # type: ignore[misc]
        workers = await workers_of(router, 2)
    assert (await ask(router, "/any")).status_code == 200


def times(router: RouterProcess, text: str) -> int:
    return sum(text in line["message"] for line in router.lines)


async def test_requests_of_all_workers_finish_after_sigterm(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url, workers=2, grace_seconds=30)
    await workers_of(router, 2)
    waiting = [asyncio.create_task(ask(router, "/wait")) for _ in range(12)]
    await until(lambda: len(backend.scopes) == 12, "all requests are at the replica")
    router.command.process.send_signal(signal.SIGTERM)
    await until(lambda: is_refused(router), "nobody new is accepted")
    backend.go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 12
    assert await asyncio.to_thread(router.command.process.wait, SECONDS) == 0
    assert router.has_said("router: stopped")
    assert "Traceback" not in router.command.err


async def is_refused(router: RouterProcess) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(router.url).port)
    except ConnectionError:
        return True
    writer.close()
    return False


async def test_a_signal_to_the_whole_group_ends_no_grace_period(start_process: StartProcess, backend: Backend) -> None:
    """As Ctrl-C in a terminal does it, or a supervisor that sends a signal to every process of a service."""
    router = await start_process(backend.url, workers=2, grace_seconds=30)
    workers = await workers_of(router, 2)
    waiting = asyncio.create_task(ask(router, "/wait"))
    await until(lambda: backend.scopes, "the request is at the replica")
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in workers.values():
            os.kill(pid, number)
    router.command.process.send_signal(signal.SIGINT)
    await until(lambda: is_refused(router), "it stops")
    await until(lambda: router.has_said("1 sessions have 30 s to finish"), "the session may finish")
    backend.go_on.set()
    assert (await waiting).status_code == 200
    assert await asyncio.to_thread(router.command.process.wait, SECONDS) == 0
    assert not router.has_said("have not finished")
    assert "Traceback" not in router.command.err


async def test_a_second_signal_ends_the_grace_period_of_all(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url, workers=2, grace_seconds=60)
    await workers_of(router, 2)
    waiting = [asyncio.create_task(ask(router, "/wait")) for _ in range(8)]
    await until(lambda: len(backend.scopes) == 8, "all requests are at the replica")
    router.command.process.send_signal(signal.SIGTERM)
    await until(lambda: is_refused(router), "it stops")
    router.command.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(router.command.process.wait, SECONDS) == 0
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {httpx.RemoteProtocolError}


async def test_killing_the_parent_leaves_no_worker_behind(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url, workers=2, grace_seconds=30)
    workers = await workers_of(router, 2)
    waiting = asyncio.create_task(ask(router, "/wait"))
    await until(lambda: backend.scopes, "the request is at the replica")
    router.command.process.kill()
    await until(lambda: router.has_said("the parent process has ended"), "it is noticed")
    backend.go_on.set()
    assert (await waiting).status_code == 200
    await until(lambda: not alive(set(workers.values())), "no worker is left")


async def test_a_reload_reaches_all_workers_and_is_logged_once(
    start_process: StartProcess, backend: Backend, tmp_path: Path
) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(yaml.safe_dump({"router": {"workers": 2}}))
    router = await start_process(backend.url, words=("--config", str(file)), max_frame_bytes=2048)
    await workers_of(router, 2)
    file.write_text(yaml.safe_dump({"router": {"workers": 3, "queue_timeout_seconds": 5, "log_level": "warning"}}))
    router.command.process.send_signal(signal.SIGHUP)
    await until(lambda: router.has_said("workers: needs a restart; still 2"), "it is read")
    file.write_text("router: {max_queue: x}")
    router.command.process.send_signal(signal.SIGHUP)
    await until(lambda: router.has_said("reload: nothing has changed"), "it is refused")
    workers = await workers_of(router, 2)
    os.kill(workers[1], signal.SIGKILL)
    await workers_of(router, 2)  # the new one runs although the file is broken
    assert times(router, "needs a restart") == times(router, "nothing has changed") == 1


async def test_what_no_worker_can_use_is_one_error(server: EmbeddedServer, namespace: str) -> None:
    variables = {
        "SHARED_REGISTRY_NAMESPACE": namespace,
        "SHARED_REGISTRY_HOST": "127.0.0.1",
        "SHARED_REGISTRY_PORT": "0",
    }
    url = server.url.replace("redis://", "redis://nobody:geheim@")
    done = await asyncio.to_thread(run, "serve", "--workers", "3", SHARED_REGISTRY_REDIS_URL=url, **variables)
    assert is_one_error(done, 2, is_logging=True), done.err
    free = "redis://127.0.0.1:1/0"
    done = await asyncio.to_thread(
        run, "serve", "--workers", "2", "--wait-redis", "0.2", SHARED_REGISTRY_REDIS_URL=free, **variables
    )
    assert is_one_error(done, 3, is_logging=True), done.err


@pytest.mark.parametrize("shares", [False, True])
async def test_a_port_in_use_is_an_error_also_if_shared(server: EmbeddedServer, namespace: str, shares: bool) -> None:
    with socket.socket() as other:
        if shares:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for workers in ("1", "2"):
            done = await asyncio.to_thread(
                run,
                "serve",
                *("--workers", workers, "--host", "127.0.0.1", "--port", port),
                SHARED_REGISTRY_REDIS_URL=server.url,
                SHARED_REGISTRY_NAMESPACE=namespace,
            )
            assert is_one_error(done, 2), done.err
            assert f"127.0.0.1:{port}" in done.err


async def test_workers_wait_for_redis_and_stop_while_they_wait(
    start_process: StartProcess, own_server: Callable[..., EmbeddedServer]
) -> None:
    redis = own_server()
    redis.stop()
    router = await start_process(redis_url=redis.url, wanted="waiting for", workers=2)
    router.command.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(router.command.process.wait, SECONDS) == 0
    assert "Traceback" not in router.command.err
