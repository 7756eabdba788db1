"""How a router process ends: it resigns at once, its sessions may finish, and it says so with its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import pytest_asyncio
from redis import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ReplicaEndpoint
from shared_registry.store.keys import Keys
from tests.proxy.conftest import SECONDS, RouterProcess, StartProcess, StartRouter
from tests.support.backend import Backend
from tests.support.command import command, environment
from tests.support.until import until

HANDSHAKE_FIELDS = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

KEEP = httpx.Limits(keepalive_expiry=600.0)
"""For a client whose connection has to be there when the router accepts no other."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def ended(router: RouterProcess) -> int:
    return await asyncio.to_thread(router.command.process.wait, SECONDS)


async def is_refused(router: RouterProcess) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(router.url).port)
    except ConnectionError:  # refused, or reset while it waited to be accepted
        return True
    writer.close()
    return False


async def test_sessions_of_a_stopping_router_keep_their_slots(
    start_router: StartRouter, backend: Backend, server: EmbeddedServer, namespace: str
) -> None:
    keys = Keys(namespace)
    router = await start_router(backend.url, grace_seconds=30)
    with Redis.from_url(server.url, decode_responses=True) as raw:
        async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
            await client.send("hello")
            await client.recv()
            router.stop.ask()
            await until(lambda: not raw.exists(keys.leader), "the router has resigned")
            [(name, heartbeat)] = raw.zrange(keys.routers, 0, 0, withscores=True)
            await until(lambda: raw.zscore(keys.routers, name) not in (None, heartbeat), "it still sends heartbeats")
            assert raw.hget(keys.replica(backend.url), "in_flight") == "1"
            await client.send("still there")
            assert await client.recv() == "still there"
        await asyncio.wait_for(asyncio.shield(router.serving), SECONDS)
        assert not raw.exists(keys.routers)


async def test_live_sessions_finish_while_another_router_leads(start_process: StartProcess, backend: Backend) -> None:
    first = await start_process(backend.url, grace_seconds=30, lease_seconds=60)
    second = await start_process(backend.url, lease_seconds=60)
    async with (
        httpx.AsyncClient(base_url=first.url, trust_env=False, timeout=SECONDS, limits=KEEP) as http,
        httpx.AsyncClient(base_url=second.url, trust_env=False, timeout=SECONDS) as other,
        connect(f"{first.ws}/v1/stream", proxy=None) as client,
        http.stream("GET", "/events") as events,
    ):
        assert (await http.get("/status")).json()["is_leader"] is True
        begun = time.monotonic()
        first.command.process.send_signal(signal.SIGTERM)

        async def the_other_leads() -> bool:
            return bool((await other.get("/status")).json()["is_leader"])

        await until(the_other_leads, "the other leads")
        assert time.monotonic() - begun < SECONDS  # and not only when the lease of 60 s has ended

        unready = await http.get("/readyz")  # over a connection that is still open
        assert (unready.status_code, unready.json()["reason"]) == (503, "stopping")
        assert unready.headers["connection"] == "close"
        await until(lambda: is_refused(first), "nobody new is accepted")
        lines = events.aiter_lines()
        for text in ("still", "there"):
            await client.send(text)
            assert await client.recv() == text
            backend.events.put_nowait(text)
            assert (await anext(lines), await anext(lines)) == (f"data: {text}", "")
        backend.events.put_nowait(None)
        assert [line async for line in lines] == []
        await client.close(3001, "done")
    assert await asyncio.wait_for(backend.closes.get(), SECONDS) == (3001, "done")
    assert await ended(first) == 0
    assert first.has_said("2 sessions have 30 s to finish")
    assert not first.has_said("closing")
    assert "Traceback" not in first.command.err


@pytest.mark.parametrize("is_impatient", [False, True])
async def test_unfinished_sessions_are_closed_after_grace_or_second_signal(
    start_process: StartProcess, backend: Backend, *, is_impatient: bool
) -> None:
    router = await start_process(backend.url, grace_seconds=30 if is_impatient else 0.3)
    async with (
        httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http,
        connect(f"{router.ws}/v1/stream", proxy=None) as client,
        http.stream("GET", "/events") as events,
    ):
        await client.send("hello")
        await client.recv()
        router.command.process.send_signal(signal.SIGTERM)
        if is_impatient:
            await until(lambda: is_refused(router), "the first signal was heard")
            router.command.process.send_signal(signal.SIGINT)
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(client.recv(), SECONDS)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        with pytest.raises(httpx.RemoteProtocolError):
            [line async for line in events.aiter_lines()]
    assert await asyncio.wait_for(backend.closes.get(), SECONDS) == (1012, "")
    assert await ended(router) == 0
    assert router.has_said("closing 2 sessions")
    assert "Traceback" not in router.command.err


async def test_a_stalled_session_does_not_delay_the_stop(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url, grace_seconds=0)
    target = f"{router.ws}/?do=pour&messages=10000"
    async with connect(target, proxy=None, max_queue=1, close_timeout=0.1):
        await asyncio.sleep(0.1)
        router.command.process.send_signal(signal.SIGTERM)
        assert await ended(router) == 0
    assert "Traceback" not in router.command.err


async def test_signals_that_do_not_mean_stop_are_ignored(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url, grace_seconds=30)
    process = router.command.process

    async def ignored(times: int) -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
            await until(lambda number=number: is_logged(number, times), f"{number.name} was taken note of")  # type: ignore[misc]

    def is_logged(number: signal.Signals, times: int) -> bool:
        return sum(f"{number.name} is ignored" in line["message"] for line in router.lines) >= times

    async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
        await ignored(1)
        await ignored(2)
        await client.send("served")
        assert await client.recv() == "served"
        process.send_signal(signal.SIGTERM)
        await until(lambda: is_refused(router), "it is stopping")
        await ignored(3)
        await client.send("and still")
        assert await client.recv() == "and still"
    assert await ended(router) == 0


async def test_a_router_waiting_for_redis_survives_other_signals(
    start_process: StartProcess, own_server: Callable[..., EmbeddedServer]
) -> None:
    redis = own_server()
    redis.stop()
    router = await start_process(redis_url=redis.url, wanted="waiting for")
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        router.command.process.send_signal(number)
        await asyncio.sleep(0.05)
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        assert (await http.get("/healthz")).status_code == 200
    router.command.process.send_signal(signal.SIGQUIT)
    assert await ended(router) == 0


async def test_a_closed_terminal_does_not_end_the_router(server: EmbeddedServer, namespace: str) -> None:
    here, terminal = pty.openpty()
    settings = {"redis_url": server.url, "namespace": namespace, "host": "127.0.0.1", "port": "0"}
    variables = environment(**{f"SHARED_REGISTRY_{name.upper()}": value for name, value in settings.items()})
    with subprocess.Popen(  # noqa: ASYNC220  it has begun within milliseconds
        ["setsid", "--ctty", *command("--json", "serve")],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=variables,
    ) as process:
        try:
            os.close(terminal)
            said = b""
            while b'"url"' not in said or b"has joined" not in said:
                said += await asyncio.to_thread(os.read, here, 4096)
            url = next(json.loads(line)["url"] for line in said.splitlines() if b'"url"' in line)
            os.close(here)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=SECONDS) as http:
                for _ in range(5):
                    assert (await http.get("/healthz")).status_code == 200
                    await asyncio.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, SECONDS) == 0
        finally:
            process.kill()


async def test_no_new_client_waits_at_a_stopping_router(start_router: StartRouter, backend: Backend) -> None:
    """Neither on a new connection nor on a kept one."""
    replicas = [ReplicaEndpoint(backend.url, capacity=1)]
    router = await start_router(replicas=replicas, is_awaited=False, queue_timeout_seconds=60, grace_seconds=30)
    kept, fresh, session, holder, late = [await asyncio.open_connection(*router.address) for _ in range(5)]
    ask = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
    for reader, writer in (kept, session):
        writer.write(ask % b"/healthz")
        await reader.readuntil(b"}")
    holder[1].write(ask % b"/wait")

    async def is_taken() -> bool:
        return [replica["in_flight"] for replica in (await router.status())["replicas"]] == [1]

    await until(is_taken, "the slot is taken")
    late[1].write(ask % b"/waiting")

    async def waits() -> bool:
        return bool((await router.status())["queue"]["here"] == 1)

    await until(waits, "another one waits")
    begun = time.monotonic()
    router.stop.ask()
    fresh[1].write(ask % b"/fresh")
    await asyncio.wait_for(late[0].readline(), SECONDS)  # so that the router has begun to stop
    kept[1].write(ask % b"/kept")
    for reader, writer in (fresh, kept):
        answer = await asyncio.wait_for(reader.read(), SECONDS)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in answer
        assert b"this router stops" in answer
        writer.close()
    session[1].write((ask % b"/v1/stream")[:-2] + HANDSHAKE_FIELDS)
    frames = await asyncio.wait_for(session[0].readuntil((1012).to_bytes(2)), SECONDS)
    assert b"this router stops" in frames
    assert time.monotonic() - begun < SECONDS
    backend.go_on.set()
    assert (await holder[0].readline()).split()[1] == b"200"
    for _, writer in (session, holder, late):
        writer.transport.abort()
