"""Compiles every Lua file with Lua 5.1, as Redis does: raw, and assembled with its includes. Runs nothing.

python -m tests.tools.lua_syntax
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from lupa import lua51

from shared_registry.store.lua import LUA_DIR, assemble, command_names

_INCLUDE = re.compile(r"^\s*--+\s*include\b", re.MULTILINE)


def main() -> int:
    """Print what is wrong, and return the exit status."""
    lua = lua51.LuaRuntime()
    problems = list(_find_problems(lua))
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(_files())} Lua files, {len(command_names())} commands: {len(problems)} problems")
    return 1 if problems else 0


def _find_problems(lua: lua51.LuaRuntime) -> Iterator[str]:
    if not _files():
        yield f"{LUA_DIR}: no Lua files"
    for path in _files():
        try:
            lua.compile(path.read_text(encoding="utf-8"))
        except lua51.LuaSyntaxError as error:
            yield f"{path}: {error}"
    for name in command_names():
        text = assemble(name)
        if _INCLUDE.search(text):
            yield f"{name}, assembled: an include was not resolved"
        try:
            lua.compile(text)
        except lua51.LuaSyntaxError as error:
            yield f"{name}, assembled: {error}"


def _files() -> list[Path]:
    return sorted(LUA_DIR.rglob("*.lua"))


if __name__ == "__main__":
    sys.exit(main())
