"""Calls of scripts through a client that the caller made, whose calls go over several connections.

A server that does not know a script refuses the call. Sent again as text, it would be executed behind calls that were
made after it: a session would ask for the slot that the one before it is about to release. So a script is sent as text
the first time, and a text is alone under way: it waits for the calls before it, and the calls after it wait for it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

from redis import exceptions

from shared_registry.store.lua import Script


class _CallUnderWay:
    """One call under way."""

    __slots__ = ("ended", "sends_text")

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.sends_text = False


class ScriptCalls:
    """Executes scripts, and keeps the order of calls while the server does not know the scripts.

    Calls of known scripts are executed in the order in which the client's connections bring them. The order is not
    kept either if the server forgets some of the scripts only, or if a restart goes unnoticed while other programs
    make it know a part of them.
    """

    def __init__(self, client: Any) -> None:
        """Call nothing yet.

        Args:
            client: A client of redis-py.
        """
        self._client = client
        self._known: set[str] = set()
        self._under_way: dict[_CallUnderWay, None] = {}

    async def execute(self, script: Script, words: tuple[str, ...]) -> list[Any]:
        """Execute a script. The caller bounds the time, which includes the wait for other calls.

        Args:
            script: The script.
            words: Its key and its arguments.

        Raises:
            RedisError: See redis-py.
        """
        call = _CallUnderWay()
        self._under_way[call] = None
        try:
            return await self._execute(call, script, words)
        finally:
            del self._under_way[call]
            call.ended.set()

    async def _execute(self, call: _CallUnderWay, script: Script, words: tuple[str, ...]) -> list[Any]:
        while text := next((one for one in self._before(call) if one.sends_text), None):
            await text.ended.wait()
        reply: list[Any]
        if script.digest in self._known:
            try:
                reply = await self._client.evalsha(script.digest, 1, *words)
            except exceptions.NoScriptError:
                self._known.clear()  # the server has restarted, or it is another one
            except exceptions.ConnectionError:
                self._known.clear()
                raise
            else:
                return reply
        call.sends_text = True
        while earlier := next(self._before(call), None):
            await earlier.ended.wait()
        reply = await self._client.eval(script.text, 1, *words)
        self._known.add(script.digest)
        return reply

    def _before(self, call: _CallUnderWay) -> Iterator[_CallUnderWay]:
        return itertools.takewhile(lambda one: one is not call, self._under_way)
