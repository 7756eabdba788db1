"""Calls of scripts through a caller's client keep their order while the server learns the scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis import exceptions

from shared_registry.store.lua import Script
from shared_registry.store.script_calls import ScriptCalls

ACQUIRE, RELEASE = Script.of("acquire"), Script.of("release")
NAMES = {ACQUIRE.digest: "acquire", RELEASE.digest: "release"}


class LearningServer:
    """Executes a call when the test lets it.

    Attributes:
        calls: What was executed, or refused because the script is not known.
        known: The scripts that it knows.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.known: set[str] = set()
        self._replies: list[tuple[str, asyncio.Future[list[str]]]] = []

    async def eval(self, text: str, _: int, *words: str) -> list[str]:
        self.known.add(text)
        return await self._reply(f"{text} {words[0]}, text")

    async def evalsha(self, digest: str, _: int, *words: str) -> list[str]:
        return await self._reply(f"{NAMES[digest]} {words[0]}")

    async def _reply(self, call: str) -> list[str]:
        self.calls.append(call)
        reply: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._replies.append((call, reply))
        return await reply

    async def reply(self, failing: Callable[[], Exception] | None = None) -> None:
        """Reply to what is under way."""
        replies, self._replies = self._replies, []
        for call, reply in replies:
            if failing is not None:
                reply.set_exception(failing())
            elif call.split()[0] not in self.known:
                reply.set_exception(exceptions.NoScriptError("NOSCRIPT"))
            else:
                reply.set_result(["done"])
        for _ in range(5):
            await asyncio.sleep(0)


async def begun(calls: ScriptCalls, *scripts: tuple[Script, str]) -> list[asyncio.Task[list[str]]]:
    tasks = [asyncio.create_task(calls.execute(script, (word,))) for script, word in scripts]
    await asyncio.sleep(0)
    return tasks


async def test_a_text_is_alone_under_way() -> None:
    server = LearningServer()
    calls = ScriptCalls(server)
    first = await begun(calls, (ACQUIRE, "1"))
    await server.reply()
    tasks = await begun(calls, (ACQUIRE, "2"), (RELEASE, "1"), (ACQUIRE, "3"))
    for expected in (["acquire 1, text", "acquire 2"], ["release 1, text"], ["acquire 3"]):
        assert server.calls[-len(expected) :] == expected
        await server.reply()
    assert [await one for one in (*first, *tasks)] == [["done"]] * 4
    await begun(calls, (RELEASE, "2"), (ACQUIRE, "4"))
    assert server.calls[-2:] == ["release 2", "acquire 4"]


async def test_calls_refused_after_a_restart_keep_their_order() -> None:
    server = LearningServer()
    calls = ScriptCalls(server)
    for script in (ACQUIRE, RELEASE):
        await begun(calls, (script, "1"))
        await server.reply()
    server.known.clear()
    await begun(calls, (RELEASE, "2"), (ACQUIRE, "2"))
    for _ in range(3):
        await server.reply()
    assert server.calls[2:] == ["release 2", "acquire 2", "release 2, text", "acquire 2, text"]


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_text_that_ends_without_a_reply_delays_nobody(is_cancelled: bool) -> None:
    server = LearningServer()
    calls = ScriptCalls(server)
    text, other = await begun(calls, (RELEASE, "1"), (RELEASE, "2"))
    if is_cancelled:
        text.cancel()
        await asyncio.gather(text, return_exceptions=True)
        await asyncio.sleep(0)
    else:
        await server.reply(exceptions.ConnectionError)
        with pytest.raises(exceptions.ConnectionError):
            await text
    assert server.calls == ["release 1, text", "release 2, text"]
    other.cancel()


async def test_a_lost_connection_lets_scripts_be_texts_again() -> None:
    server = LearningServer()
    calls = ScriptCalls(server)
    for failing in (None, exceptions.ConnectionError, None):
        tasks = await begun(calls, (RELEASE, "1"))
        await server.reply(failing)
        await asyncio.gather(*tasks, return_exceptions=True)
    assert server.calls == ["release 1, text", "release 1", "release 1, text"]
