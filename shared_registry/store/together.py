"""Sends calls of one kind that are made in one turn of the event loop as one command.

Most of what such a call costs the server is not the call's own work. A command for many calls does the usual ones, and
stops at the first that is not usual; that one and those after it are sent again, each as a command of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from shared_registry.store.lua import Script
from shared_registry.store.multiplexer import Multiplexer, OnReply, PendingReply

LEAST = 4
"""The number of calls from which on a command for many costs less."""
MOST = 16
"""The number of calls in one command, so that no other client waits long."""

Split = Callable[[Sequence[str]], list[list[str]]]


class Together:
    """Collects calls. Safe for concurrent use within an event loop."""

    def __init__(self, multiplexer: Multiplexer, script: Script, words: Sequence[str], split: Split) -> None:
        """Collect nothing yet.

        Args:
            multiplexer: Sends the commands.
            script: The script for many calls.
            words: Its key, and the arguments before those of the calls.
            split: Returns the replies of the calls that were done, in their order, from the reply of that script.
        """
        self.multiplexer = multiplexer
        self.script = script
        self.words = words
        self.split = split
        self._calls: list[PendingReply] = []
        self._loop: asyncio.AbstractEventLoop

    def call(self, script: Script, words: tuple[str, ...], argument: str, on_reply: OnReply | None) -> PendingReply:
        """Add a call.

        Args:
            script: The script for this call alone.
            words: Its key, and its arguments.
            argument: Its argument for the script for many calls.
            on_reply: See `PendingReply`.
        """
        if not self._calls:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._send)
        call = PendingReply(self._loop, script, words, on_reply)
        call.argument = argument
        self._calls.append(call)
        return call

    def _send(self) -> None:
        calls, self._calls = self._calls, []
        for start in range(0, len(calls), MOST):
            group = calls[start : start + MOST]
            if len(group) < LEAST:
                for call in group:
                    self.multiplexer.submit(call)
            else:
                self.multiplexer.submit(_Group(self, group))


class _Group(PendingReply):
    """The answer to several calls."""

    __slots__ = ("_calls", "_together")

    def __init__(self, together: Together, calls: list[PendingReply]) -> None:
        self._together = together
        self._calls = calls
        self.script = together.script
        self.is_bounded = True
        self.sends_text = False

    def begin(self) -> None:
        self._calls = [call for call in self._calls if not call.done()]
        for call in self._calls:
            call.begin()

    def packed(self, known: set[str]) -> bytes:
        self.words = (*self._together.words, *(call.argument for call in self._calls))
        return super().packed(known)

    def done(self) -> bool:
        return all(call.done() for call in self._calls)

    def answered(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            self.failed(reply)
            return
        replies = self._together.split(reply)
        for call, own in zip(self._calls, replies, strict=False):
            call.answered(own)
        for call in self._calls[len(replies) :]:
            if not call.done():
                self._together.multiplexer.submit(call)

    def failed(self, error: Exception) -> None:
        for call in self._calls:
            own = type(error)(*error.args)
            own.__cause__ = error.__cause__
            call.failed(own)
