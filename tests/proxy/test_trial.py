"""A replica that accepts a WebSocket and then says it is busy: the session goes on to another replica, or waits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from shared_registry.model import ReplicaEndpoint
from shared_registry.proxy import dispatch
from shared_registry.proxy.trial import MOST_HELD, says_busy
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

in_loop = pytest.mark.asyncio(loop_scope="module")
REJECTED = json.dumps({"type": "error", "code": "session_rejected", "message": "one session a process"})


def frame(opcode: int, payload: bytes, *, is_final: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin=is_final).serialize(mask=False)


ERROR = frame(1, REJECTED.encode())
LATER = frame(8, (1013).to_bytes(2, "big") + b"busy")
RESTART = frame(8, (1012).to_bytes(2, "big"))


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"", None),
        (ERROR, None),
        (ERROR + LATER, True),
        (LATER, True),
        (frame(9, b"ping") + ERROR + LATER, True),
        (ERROR + ERROR + LATER, True),
        (ERROR + RESTART, False),
        (RESTART, False),
        (frame(1, b'{"type": "ready"}'), False),
        (frame(1, b'{"type": "ready"}') + LATER, False),
        (frame(2, b"x"), False),
        (frame(1, REJECTED.encode(), is_final=False), False),
        (frame(1, b"x" * (MOST_HELD + 1)), False),
        (frame(1, b"[]"), False),
        (frame(1, b"no json"), False),
        (b"\xff\xff", False),
    ],
)
def test_only_errors_and_1013_say_busy(data: bytes, verdict: bool | None) -> None:
    assert says_busy(data, longest=1 << 20) is verdict
    parts = [says_busy(data[:at], longest=1 << 20) for at in range(len(data))]
    if verdict:
        assert set(parts) == {None}
    elif verdict is False:
        assert True not in parts


class OneSession:
    """Serves one WebSocket at a time, as FastVideo's server does. Others are accepted and then rejected.

    Attributes:
        rejected: How many were rejected.
        messages: What the sessions received.
    """

    def __init__(self, *, cleans_up: bool = False, is_prompt: bool = False) -> None:
        """Set up; if it cleans up, it takes the next session a moment later, and after the first one has rejected."""
        self.rejected = 0
        self.messages: list[Any] = []
        self._is_taken = False
        self._cleans_up = cleans_up
        self._is_prompt = is_prompt

    async def __call__(self, client: ServerConnection) -> None:
        if self._is_taken:
            self.rejected += 1
            if not self._is_prompt:  # otherwise it rejects before the client has said anything
                await client.recv()
            await client.send(REJECTED)
            await client.close(1013, "busy")
            return
        self._is_taken = True
        try:
            self.messages.append(await client.recv())
            await client.send("ready")
            async for message in client:
                await client.send(message)
        finally:
            if self._cleans_up:
                await asyncio.sleep(0.03)
                await until(lambda: self.rejected, "another session was rejected meanwhile")
            self._is_taken = False


def healthy(connection: ServerConnection, request: Any) -> Any:
    return connection.respond(200, "ok") if request.path == "/health" else None


async def start(start_router: StartRouter, *urls: str, capacity: int, **settings: Any) -> RunningRouter:
    replicas = [ReplicaEndpoint(url, primary=at == 0, capacity=capacity) for at, url in enumerate(urls)]
    router = await start_router(is_awaited=False, replicas=replicas, **settings)

    async def are_healthy() -> bool:
        return {one["status"] for one in (await router.status())["replicas"]} == {"healthy"}

    await until(are_healthy, "the replicas are healthy")
    return router


@in_loop
async def test_another_replica_takes_a_rejected_session(start_router: StartRouter) -> None:
    first = OneSession()
    async with serve(first, "127.0.0.1", 0, process_request=healthy) as server, Backend() as second:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        router = await start(start_router, url, second.url, capacity=0)
        async with connect(f"{url.replace('http', 'ws')}/", proxy=None) as other:
            await other.send("takes the place")
            assert await other.recv() == "ready"
            async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
                await client.send(["frag", "mented"])
                assert await client.recv() == "fragmented"  # an echo of the second replica
                await client.send(b"more")
                assert await client.recv() == b"more"
        assert first.rejected == 1
        replica = (await router.status())["replicas"][0]
        assert (replica["status"], replica["consecutive_failures"]) == ("healthy", 0)


@in_loop
async def test_without_another_replica_the_client_learns_it(start_router: StartRouter) -> None:
    first = OneSession()
    async with serve(first, "127.0.0.1", 0, process_request=healthy) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        router = await start(start_router, url, capacity=0)
        async with connect(f"{url.replace('http', 'ws')}/", proxy=None) as other:
            await other.send("takes the place")
            assert await other.recv() == "ready"
            async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
                await client.send("hello")
                assert await client.recv() == REJECTED
                with pytest.raises(ConnectionClosed) as caught:
                    await client.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 1013


@in_loop
@pytest.mark.parametrize("is_prompt", [False, True])
async def test_all_who_wait_get_their_stream_one_after_the_other(
    start_router: StartRouter, monkeypatch: pytest.MonkeyPatch, *, is_prompt: bool
) -> None:
    """The replica needs a moment after each session before it takes the next one, which its capacity does not say."""
    monkeypatch.setattr(dispatch, "BUSY_PAUSE_SECONDS", 0.02)
    replica = OneSession(cleans_up=True, is_prompt=is_prompt)
    async with serve(replica, "127.0.0.1", 0, process_request=healthy) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        router = await start(start_router, url, capacity=1, queue_timeout_seconds=3 * SECONDS)

        async def stream(number: int) -> None:
            async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
                await client.send(f"init {number}")
                while (message := await asyncio.wait_for(client.recv(), 3 * SECONDS)) != "ready":
                    assert json.loads(message)["type"] == "queue_status"
                await client.send("work")
                assert await client.recv() == "work"

        await asyncio.gather(*[stream(number) for number in range(20)])
        assert sorted(replica.messages) == sorted(f"init {number}" for number in range(20))
        assert replica.rejected > 0
