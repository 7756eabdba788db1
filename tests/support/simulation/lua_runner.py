"""Runs the package's Lua commands in this process: each is compiled once, and works on a `Keyspace`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from lupa import lua51

from tests.support.simulation.keyspace import ReplyError, Status

_SANDBOX = """
local keyspace_call, keyspace_pcall = ...
local env = {
  redis = {call = keyspace_call, pcall = keyspace_pcall}, string = string, table = table, math = math,
  ipairs = ipairs, pairs = pairs, tonumber = tonumber, tostring = tostring, type = type, unpack = unpack, error = error,
}
setmetatable(env, {
  __index = function(_, name) error('uses the global ' .. tostring(name)) end,
  __newindex = function(_, name) error('writes the global ' .. tostring(name)) end,
})
rawset(env, 'KEYS', {})
rawset(env, 'ARGV', {})
return function(text)
  local chunk = assert(loadstring(text))
  setfenv(chunk, env)
  return function(keys, args)
    env.KEYS, env.ARGV = keys, args
    return chunk()
  end
end
"""


class Executes(Protocol):
    """What commands are executed on: a `Keyspace`, or what stands for one."""

    def execute(self, name: str, *words: str) -> Any:
        """Execute a Redis command."""


class LuaRunner:
    """A Lua of its own, for any number of servers in turn.

    Attributes:
        keyspace: What the commands work on.
        known: The digests that the server knows. A server that starts anew knows none.
    """

    keyspace: Executes

    def __init__(self) -> None:
        self._lua = lua51.LuaRuntime(unpack_returned_tuples=True)
        self._table = self._lua.table_from
        self._compile = self._lua.eval(f"function(...) {_SANDBOX} end")(self._call, self._pcall)
        self._chunks: dict[str, Any] = {}
        self.known: set[str] = set()

    def load(self, text: str) -> str:
        """Make a command known by its digest, and return that."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        if digest not in self._chunks:
            self._chunks[digest] = self._compile(text)
        self.known.add(digest)
        return digest

    def run(self, digest: str, keys: Sequence[str], args: Sequence[str]) -> Any:
        """Run a command.

        Raises:
            ReplyError: It is not known, or failed.
        """
        if digest not in self.known:
            raise ReplyError("NOSCRIPT No matching script. Please use EVAL.")
        try:
            return self._reply(self._chunks[digest](self._table(keys), self._table(args)))
        except lua51.LuaError as error:
            raise ReplyError(f"ERR {error}") from error

    def _call(self, name: str, *words: Any) -> Any:
        return self._given(self.keyspace.execute(name, *map(_text, words)))

    def _pcall(self, name: str, *words: Any) -> Any:
        try:
            return self._call(name, *words)
        except ReplyError as error:
            return self._table({"err": str(error)})

    def _given(self, value: Any) -> Any:
        """Return what Lua gets for a reply."""
        if value is None:
            return False
        if isinstance(value, Status):
            return self._table({"ok": str(value)})
        if isinstance(value, list):
            return self._table([self._given(one) for one in value])
        return value

    def _reply(self, value: Any) -> Any:
        """Return what a client gets for a result."""
        if isinstance(value, str):
            return value
        if value is True:
            return 1
        if value is None or value is False:
            return None
        if isinstance(value, int | float):
            return int(value)
        words = []
        for at in range(1, len(value) + 1):
            if (word := value[at]) is None:
                break
            words.append(word if type(word) is str else self._reply(word))
        return words


def _text(word: Any) -> str:
    if type(word) is str:
        return word
    return f"{word:.17g}" if isinstance(word, float) else str(word)
