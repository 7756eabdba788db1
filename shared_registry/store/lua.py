"""Reads the Lua commands from disk and resolves their includes.

An installed wheel contains them in the package. A checkout, or an editable install of one, reads the working copy.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).resolve().parents[1]
LUA_DIR = _PACKAGE / "lua" if (_PACKAGE / "lua").is_dir() else _PACKAGE.parent / "lua"
_INCLUDE = re.compile(r"^-- include (lib/[a-z_]+\.lua)\n", re.MULTILINE)
_EMPTY_LINE = "\n\n"
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Script(NamedTuple):
    """A command's text and its digest.

    Attributes:
        paragraphs: The text between empty lines. Most paragraphs come from included files; each is in memory once.
        digest: The digest by which Redis knows the text.
    """

    paragraphs: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, text: str) -> Script:
        """Return the script with a text."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        return cls(tuple(sys.intern(paragraph) for paragraph in text.split(_EMPTY_LINE)), digest)

    @property
    def text(self) -> str:
        """The text. It is rarely needed: only a server that does not know the command receives it."""
        return _EMPTY_LINE.join(self.paragraphs)


class SourceLine(NamedTuple):
    """One line of an assembled command, with the file and the line number from which it comes."""

    path: Path
    number: int
    text: str


def command_names(directory: Path = LUA_DIR) -> list[str]:
    """Return the names of all commands, sorted."""
    return sorted(path.stem for path in directory.glob("*.lua"))


def assemble(name: str, directory: Path = LUA_DIR) -> str:
    """Return a command's text. Each file that it includes, directly or indirectly, is inserted once.

    Raises:
        FileNotFoundError: The command, or a file that it includes, does not exist.
    """
    return _assemble_with(_read, name, directory)


def assemble_all(directory: Path = LUA_DIR) -> dict[str, str]:
    """Return the texts of all commands by name. Each file is read once."""
    read = functools.cache(_read)
    return {name: _assemble_with(read, name, directory) for name in command_names(directory)}


def source_lines(name: str, directory: Path = LUA_DIR) -> Iterator[SourceLine]:
    """Return the lines of an assembled command, each with its origin.

    Raises:
        FileNotFoundError: See `assemble`.
    """
    included: set[str] = set()

    def resolve(path: Path) -> Iterator[SourceLine]:
        for number, text in enumerate(_LINE.findall(path.read_text(encoding="utf-8")), 1):
            include = _INCLUDE.fullmatch(text)
            if include is None:
                yield SourceLine(path, number, text)
            elif include[1] not in included:
                included.add(include[1])
                yield from resolve(directory / include[1])

    return resolve(directory / f"{name}.lua")


def _assemble_with(read: Callable[[Path], str], name: str, directory: Path) -> str:
    included: set[str] = set()

    def resolve(include: re.Match[str]) -> str:
        if include[1] in included:
            return ""
        included.add(include[1])
        return _INCLUDE.sub(resolve, read(directory / include[1]))

    return _INCLUDE.sub(resolve, read(directory / f"{name}.lua"))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
