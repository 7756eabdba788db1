"""Lua in this process keeps nothing of a simulation that is over."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from tests.support.simulation.keyspace import Keyspace, ReplyError
from tests.support.simulation.lua_runner import LuaRunner


class Refusing:
    """A server that refuses every command."""

    def execute(self, name: str, *words: str) -> Any:
        raise ReplyError("ERR refused")


def test_collecting_lets_go_of_servers_that_have_refused() -> None:
    lua, refusing = LuaRunner(), Refusing()
    seen = weakref.ref(refusing)
    digest = lua.load("redis.pcall('GET', 'key') return redis.call('GET', 'key')")
    lua.work_on(refusing)
    for _ in range(3):
        with pytest.raises(ReplyError):
            lua.run(digest, [], [])
    lua.work_on(Keyspace(lambda: 0.0))
    lua.run(lua.load("return redis.call('GET', 'key')"), [], [])
    del refusing
    lua.collect()
    gc.collect()
    assert seen() is None
