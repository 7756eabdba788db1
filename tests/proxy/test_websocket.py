"""WebSocket sessions: what each side says and how it ends reaches the other as it was."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from shared_registry.proxy import tunnel
from tests.proxy.conftest import PATIENT, SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend, RawBackend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BIG = 64 * 1024 * 1024


def dial(router: RunningRouter, target: str = "/v1/stream", **options: Any) -> connect:
    return connect(f"{router.ws}{target}", **{"proxy": None, "max_size": None, "compression": None, **options})


async def closed_with(client: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as caught:
        await asyncio.wait_for(client.recv(), SECONDS)
    assert caught.value.rcvd is not None, caught.value
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def told_to_close(backend: Backend) -> tuple[int, str]:
    return await asyncio.wait_for(backend.closes.get(), SECONDS)


# Messages


async def test_text_messages_stay_text_and_binary_ones_binary(router: RunningRouter) -> None:
    messages: list[str | bytes] = ["", b"", "text ü €", "\x00", b"\x00\xff", json.dumps({"type": "session_init_v2"})]
    async with dial(router) as client:
        for message in messages:
            await client.send(message)
        assert [await client.recv() for _ in messages] == messages


async def test_a_fragmented_message_arrives_whole(router: RunningRouter) -> None:
    async with dial(router) as client:
        await client.send(["a", "b" * 100_000, "", "c"])
        await client.send([b"1", b"2"])
        assert await client.recv() == "a" + "b" * 100_000 + "c"
        assert await client.recv() == b"12"


async def test_the_largest_frame_passes_in_both_directions(router: RunningRouter) -> None:
    async with dial(router) as client:
        await client.send(bytes(BIG))
        assert len(await client.recv()) == BIG


async def test_a_too_large_frame_of_the_client_ends_the_session(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url, max_frame_bytes=1024)
    async with dial(router) as client:
        await client.send(bytes(1024))
        assert await client.recv() == bytes(1024)
        await client.send(bytes(1025))
        assert (await closed_with(client))[0] == 1009
    assert (await told_to_close(backend))[0] == 1009


async def test_a_too_large_frame_of_the_replica_is_a_failure(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url, max_frame_bytes=1024)
    async with dial(router, "/v1/stream?do=pour&messages=1") as client:
        error = json.loads(await client.recv())
        assert (error["type"], error["code"], error["retryable"]) == ("error", "worker_failed", False)
        assert "max_frame_bytes" in error["message"]
        assert await closed_with(client) == (1011, "worker_failed")
    assert (await told_to_close(backend))[0] == 1009


@pytest.mark.timeout(180)
async def test_two_hundred_sessions_at_once_are_served(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url, **PATIENT)

    async def converse(number: int) -> None:
        async with dial(router, open_timeout=3 * SECONDS) as client:
            opened.append(client)
            if len(opened) == 200:
                all_open.set()
            await asyncio.wait_for(all_open.wait(), 3 * SECONDS)
            for turn in range(5):
                await client.send(f"{number} {turn}")
                assert await client.recv() == f"{number} {turn}"

    opened: list[ClientConnection] = []
    all_open = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(200):
            tasks.create_task(converse(number))


# The handshake


async def test_the_replica_sees_the_clients_request(router: RunningRouter, backend: Backend) -> None:
    headers = {
        "X-Forwarded-For": "10.1.2.3",
        "Cookie": "a=1",
        "Authorization": "Bearer x",
        "X-Hop": "1",
        "Keep-Alive": "timeout=5",
    }
    async with dial(router, "/other//path%2F;x?a=%20&b", additional_headers=headers, origin="http://o") as client:
        assert client.response is not None
        assert client.response.headers["x-backend"] == str(backend.port)
        assert client.response.headers["set-cookie"] == "a=1"
        assert "date" not in client.response.headers
    scope = backend.scopes[-1]
    assert (scope["raw_path"], scope["query_string"]) == (b"/other//path%2F;x", b"a=%20&b")
    seen = dict(scope["headers"])
    assert seen[b"x-forwarded-for"] == b"10.1.2.3, 127.0.0.1"
    assert seen[b"x-forwarded-proto"] == b"http"
    assert seen[b"host"] == seen[b"x-forwarded-host"] == router.url.removeprefix("http://").encode()
    assert (seen[b"cookie"], seen[b"authorization"], seen[b"origin"]) == (b"a=1", b"Bearer x", b"http://o")
    assert b"sec-websocket-extensions" not in seen
    assert b"keep-alive" not in seen
    assert len(scope["headers"]) == len(seen)


@pytest.mark.parametrize(("offered", "chosen"), [(["a", "b"], "a"), (["b"], "b"), ([], None)])
async def test_the_replica_chooses_the_subprotocol(
    router: RunningRouter, backend: Backend, offered: list[str], chosen: str | None
) -> None:
    async with dial(router, subprotocols=[Subprotocol(name) for name in offered] or None) as client:
        assert client.subprotocol == chosen
    assert backend.scopes[-1]["subprotocols"] == offered


async def test_a_replicas_answer_to_the_handshake_reaches_the_client(router: RunningRouter, backend: Backend) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await dial(router, "/v1/stream?reject=403")
    assert caught.value.response.status_code == 403
    assert bytes(caught.value.response.body or b"") == b"not you"
    assert (await router.status())["replicas"][0]["consecutive_failures"] == 0


async def test_a_redirect_is_passed_to_the_client(start_router: StartRouter, backend: Backend) -> None:
    async def redirect(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        location = f"Location: {backend.url.replace('http', 'ws')}/elsewhere"
        writer.write(f"HTTP/1.1 307 Elsewhere\r\n{location}\r\nContent-Length: 0\r\n\r\n".encode())

    async with RawBackend(redirect) as replica:
        router = await start_router(replica.url)
        _, writer = answer = await asyncio.open_connection(*router.address)
        handshake = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        key = b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + handshake + key + b"\r\n")
        head = await asyncio.wait_for(answer[0].readuntil(b"\r\n\r\n"), SECONDS)
        writer.close()
    assert head.startswith(b"HTTP/1.1 307 ")
    assert b"/elsewhere" in head
    assert backend.scopes == []


async def test_compression_is_never_agreed_on(router: RunningRouter) -> None:
    async with dial(router, compression="deflate") as client:
        assert client.protocol.extensions == []


# How it ends


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1000, "done"), (1001, "restart"), (1013, "later"), (3000, "ü" * 60), (4999, "x")]
)
async def test_close_codes_pass_both_ways(router: RunningRouter, backend: Backend, code: int, reason: str) -> None:
    async with dial(router, "/v1/stream?do=close") as client:
        await client.send(json.dumps({"code": code, "reason": reason}))
        assert await closed_with(client) == (code, reason)
    async with dial(router) as client:
        await client.close(code, reason)
    assert await told_to_close(backend) == (code, reason)


async def test_messages_sent_before_the_replica_closed_arrive(router: RunningRouter) -> None:
    async with dial(router, "/v1/stream?do=pour&messages=50") as client:
        await client.close()
    async with dial(router, "/v1/stream?do=die") as client:
        assert await client.recv() == "one"
        error = json.loads(await client.recv())
        assert (error["type"], error["code"]) == ("error", "worker_failed")
        assert await closed_with(client) == (1011, "worker_failed")


async def test_a_close_frame_without_a_code_is_an_ordinary_end(router: RunningRouter, backend: Backend) -> None:
    async with dial(router) as client:
        await client.send("hello")
        await client.recv()
        async with client.send_context():
            client.protocol.send_close()
    assert await told_to_close(backend) == (1000, "")


async def test_the_replica_learns_of_a_client_that_disconnects(router: RunningRouter, backend: Backend) -> None:
    client = await dial(router)
    await client.send("hello")
    await client.recv()
    client.transport.abort()
    assert await told_to_close(backend) == (1001, "the client's connection was lost")


async def test_the_replica_learns_of_a_client_disconnecting_under_load(router: RunningRouter, backend: Backend) -> None:
    """Much is on its way to the client."""
    client = await dial(router, "/v1/stream?do=pour&messages=1000000", max_queue=1)
    await client.recv()
    client.transport.abort()

    async def is_over() -> bool:
        return bool((await router.status())["sessions"] == 0)

    await until(is_over, "the session is over")


async def test_without_a_replica_the_client_receives_the_originals_words(start_router: StartRouter) -> None:
    router = await start_router()
    async with dial(router) as client:
        error = json.loads(await client.recv())
        assert error == {
            "type": "error",
            "code": "gpu_unavailable",
            "message": "no healthy replica can take the session; try again soon",
            "retryable": True,
        }
        assert await closed_with(client) == (1013, "gpu_unavailable")


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1010, 1011, 1012, 1014])
async def test_an_error_of_the_replica_reaches_the_client(router: RunningRouter, code: int) -> None:
    async with dial(router, "/v1/stream?do=close") as client:
        await client.send(json.dumps({"code": code, "reason": "why"}))
        assert await closed_with(client) == (code, "why")


async def test_a_replica_that_sends_garbage_is_a_failure(
    start_router: StartRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "CLOSE_SECONDS", 0.1)

    async def gibberish(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from websockets.utils import accept_key

        [key] = [line[19:] for line in head.decode().split("\r\n") if line.lower().startswith("sec-websocket-key: ")]
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode() + b"\xff" * 20)
        await asyncio.Event().wait()

    async with RawBackend(gibberish) as replica:
        router = await start_router(replica.url)
        async with dial(router) as client:
            assert json.loads(await asyncio.wait_for(client.recv(), SECONDS))["code"] == "worker_failed"
            assert await closed_with(client) == (1011, "worker_failed")
