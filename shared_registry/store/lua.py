"""The Lua commands on disk, and how their includes are resolved.

An installed wheel carries them in the package; a checkout, or an editable install of one, reads the working copy.
"""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
LUA_DIR = _PACKAGE / "lua" if (_PACKAGE / "lua").is_dir() else _PACKAGE.parent / "lua"
_INCLUDE = re.compile(r"^-- include (lib/[a-z_]+\.lua)\n", re.MULTILINE)


def command_names(directory: Path = LUA_DIR) -> list[str]:
    """Return the names of all commands, sorted."""
    return sorted(path.stem for path in directory.glob("*.lua"))


def assemble(name: str, directory: Path = LUA_DIR) -> str:
    """Return a command's text with each file that it includes, directly or not, put in once.

    Raises:
        FileNotFoundError: The command, or a file that it includes, is not there.
    """
    included: set[str] = set()

    def resolve(path: Path) -> str:
        def replacement(match: re.Match[str]) -> str:
            target = match[1]
            if target in included:
                return ""
            included.add(target)
            return resolve(directory / target)

        return _INCLUDE.sub(replacement, path.read_text(encoding="utf-8"))

    return resolve(directory / f"{name}.lua")
