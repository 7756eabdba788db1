"""The mock replica as the demo and docker compose start it: a process, asked by real clients."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from shared_registry.demo import replica
from tests.support.command import ROOT
from tests.support.until import until

INIT = json.dumps({"type": "session_init_v2", "client_id": "client-7"})
READY = {"type": "session_ready", "replica": "mock", "client_id": "client-7"}
SECONDS = 30.0


@asynccontextmanager
async def replica_process(*words: str) -> AsyncIterator[str]:
    """Run one and yield its authority."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", str(replica.__file__), "--name", "mock", *words), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS):
            yield f"127.0.0.1:{json.loads(await process.stdout.readline())['port']}"
    finally:
        process.kill()
        await process.wait()


def session(authority: str) -> connect:
    return connect(f"ws://{authority}/v1/stream", proxy=None)


async def answer_and_close_code(connection: ClientConnection) -> tuple[dict[str, Any], int | None]:
    answer = json.loads(await connection.recv())
    with pytest.raises(ConnectionClosed):
        await connection.recv()
    return answer, connection.close_code


async def status_of(client: httpx.AsyncClient) -> object:
    return (await client.get("/readyz")).json()["status"]


async def test_a_session_gets_numbered_frames_and_its_own_back() -> None:
    async with replica_process() as authority, session(authority) as connection:
        await connection.send(INIT)
        assert json.loads(await connection.recv()) == READY
        frames = [await connection.recv() for _ in range(3)]
        assert [int.from_bytes(frame[:8], "big") for frame in frames if isinstance(frame, bytes)] == [0, 1, 2]
        await connection.send(b"mine")
        await connection.send("text")
        got: set[str | bytes] = set()
        while not {b"mine", "text"} <= got:
            got.add(await connection.recv())


async def test_a_session_with_a_wrong_start_is_refused() -> None:
    frames: list[str | bytes] = ["", "[]", '{"type": "other"}', b"\xff"]
    async with replica_process() as authority:
        for frame in frames:
            async with session(authority) as connection:
                await connection.send(frame)
                answer, code = await answer_and_close_code(connection)
                assert (answer["type"], answer["code"], code) == ("error", "bad_init", 1008), frame


async def test_a_warming_replica_says_so_and_takes_no_session() -> None:
    async with replica_process("--warmup-seconds", "5") as authority:
        async with httpx.AsyncClient(base_url=f"http://{authority}", trust_env=False, timeout=SECONDS) as client:
            assert (await client.get("/health")).json()["status"] == "ok"
            warming = await client.get("/readyz")
            assert (warming.status_code, warming.json()["status"]) == (200, "warming")
            async with session(authority) as connection:
                await connection.send(INIT)
                answer, code = await answer_and_close_code(connection)
                assert (answer["code"], code) == ("warming", 1013)

            async def is_ready() -> bool:
                return await status_of(client) == "ready"

            await until(is_ready, "it has warmed up")
        async with session(authority) as connection:
            await connection.send(INIT)
            assert json.loads(await connection.recv()) == READY


async def test_chat_is_answered_at_once_or_word_by_word() -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": "good morning"}]}
    async with (
        replica_process() as authority,
        httpx.AsyncClient(base_url=f"http://{authority}", trust_env=False, timeout=SECONDS) as client,
    ):
        whole = (await client.post("/v1/chat/completions", json=asked)).json()
        assert whole["choices"][0]["message"]["content"] == "mock heard: good morning"
        async with client.stream("POST", "/v1/chat/completions", json=asked | {"stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        assert events.pop() == "[DONE]"
        deltas = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events]
        assert "".join(deltas) == "mock heard: good morning"
        assert len(deltas) > 4
        refused = await client.post("/v1/chat/completions", json={"messages": []})
        assert (refused.status_code, "messages" in refused.json()["error"]["message"]) == (400, True)
        assert (await client.get("/nowhere")).status_code == 404


async def test_a_taken_port_is_one_clear_line() -> None:
    async with replica_process() as authority:
        port = authority.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shared_registry.demo.replica", "--port", port),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        assert (process.returncode, err.decode().count("\n")) == (1, 1)
        assert f"cannot listen on 127.0.0.1:{port}" in err.decode()
