"""The simulated server does what a real one does, in every call of the scenario of all commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from shared_registry.embedded import EmbeddedServer
from tests.support.effort import takes_long
from tests.support.scenario import ScriptRunner, run_scenario
from tests.support.simulation.keyspace import NEED_MEMORY, NEED_NO_MEMORY, Keyspace, ReplyError, id_of
from tests.support.simulation.lua_runner import LuaRunner
from tests.support.space import Space

SCANS = {"HSCAN", "ZSCAN"}
MS_APART = 30_000  # between the two servers a loaded machine may pass some time
"""How much later a slow machine may let the simulated server look at a time to live."""


class OnBoth(ScriptRunner):
    """Executes each call of a command on a real server and on a simulated one that has the same data."""

    def __init__(self, space: Space, raw: Redis) -> None:
        super().__init__(space.clients.commands)
        self._prefix = space.keys.prefix
        self._raw: Any = raw
        self._raw.response_callbacks.clear()  # replies as they are
        self._now_ms = 0.0
        self._keyspace = Keyspace(lambda: self._now_ms)
        self._lua = LuaRunner()
        self._lua.work_on(self)
        self.executed: set[str] = set()

    async def run(self, name: str, text: str, keys: Sequence[str], args: Sequence[str]) -> list[str]:
        self._copy()
        reply: list[str] = self._lua.run(self._lua.load(text), keys, args)
        return reply

    def execute(self, name: str, *words: str) -> Any:
        """Execute a call on both, and compare."""
        self.executed.add(name)
        try:
            real = self._raw.execute_command(name, *words)
        except ResponseError as error:
            real = error
        if name == "TIME":
            self._now_ms = int(real[0]) * 1000 + int(real[1]) / 1000
        elif name == "XADD":
            self._now_ms = id_of(real)[0]
        try:
            own = self._keyspace.execute(name, *words)
        except ReplyError as error:
            assert isinstance(real, ResponseError), (name, words, real)
            assert str(error).split()[0] in ("WRONGTYPE", "ERR")
            raise
        if name in SCANS:  # a real server returns many entries in pages
            assert pairs(real[1]).items() <= pairs(own[1]).items(), (name, words)
            return real
        if name == "PTTL":
            assert abs(real - own) < MS_APART, (name, words, real, own)
        else:
            assert comparable(name, real) == comparable(name, own), (name, words)
        return own

    def _copy(self) -> None:
        """Copy all data from the real server, whose clock goes on."""
        seconds, microseconds = self._raw.execute_command("TIME")
        self._now_ms = int(seconds) * 1000 + int(microseconds) / 1000
        self._keyspace.replace(Keyspace(lambda: self._now_ms).copied())
        keys = self._raw.execute_command("KEYS", f"{self._prefix}*")
        types = self._replies(("TYPE", key) for key in keys)
        values = self._replies(reading(kind, key) for kind, key in zip(types, keys, strict=True))
        ends = self._replies(("PTTL", key) for key in keys)
        for key, kind, value, ms in zip(keys, types, values, ends, strict=True):
            put(self._keyspace, key, kind, value)
            if ms > 0:
                self._keyspace.do_pexpire(key, str(ms))

    def _replies(self, calls: Iterable[Sequence[Any]]) -> list[Any]:
        with self._raw.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.execute_command(*call)
            replies: list[Any] = pipeline.execute()
            return replies


def reading(kind: str, key: str) -> Sequence[Any]:
    """Return the call that reads a whole key."""
    return {
        "hash": ("HGETALL", key),
        "set": ("SMEMBERS", key),
        "zset": ("ZRANGE", key, 0, -1, "WITHSCORES"),
        "string": ("GET", key),
        "stream": ("XRANGE", key, "-", "+"),
    }[kind]


def put(keyspace: Keyspace, key: str, kind: str, value: Any) -> None:
    """Make a key of what was read."""
    match kind:
        case "hash":
            keyspace.do_hset(key, *value)
        case "set":
            keyspace.do_sadd(key, *value)
        case "zset":
            keyspace.do_zadd(key, *(word for pair in zip(value[1::2], value[::2], strict=True) for word in pair))
        case "string":
            keyspace.do_set(key, value)
        case "stream":
            keyspace.put_entries(key, value)


def comparable(name: str, reply: Any) -> Any:
    if name in ("HVALS", "SMEMBERS"):
        return sorted(reply)
    if name == "HGETALL":
        return pairs(reply)
    return [number(word) for word in reply] if isinstance(reply, list) else number(reply)


def pairs(words: list[str]) -> dict[str, Any]:
    return dict(zip(words[::2], map(number, words[1::2]), strict=True))


def number(word: Any) -> Any:
    """Versions of the server write fractions differently."""
    try:
        return float(word)
    except (TypeError, ValueError):
        return word


@takes_long
async def test_it_answers_as_a_real_server_does(space: Space, server: EmbeddedServer) -> None:
    with Redis.from_url(server.url, decode_responses=True, protocol=2) as raw:
        runner = OnBoth(space, raw)
        await run_scenario(space, runner)
    used = {name.removeprefix("do_").upper() for name in dir(Keyspace) if name.startswith("do_")}
    assert used - runner.executed <= {"SCAN", "SMEMBERS", "TYPE", "XRANGE"}, "only the reads of Python are left"


def test_it_refuses_the_writes_that_a_real_one_refuses(server: EmbeddedServer) -> None:
    names = {name.removeprefix("do_").upper() for name in dir(Keyspace) if name.startswith("do_")}
    with Redis.from_url(server.url, decode_responses=True, protocol=2) as raw:
        raw.response_callbacks.clear()
        flags = {name: set(raw.execute_command("COMMAND", "INFO", name)[0][2]) for name in names}
    assert {name for name in names if "write" in flags[name]} == NEED_MEMORY | NEED_NO_MEMORY
    assert {name for name in names if "denyoom" in flags[name]} == NEED_MEMORY
