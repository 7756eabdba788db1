"""Runs commands in a Lua of its own on a fake server, stricter than Redis, and keeps what they did.

A command finds only what every supported server gives it, and neither a global that it did not get nor a way to make
one: no cjson, no bit, no os, no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lupa import lua51
from redis.exceptions import ResponseError

from tests.support.scenario import ScriptRunner

_RUN = """
function(text, keys, args, call, pcall)
  local allowed = {
    KEYS = keys, ARGV = args, redis = {call = call, pcall = pcall}, string = string,
    table = table, ipairs = ipairs, pairs = pairs, tonumber = tonumber, tostring = tostring, type = type,
    unpack = unpack, error = error,
    math = {floor = math.floor, huge = math.huge, max = math.max, min = math.min},
  }
  local function refuse(_, name)
    error('uses the global ' .. tostring(name))
  end
  local chunk = assert(loadstring(text))
  setfenv(chunk, setmetatable({}, {__index = function(_, name) return allowed[name] or refuse(_, name) end,
    __newindex = refuse}))
  return chunk()
end
"""

WRITES = {
    "DEL",
    "HDEL",
    "HINCRBY",
    "HSET",
    "HSETNX",
    "PERSIST",
    "PEXPIRE",
    "SADD",
    "SET",
    "SREM",
    "UNLINK",
    "XADD",
    "XTRIM",
    "ZADD",
    "ZREM",
    "ZREMRANGEBYSCORE",
}
READS = {
    "EXISTS",
    "GET",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HLEN",
    "HMGET",
    "HSCAN",
    "HVALS",
    "PTTL",
    "SCARD",
    "SISMEMBER",
    "STRLEN",
    "TIME",
    "TYPE",
    "XLEN",
    "XREVRANGE",
    "ZCARD",
    "ZCOUNT",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZRANK",
    "ZREVRANGE",
    "ZSCAN",
    "ZSCORE",
}


@dataclass
class Run:
    """One execution of a command: what it was given, and the Redis commands that it called, in order."""

    name: str
    keys: Sequence[str]
    args: Sequence[str]
    calls: list[tuple[str, str]] = field(default_factory=list)  # Redis command, first argument

    def touched(self) -> set[str]:
        return {key for command, key in self.calls if command != "TIME"}

    def written(self) -> set[str]:
        return {key for command, key in self.calls if command in WRITES}


class Sandbox(ScriptRunner):
    """Takes the place of a client in front of a fake server."""

    def __init__(self, fake: Any) -> None:
        fake.response_callbacks.clear()  # commands get what the server answers, not what redis-py makes of it
        super().__init__(fake)
        self.runs: list[Run] = []

    async def run(self, name: str, text: str, keys: Sequence[str], args: Sequence[str]) -> list[str]:
        lua = lua51.LuaRuntime(unpack_returned_tuples=True)
        run = Run(name, keys, args)
        self.runs.append(run)

        def call(command: str, *words: Any) -> Any:
            assert command in WRITES | READS, f"{command} is not among the commands that the registry uses"
            assert not [word for word in words if isinstance(word, float)], f"{command} got a float: {words}"
            run.calls.append((command, str(words[0]) if words else ""))
            reply = self.client.execute_command(command, *words)
            if command == "TYPE":
                return lua.table_from({"ok": reply})
            if isinstance(reply, list):
                return lua.table_from([False if value is None else value for value in reply], recursive=True)
            return False if reply is None else reply

        def pcall(command: str, *words: Any) -> Any:
            try:
                return call(command, *words)
            except ResponseError as error:
                return lua.table_from({"err": str(error)})

        reply = lua.eval(_RUN)(text, lua.table_from(keys), lua.table_from(args), call, pcall)
        values = [reply[at] for at in range(1, len(reply) + 1)]
        assert all(isinstance(value, str) for value in values), f"{name} answered with more than text: {values}"
        return values
