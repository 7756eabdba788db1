"""What the demo takes for a session that goes on, and for one that does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve

from shared_registry.demo import watch
from shared_registry.demo.watch import Refused, RouterWatch, Session
from tests.support.until import until

READY = json.dumps({"type": "session_ready", "replica": "gpu-1"})
Behaviour = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def router(behave: Behaviour) -> AsyncIterator[str]:
    """Serve sessions that behave so."""

    async def take(connection: ServerConnection) -> None:
        await connection.recv()
        await behave(connection)

    async with serve(take, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def frames(*numbers: int, ends: bool = False) -> Behaviour:
    async def behave(connection: ServerConnection) -> None:
        await connection.send(READY)
        for number in numbers:
            await connection.send(number.to_bytes(8, "big"))
        if not ends:
            await connection.wait_closed()

    return behave


async def test_a_session_goes_on_while_frames_come() -> None:
    async with router(frames(0, 1, 2)) as url:
        session = await Session.open(url, "client")
        assert (session.replica, session.frames) == ("gpu-1", 1)
        session.read_on()
        await until(lambda: session.frames == 3)
        assert session.is_receiving
        await session.close()


@pytest.mark.parametrize(
    ("behave", "trouble"),
    [(frames(0, 1, 3), "frame 2 expected, got 3"), (frames(0, 1, ends=True), "closed by the router")],
)
async def test_a_session_that_loses_a_frame_or_closes_has_failed(behave: Behaviour, trouble: str) -> None:
    async with router(behave) as url:
        session = await Session.open(url, "client")
        session.read_on()
        await until(lambda: session.trouble != "")
        assert (session.trouble, session.is_receiving) == (trouble, False)
        await session.close()


async def test_a_silent_session_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENT_SECONDS", 0.1)
    async with router(frames(0)) as url:
        session = await Session.open(url, "client")
        session.read_on()
        await until(lambda: not session.is_receiving)
        assert session.trouble == ""
        await session.close()


async def refuse(connection: ServerConnection) -> None:
    await connection.send(json.dumps({"type": "error", "code": "gpu_unavailable"}))


@pytest.mark.parametrize(
    ("behave", "reason"), [(refuse, "gpu_unavailable"), (frames(1), "frame 0 expected, got 1"), (frames(), "Timeout")]
)
async def test_a_session_that_cannot_start_is_refused_with_the_reason(
    behave: Behaviour, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "Timeout":
        monkeypatch.setattr(watch, "ANSWER_SECONDS", 0.3)
    async with router(behave) as url:
        with pytest.raises(Refused, match=reason):
            await Session.open(url, "client")


async def test_a_router_that_is_gone_counts_failures_and_selects_nothing() -> None:
    async with router(frames(0)) as url:
        seen = RouterWatch("router-1", url)
        watching = asyncio.create_task(seen.run())
        await until(lambda: seen.selected == "gpu-1")
    await until(lambda: seen.selected is None)
    assert seen.failures > 0
    assert seen.sessions > 0
    assert seen.trouble
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
