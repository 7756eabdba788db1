"""What became of the queue, replayed from every command that the server executed. Reading apart, pure.

The server tells of each command in the order of execution, those of scripts included, so that nothing about order has
to be inferred from clocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from shared_registry.store.lua import assemble, command_names

CLOCK_MARGIN_MS = 20
"""Between the time that a script read and the one that its commands are told with."""
_LINE = re.compile(rb"^\+?(\d+\.\d+) \[\d+ (\S+)\] (.*)$")
_ARGUMENT = re.compile(r'"((?:[^"\\]|\\.)*)"')


@contextlib.asynccontextmanager
async def recorded(server: EmbeddedServer) -> AsyncIterator[list[bytes]]:
    """Collect what the server executes, for as long as this is open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**24)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"
    lines: list[bytes] = []

    async def read() -> None:
        async for line in reader:
            lines.append(line.rstrip())  # noqa: PERF401  as they come

    reading = asyncio.create_task(read())
    try:
        yield lines
    finally:
        reading.cancel()
        writer.close()


@dataclass
class QueueHistory:
    """The line as the commands make it, and what was wrong about it.

    Attributes:
        wrong: Grants out of turn, and rooms left beside waiters.
        served: How many got a slot from the line.
        woken: How many of these their routers' inboxes told of.
        deepest: How many waited at once at the most.
        joined: How many took a place.
        passed_over: How often somebody whose router had expired was passed by.
    """

    keys: Keys
    wrong: list[str] = field(default_factory=list)
    served: int = 0
    woken: int = 0
    joined: int = 0
    deepest: int = 0
    passed_over: int = 0

    def __post_init__(self) -> None:
        self._queue: dict[str, int] = {}
        self._routers: dict[str, int] = {}
        self._ready: set[tuple[str, str]] = set()
        self._meta: dict[str, str] = {}
        self._script = ""
        self._granted = self._removed = 0
        self._is_owed = False
        self._names = {hashlib.sha1(assemble(name).encode()).hexdigest(): name for name in command_names()}
        self._texts = {assemble(name): name for name in command_names()}

    def replay(self, lines: Iterable[bytes]) -> None:
        """Take in what the server told, from a time on at which nothing was there."""
        for line in lines:
            match = _LINE.match(line)
            if match is None or (self.keys.prefix.encode() not in line and b'"EVAL' not in line):
                continue
            words = [re.sub(r"\\(.)", r"\1", word) for word in _ARGUMENT.findall(match[3].decode())]
            now_ms = int(float(match[1]) * 1000)
            if match[2] == b"lua":
                self._apply(now_ms, words)
            else:
                self._end_script(now_ms)
                if words[0].upper() in ("EVALSHA", "EVAL"):
                    text = words[1].replace("\\n", "\n")
                    self._script = self._names.get(words[1]) or self._texts.get(text) or self._script_of(words)
                    self._granted = self._removed = 0

    def _script_of(self, words: list[str]) -> str:
        """Return the name of a command sent as text, which the server tells with its line ends spelled out."""
        squeezed = re.sub(r"\s|\\?n(?=\s|$)", "", words[1])
        for text, name in self._texts.items():
            if re.sub(r"\s", "", text)[:60] == squeezed[:60]:
                return name
        return "?"

    def _apply(self, now_ms: int, words: list[str]) -> None:
        command, key, keys = words[0].upper(), words[1] if len(words) > 1 else "", self.keys
        if key == keys.queue and command == "ZADD":
            self._queue[words[3]] = int(float(words[2]))
            self.joined += 1
            self.deepest = max(self.deepest, len(self._queue))
        elif key == keys.queue and command == "ZREM":
            self._queue.pop(words[2], None)
            self._removed += 1
        elif key == keys.routers and command == "ZADD":
            self._set_expiry(words[2:])
        elif key == keys.routers and command == "ZREM":
            self._routers.pop(words[2], None)
        elif key in (keys.ready_primary, keys.ready_secondary) and command == "ZADD":
            self._ready |= {(key, url) for url in words[3::2]}
        elif key in (keys.ready_primary, keys.ready_secondary) and command == "ZREM":
            self._ready -= {(key, url) for url in words[2:]}
        elif key == keys.meta and command == "HSET":
            self._meta.update(zip(words[2::2], words[3::2], strict=True))
        elif key.startswith(keys.leases_prefix) and command == "HSET" and self._script != "restore_leases":
            self._grant_all(now_ms, key.removeprefix(keys.leases_prefix), words[2::2])
        elif key.startswith(keys.inbox_prefix) and command == "XADD":
            self.woken += 1
        assert command not in ("FLUSHALL", "FLUSHDB"), "the history would begin anew"

    def _set_expiry(self, words: list[str]) -> None:
        *options, expires_at_ms, router = words
        if "XX" not in options or router in self._routers:
            self._routers[router] = int(float(expires_at_ms))

    def _grant_all(self, now_ms: int, router: str, lease_ids: list[str]) -> None:
        for lease_id in lease_ids:
            if lease_id != NO_LEASE:
                self._grant(now_ms, f"{router}/{lease_id}")

    def _grant(self, now_ms: int, taker: str) -> None:
        self._granted += 1
        waiting = sorted(self._queue, key=lambda one: (self._queue[one], one))
        own = waiting.index(taker) if taker in self._queue else None
        for passed in waiting[:own]:
            if self._is_live(passed, now_ms):
                self.wrong.append(f"{self._script}: {taker} ({own}) passes {passed} at {now_ms}")
                return
            self.passed_over += 1
        self.served += own is not None

    def _is_live(self, waiter: str, now_ms: int) -> bool:
        """Whether its router was certainly among the live ones, so that it may not be passed by."""
        expires_at = self._routers.get(waiter.partition("/")[0])
        if expires_at is None:
            return False
        after, until = int(self._meta.get("reap_after_ms", "0")), int(self._meta.get("reap_until_ms", "0"))
        may_be_gone = after - CLOCK_MARGIN_MS <= now_ms <= until + CLOCK_MARGIN_MS
        return expires_at > now_ms + CLOCK_MARGIN_MS or not may_be_gone

    def _end_script(self, now_ms: int) -> None:
        """Nobody may wait beside room when a script has ended, unless it had given, or looked at, as much as one may.

        Another one goes on then, at the latest a heartbeat. Scripts that need not serve the queue may come between.
        """
        if self._granted >= GRANTS_AT_ONCE:
            self._is_owed = True
        elif self._granted or self._script == "heartbeat":
            self._is_owed = False
        if self._script and self._ready and self._queue and not self._is_owed:
            first = sorted(self._queue, key=lambda one: (self._queue[one], one))[
                : max(0, CHECKED_AT_ONCE - self._removed)
            ]
            for waiter in first:
                if self._is_live(waiter, now_ms):
                    self.wrong.append(f"{self._script}: {waiter} waits beside room at {now_ms}")
                    break
        self._script = ""


GRANTS_AT_ONCE = 16
CHECKED_AT_ONCE = 512
NO_LEASE = "-"
"""The field by which a heartbeat makes a router's leases a hash table."""
