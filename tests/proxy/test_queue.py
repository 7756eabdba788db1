"""Sessions wait in one queue over all routers; one that leaves gives up its position, and nothing sent is lost."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from shared_registry import ReplicaEndpoint, RouterConfig
from shared_registry.admin.operator import Operator
from shared_registry.embedded import EmbeddedServer
from shared_registry.leases import queue
from shared_registry.model import AdminState
from shared_registry.proxy import websocket_client
from shared_registry.store.keys import Keys
from tests.proxy.conftest import FAST, RunningRouter, all_healthy, running_router
from tests.support.backend import Backend, RawBackend
from tests.support.until import SECONDS, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 60.0
RARE_SECONDS = 9.0
AT_ONCE = 7.0
"""Seconds within which a place or a slot has to be free: well below those between two rare looks at the line."""


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


@pytest.fixture
def _rare_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens within `AT_ONCE` happens by itself, and not because a router looked at the line."""
    monkeypatch.setattr(queue, "POLL_SECONDS", RARE_SECONDS)


rare_looks = pytest.mark.usefixtures("_rare_looks")


class Line:
    """The queue in Redis, as anybody sees it."""

    def __init__(self, raw: Any, keys: Keys) -> None:
        self.raw = raw
        self.keys = keys

    def length(self) -> int:
        return int(self.raw.zcard(self.keys.queue))

    async def is_as_long_as(self, wanted: int, seconds: float = 10.0) -> None:
        async def is_so() -> bool:
            return self.length() == wanted

        await until(is_so, f"{wanted} wait", seconds)


@pytest.fixture
def line(server: EmbeddedServer, namespace: str) -> Iterator[Line]:
    with Redis.from_url(server.url, decode_responses=True) as raw:
        yield Line(raw, Keys(namespace))


@pytest.fixture
def settings(server: EmbeddedServer, namespace: str) -> dict[str, Any]:
    return {
        **FAST,
        "redis_url": server.url,
        "namespace": namespace,
        "refresh_seconds": 0.02,
        "queue_timeout_seconds": PATIENCE,
    }


@contextlib.asynccontextmanager
async def serving(
    settings: dict[str, Any], *replicas: str, routers: int = 1, capacity: int = 1, **changes: Any
) -> AsyncIterator[list[RunningRouter]]:
    """Run routers in front of replicas, and return when all of these are healthy."""
    endpoints = [ReplicaEndpoint(url, capacity=capacity) for url in replicas]
    config = RouterConfig(**(settings | changes), replicas=endpoints)
    async with contextlib.AsyncExitStack() as stack:
        found = [await stack.enter_async_context(running_router(config)) for _ in range(routers)]
        for router in found:
            await until(lambda router=router: all_healthy(router, len(replicas)), "all are healthy")  # type: ignore[misc]
        yield found


def stream(router: RunningRouter, path: str = "/v1/stream", **options: Any) -> connect:
    return connect(f"{router.ws}{path}", proxy=None, **options)


async def holds(client: ClientConnection) -> None:
    """Return when it has its session: an echo came back, whatever was told before."""
    await client.send("mine")
    while (message := await asyncio.wait_for(client.recv(), SECONDS)) != "mine":
        assert json.loads(message)["type"] == "queue_status"


async def told(client: ClientConnection) -> tuple[int, int]:
    """Return the position and depth that it is told next."""
    frame = json.loads(await asyncio.wait_for(client.recv(), SECONDS))
    assert set(frame) == {"type", "position", "queue_depth"}
    assert frame["type"] == "queue_status"
    return frame["position"], frame["queue_depth"]


async def told_that(client: ClientConnection, position: int, depth: int) -> None:
    while await told(client) != (position, depth):
        pass


async def ending(client: ClientConnection) -> tuple[dict[str, Any], int]:
    """Return the error that ends a session, and its close code."""
    while (frame := json.loads(await asyncio.wait_for(client.recv(), SECONDS)))["type"] == "queue_status":
        pass
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd is not None
    return frame, closed.value.rcvd.code


# Being told, and not losing anything


async def shows(router: RunningRouter, **queue: int) -> bool:
    """Return whether the page shows this queue, of which it may know for `refresh_seconds` without looking again."""
    return bool((await router.status())["queue"] == queue)


@rare_looks
async def test_a_waiting_client_receives_its_position_and_keeps_its_messages(
    settings: dict[str, Any], backend: Backend, line: Line
) -> None:
    """What it sends meanwhile arrives at its replica."""
    messages: list[str | bytes] = [
        "first",
        b"\x00\xff" * 9,
        "",
        b"",
        "ünïcode \U0001f600",
        bytes(range(256)) * 1200,
        "x" * 300_000,
    ]
    async with serving(settings, backend.url, routers=2) as (one, other), stream(one) as first:
        await holds(first)
        async with stream(one, subprotocols=["v2", "v1"]) as second, stream(other) as third:
            assert await told(second) == (1, 1)
            assert second.subprotocol == "v2"
            await told_that(third, 2, 2)
            await told_that(second, 1, 2)
            for message in messages:
                await second.send(message)
            await asyncio.wait_for(await second.ping(), AT_ONCE)
            await until(lambda: shows(one, depth=2, here=1), "the page shows both")
            await until(lambda: shows(other, depth=2, here=1), "the other router's page too")
            assert len(backend.scopes) == 1  # the replica does not know of them yet
            begun = time.monotonic()
            await first.close()
            for message in messages:
                assert await asyncio.wait_for(second.recv(), SECONDS) == message
            assert time.monotonic() - begun < AT_ONCE
            assert backend.scopes[-1]["subprotocols"] == ["v2"]
            await told_that(third, 1, 1)
            await second.close(3001, "done")
            await holds(third)
            await until(lambda: shows(one, depth=0, here=0), "the page shows an empty queue")
        assert await asyncio.wait_for(backend.closes.get(), SECONDS) == (1000, "")
        assert await asyncio.wait_for(backend.closes.get(), SECONDS) == (3001, "done")


async def test_all_routers_share_one_queue(settings: dict[str, Any], backend: Backend, line: Line) -> None:
    async with serving(settings, backend.url, routers=3) as routers, contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(stream(routers[0]))
        await holds(first)
        clients = [first]
        for place in range(1, 7):
            client = await stack.enter_async_context(stream(routers[place % 3]))
            await told_that(client, place, place)
            clients.append(client)
        served = []

        async def be_served(place: int) -> None:
            await holds(clients[place])
            served.append(place)
            await clients[place].close()

        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
            for place in range(6, 0, -1):
                tasks.create_task(be_served(place))
            await first.close()
        assert served == [1, 2, 3, 4, 5, 6]
        assert line.length() == 0


async def test_the_first_message_arrives_first_also_after_a_wait(settings: dict[str, Any], backend: Backend) -> None:
    ann, bob = (json.dumps({"client_id": name}) for name in ("ann", "bob"))
    async with (
        serving(settings, backend.url, session_key="first_frame.client_id") as (router,),
        stream(router) as first,
        stream(router) as second,
    ):
        await first.send(ann)
        assert await first.recv() == ann
        await second.send(bob)
        assert await told(second) == (1, 1)
        await second.send(b"more")
        await first.close()
        assert await second.recv() == bob
        assert await second.recv() == b"more"


async def test_a_refusal_after_a_wait_arrives_in_a_frame(settings: dict[str, Any], backend: Backend) -> None:
    async with serving(settings, backend.url) as (router,), stream(router) as first:
        await holds(first)
        async with stream(router, "/v1/stream?reject=401") as second:
            await told(second)
            await first.close()
            error, code = await ending(second)
            assert (error["message"], code) == ("the replica refused the session: HTTP 401", 1011)


async def test_a_client_waits_also_while_no_replica_is_healthy(settings: dict[str, Any], backend: Backend) -> None:
    async with serving(settings, backend.url) as (router,), Operator(RouterConfig(**settings), by="ann") as operator:
        [replica] = await operator.find([backend.url])
        await operator.set_admin(replica, AdminState.DRAINING)
        async with stream(router) as client:
            waiting = asyncio.create_task(router.http.get("/who"))
            await told_that(client, 1, 2)
            await operator.set_admin(replica, AdminState.ACTIVE)
            await holds(client)
        assert (await waiting).status_code == 200


# Leaving


@rare_looks
@pytest.mark.parametrize("is_polite", [True, False])
async def test_a_client_that_leaves_frees_its_position_at_once(
    settings: dict[str, Any], backend: Backend, line: Line, *, is_polite: bool
) -> None:
    async with serving(settings, backend.url) as (router,), stream(router) as first:
        await holds(first)
        async with stream(router) as second, stream(router) as third:
            await told_that(third, 2, 2)
            await second.send("never to arrive")
            begun = time.monotonic()
            if is_polite:
                await second.close()
            else:
                second.transport.abort()
            await line.is_as_long_as(1, AT_ONCE)
            assert time.monotonic() - begun < AT_ONCE
            await told_that(third, 1, 1)
            await first.close()
            await holds(third)


@rare_looks
async def test_a_client_leaving_before_its_handshake_leaves_nothing_behind(
    settings: dict[str, Any], backend: Backend, line: Line
) -> None:
    """The only replica refuses as busy: no other replica has room, and there is no queue to join."""
    async with serving(settings, backend.url, capacity=0) as (router,):
        _, writer = await asyncio.open_connection(*router.address)
        writer.write(handshake("/v1/stream?reject=503"))

        async def sessions() -> int:
            found: int = (await router.status())["sessions"]
            return found

        async def is_there() -> bool:
            return await sessions() == 1

        async def is_gone() -> bool:
            return await sessions() == 0

        await until(is_there, "it is being placed")
        writer.transport.abort()
        await until(is_gone, "it is not any more", AT_ONCE)


def handshake(target: str) -> bytes:
    key = base64.b64encode(bytes(16)).decode()
    fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n{fields}Sec-WebSocket-Key: {key}\r\n\r\n".encode()


@rare_looks
@pytest.mark.parametrize(
    "request_of_it",
    [
        b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /who HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + bytes(10),
        b"POST /who HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n" + bytes(10),
        b"POST /who HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
    ],
    ids=["no body", "half a body", "a body", "a body held back"],
)
async def test_a_request_whose_client_leaves_frees_its_position(
    settings: dict[str, Any], backend: Backend, line: Line, request_of_it: bytes
) -> None:
    async with serving(settings, backend.url) as (router,), stream(router) as first:
        await holds(first)
        _, writer = await asyncio.open_connection(*router.address)
        writer.write(request_of_it)
        await line.is_as_long_as(1)
        begun = time.monotonic()
        writer.close()
        await line.is_as_long_as(0, AT_ONCE)
        assert time.monotonic() - begun < AT_ONCE


@rare_looks
async def test_a_slot_of_a_departed_client_goes_to_the_next(settings: dict[str, Any], line: Line) -> None:
    """The replica takes its time with the handshake of the first client in the queue, which leaves meanwhile."""

    async def handle(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/silent" not in head:
            match = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
            assert match
            digest = hashlib.sha1(match[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
            accept = base64.b64encode(digest)
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x81\x02hi"
            )
        await reader.read(1)
        writer.close()

    async with (
        RawBackend(handle) as replica,
        serving(settings, replica.url, connect_timeout_seconds=PATIENCE) as (router,),
        stream(router) as first,
    ):
        assert await first.recv() == "hi"
        async with stream(router, "/silent") as second, stream(router) as third:
            await told_that(third, 2, 2)
            await first.close()

            async def is_asked() -> bool:
                return any(b"/silent" in head for head in replica.heads)

            await until(is_asked, "the second has the slot")
            begun = time.monotonic()
            await second.close()
            while await third.recv() != "hi":
                pass
            assert time.monotonic() - begun < AT_ONCE


@rare_looks
async def test_clients_leaving_as_they_are_served_block_no_other(
    settings: dict[str, Any], backend: Backend, line: Line
) -> None:
    rng = random.Random(7)
    async with serving(settings, backend.url, routers=2) as (one, other):
        for _ in range(12):
            async with stream(one) as first, stream(other) as second, stream(one) as third:
                await holds(first)
                begun = time.monotonic()
                leave_at = rng.uniform(0, 0.004)
                closing = asyncio.create_task(first.close())
                await asyncio.sleep(leave_at)
                second.transport.abort()
                await closing
                await holds(third)
                assert time.monotonic() - begun < AT_ONCE
        assert line.length() == 0


# Time


async def test_a_wait_ends_at_its_timeout(settings: dict[str, Any], backend: Backend, line: Line) -> None:
    async with serving(settings, backend.url, queue_timeout_seconds=0.4) as (router,), stream(router) as first:
        await holds(first)
        begun = time.monotonic()
        async with stream(router) as second:
            response = await router.http.post("/who", content=bytes(1000))
            assert (response.status_code, response.json()["code"]) == (503, "gpu_unavailable")
            assert 1 <= int(response.headers["retry-after"]) <= 300
            assert 0.3 < time.monotonic() - begun < PATIENCE
            error, code = await ending(second)
            assert error == {
                "type": "error",
                "code": "gpu_unavailable",
                "message": "every healthy replica is full; try again soon",
                "retryable": True,
            }
            assert code == 1013
        assert line.length() == 0
        assert len(backend.scopes) == 1


async def test_a_request_waits_for_its_slot(settings: dict[str, Any], backend: Backend, line: Line) -> None:
    async with serving(settings, backend.url) as (router,):
        async with stream(router) as first:
            await holds(first)
            waiting = asyncio.create_task(router.http.post("/upload", content=bytes(3_000_000)))
            await line.is_as_long_as(1)
        assert (await waiting).json() == {"bytes": 3_000_000}


async def test_one_waiting_time_covers_all_replicas_that_are_tried(settings: dict[str, Any], backend: Backend) -> None:
    """The replica refuses as busy a client that has waited for it, and that then waits for another replica."""
    async with serving(settings, backend.url, queue_timeout_seconds=6.0) as (router,), stream(router) as first:
        await holds(first)
        begun = time.monotonic()
        async with stream(router, "/v1/stream?reject=503") as client:
            await told(client)
            await asyncio.sleep(3.0)
            await first.close()
            error, code = await ending(client)
        assert error["message"] == "every replica that was tried is busy; try again soon"
        assert code == 1013
        assert 5.9 < time.monotonic() - begun < 9.0, "not 6 s once more after the 3 s"


async def test_retry_after_follows_from_the_speed_of_the_queue(
    settings: dict[str, Any], backend: Backend, line: Line
) -> None:
    async with serving(settings, backend.url, max_queue=4) as (router,), contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(stream(router))
        await holds(first)
        clients = []
        for place in range(1, 5):
            clients.append(await stack.enter_async_context(stream(router)))
            await told_that(clients[-1], place, place)
        response = await router.http.get("/who")  # at once: the line is full
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")  # nothing was seen to move yet
        await told_that(clients[0], 1, 4)  # all have been seen where they stand
        await first.close()
        await told_that(clients[-1], 3, 3)
        refilled = await stack.enter_async_context(stream(router))
        await told(refilled)
        response = await router.http.get("/who")
        assert response.status_code == 503
        assert 3 <= int(response.headers["retry-after"]) <= 60


# Slow clients, and the end of the router


async def test_messages_of_a_waiting_client_are_bounded_and_arrive(
    settings: dict[str, Any], backend: Backend, line: Line
) -> None:
    message = bytes(1_000_000)
    async with serving(settings, backend.url) as (router,), stream(router) as first:
        await holds(first)
        async with stream(router, "/v1/stream?do=count") as second, stream(router) as third:
            await told_that(third, 2, 2)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 60:
                    async with asyncio.timeout(2.0):
                        await second.send(message)
                    sent += 1
            assert 2 <= sent < 40  # what this system's sockets take besides is some megabytes
            await first.close()
            counted = 0
            while counted < sent:
                if await asyncio.wait_for(second.recv(), SECONDS) == str(len(message)):
                    counted += 1


@rare_looks
async def test_a_waiting_client_that_sends_too_much_may_still_leave(
    settings: dict[str, Any], backend: Backend, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_client, "REPEAT_SECONDS", 0.1)
    async with serving(settings, backend.url) as (router,), stream(router) as first:
        await holds(first)
        async with stream(router) as second:
            await told(second)
            await second.send(bytes(websocket_client.KEPT_BYTES + 1))
            await second.send(b"not read any more")
            await told(second)  # again, although nothing has changed
            second.transport.abort()
            await line.is_as_long_as(0, AT_ONCE)


async def test_a_client_that_reads_nothing_delays_no_other(
    settings: dict[str, Any], backend: Backend, line: Line
) -> None:
    async with serving(settings, backend.url) as (router,), stream(router) as first:
        await holds(first)
        _, writer = await asyncio.open_connection(*router.address, limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(handshake("/v1/stream"))
        await line.is_as_long_as(1)
        async with stream(router) as third:
            await told_that(third, 2, 2)
            await first.close()
            await told_that(third, 1, 1)
            writer.close()
            await holds(third)


@rare_looks
async def test_a_stopping_router_turns_waiting_clients_away(
    settings: dict[str, Any], backend: Backend, line: Line
) -> None:
    async with (
        serving(settings, backend.url, routers=2, grace_seconds=PATIENCE) as (stopping, other),
        stream(stopping) as first,
        stream(stopping) as second,
        stream(other) as third,
    ):
        await holds(first)
        assert (await told(second), await told(third)) == ((1, 1), (2, 2))
        waiting = asyncio.create_task(stopping.http.get("/who"))
        await line.is_as_long_as(3)
        begun = time.monotonic()
        stopping.stop.ask()
        error, code = await ending(second)
        assert (error["code"], error["message"]) == ("gpu_unavailable", "this router stops; connect again")
        assert (error["retryable"], code) == (True, 1012)
        response = await waiting
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.headers["connection"] == "close"
        await line.is_as_long_as(1, AT_ONCE)
        assert time.monotonic() - begun < AT_ONCE
        await holds(first)  # sessions go on
        await first.close()
        await holds(third)
        await asyncio.wait_for(asyncio.shield(stopping.serving), SECONDS)


async def test_a_stopping_router_turns_refused_clients_away_too(settings: dict[str, Any]) -> None:
    """They wait for another replica."""
    never = {"health_check_interval_seconds": 3600.0, "fast_interval_seconds": 3600.0, "grace_seconds": PATIENCE}
    async with Backend() as backend, serving(settings | never, backend.url) as (router,):
        await backend.__aexit__(None, None, None)
        waiting = asyncio.create_task(router.http.get("/who"))

        async def is_refused() -> bool:
            counted: int = (await router.status())["replicas"][0]["consecutive_failures"]
            return counted == 1

        await until(is_refused, "the replica has refused it")
        router.stop.ask()
        response = await asyncio.wait_for(waiting, AT_ONCE)
        assert (response.status_code, response.json()["message"]) == (503, "this router stops; connect again")


async def test_a_router_ending_without_grace_leaves_no_waiter(
    settings: dict[str, Any], backend: Backend, line: Line
) -> None:
    async with serving(settings, backend.url) as (router,), stream(router) as first, stream(router) as second:
        await holds(first)
        await told(second)
        waiting = asyncio.create_task(router.http.get("/who"))
        await line.is_as_long_as(2)
        router.stop.ask()
        with contextlib.suppress(ConnectionClosed):
            async for _ in second:
                pass
        assert second.close_code == 1012
        with contextlib.suppress(httpx.TransportError):
            assert (await waiting).status_code == 503
        await asyncio.wait_for(asyncio.shield(router.serving), SECONDS)
        assert line.raw.exists(line.keys.queue, *line.raw.keys(line.keys.prefix + "leases:*")) == 0
