"""Runs the package's Lua commands in this process: each is compiled once, and works on a `Keyspace`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lupa import lua51

from shared_registry.store.lua import Script
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

MOST_ARGUMENTS = 200
"""Of a Lua function; longer lists are made into tables in the slower way."""


class Executes(Protocol):
    """What commands are executed on: a `Keyspace`, or what stands for one."""

    def execute(self, name: str, *words: str) -> Any:
        """Execute a Redis command."""


class LuaRunner:
    """A Lua of its own, for any number of servers in turn.

    Attributes:
        known: The digests that the server knows. A server that starts anew knows none.
    """

    def __init__(self) -> None:
        self._lua = lua51.LuaRuntime(unpack_returned_tuples=True)
        self._table_of = self._lua.eval("function(...) return {...} end")
        self._words_of = self._lua.eval("function(list) return #list, unpack(list) end")
        self._execute: Callable[..., Any]
        self._compile = self._lua.eval(f"function(...) {_SANDBOX} end")(self._call, self._pcall)
        self._chunks: dict[str, Any] = {}
        self._digests: dict[str, str] = {}
        self.known: set[str] = set()

    def work_on(self, keyspace: Executes) -> None:
        """Let the commands work on that from now on."""
        self._execute = keyspace.execute

    def collect(self) -> None:
        """Free what the commands no longer use. Errors are among it, and with them whole simulations."""
        self._lua.globals().collectgarbage()

    def load_script(self, script: Script) -> str:
        """Make a command of the package known by its digest, and return that."""
        if script.digest in self._chunks:
            self.known.add(script.digest)
            return script.digest
        return self.load(script.text)

    def load(self, text: str) -> str:
        """Make a command known by its digest, and return that."""
        digest = self._digests.get(text)
        if digest is None:
            digest = self._digests[text] = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
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
            return self._reply(self._chunks[digest](self._table(*keys), self._table(*args)))
        except lua51.LuaError as error:
            raise ReplyError(f"ERR {error}") from error

    def _call(self, name: str, *words: Any) -> Any:
        for word in words:
            if type(word) is not str:
                words = tuple(map(_text, words))
                break
        value = self._execute(name, *words)
        kind = type(value)
        return value if kind is str or kind is int else self._given(value)

    def _pcall(self, name: str, *words: Any) -> Any:
        try:
            return self._call(name, *words)
        except ReplyError as error:
            return self._lua.table_from({"err": str(error)})

    def _table(self, *words: Any) -> Any:
        return self._table_of(*words) if len(words) <= MOST_ARGUMENTS else self._lua.table_from(words)

    def _given(self, value: Any) -> Any:
        """Return what Lua gets for a reply."""
        if value is None:
            return False
        kind = type(value)
        if kind is str or kind is int:
            return value
        if kind is list:
            return self._table(
                *[one if type(one) is str else False if one is None else self._given(one) for one in value]
            )
        return self._lua.table_from({"ok": value}) if kind is Status else str(value)

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
        found = self._words_of(value)
        words = found[1:] if type(found) is tuple else ()
        if not words and (error := value["err"]) is not None:
            raise ReplyError(error)
        if None in words:
            words = words[: words.index(None)]
        return [word if type(word) is str else self._reply(word) for word in words]


def _text(word: Any) -> str:
    if type(word) is str:
        return word
    return f"{word:.17g}" if isinstance(word, float) else str(word)
