"""Runs luacheck on every Lua command as it is sent to Redis: assembled, with its includes. Runs no command.

python -m tests.tools.lua_lint

A finding is shown where it was written. Two things are no findings, since an included file knows nothing of the
commands that include it: that a command does not use all that the file offers, unless no command does; and that the
file has a name of its own which a command gave to something else above it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from shared_registry.store.lua import LUA_DIR, SourceLine, command_names, source_lines

ROOT = Path(__file__).resolve().parents[2]
_FINDING = re.compile(r"(?P<file>.+?):(?P<line>\d+):(?P<column>\d+): \((?P<code>[EW]\d+)\) (?P<text>.+)")
_UNUSED = ("W21", "W22", "W23", "W24")
_EARLIER_LINE = re.compile(r"\bon line (\d+)")
_HOW_TO_INSTALL = (
    "luacheck, which checks the Lua commands, is not installed; install it with `apt-get install lua-check` on Debian "
    "and Ubuntu, `brew install luacheck` on macOS, or `luarocks install luacheck`"
)


class Finding(NamedTuple):
    """What luacheck says of one place."""

    path: Path
    line: int
    column: int
    code: str
    text: str

    def __str__(self) -> str:
        path = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f"{path}:{self.line}:{self.column}: {self.code} {self.text}"


class LuacheckMissing(Exception):
    """There is no luacheck on this machine. The message says how to install it."""


def main() -> int:
    """Print what is wrong, and return the exit status."""
    try:
        findings = lint(LUA_DIR)
    except LuacheckMissing as error:
        print(error, file=sys.stderr)
        return 1
    for finding in findings:
        print(finding, file=sys.stderr)
    print(f"{len(command_names())} Lua commands: {len(findings)} problems")
    return 1 if findings else 0


def lint(directory: Path) -> list[Finding]:
    """Return what is wrong with the commands in a directory, in the order of the files.

    Raises:
        LuacheckMissing: It cannot be run.
    """
    commands = {name: list(source_lines(name, directory)) for name in command_names(directory)}
    if not commands:
        raise FileNotFoundError(f"{directory}: no Lua commands")
    found = _luacheck(commands)
    users = {
        path: {name for name, lines in commands.items() if any(line.path == path for line in lines)}
        for path in directory.rglob("*.lua")
    }
    unused = [Finding(path, 1, 1, "W000", "no command includes this file") for path in users if not users[path]]
    return sorted(
        unused + [one for one, names in found.items() if not one.code.startswith(_UNUSED) or names == users[one.path]]
    )


def _luacheck(commands: Mapping[str, list[SourceLine]]) -> Mapping[Finding, set[str]]:
    """Return every finding, with the commands in which it was found."""
    program = shutil.which("luacheck")
    if program is None:
        raise LuacheckMissing(_HOW_TO_INSTALL)
    with tempfile.TemporaryDirectory() as directory:
        for name, lines in commands.items():
            (Path(directory) / f"{name}.lua").write_text("".join(line.text for line in lines), encoding="utf-8")
        options = ["--config", str(ROOT / ".luacheckrc"), "--formatter", "plain", "--codes", "--no-cache", "--no-color"]
        run = subprocess.run([program, *options, directory], capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1, 2):  # no findings, warnings, errors
        raise RuntimeError(f"luacheck could not run: {run.stdout}{run.stderr}")
    return _by_source(commands, run.stdout.splitlines())


def _by_source(commands: Mapping[str, list[SourceLine]], output: Iterable[str]) -> Mapping[Finding, set[str]]:
    found: dict[Finding, set[str]] = defaultdict(set)
    for text in output:
        match = _FINDING.fullmatch(text)
        if match is None:
            raise RuntimeError(f"luacheck wrote something else than a finding: {text}")
        name, message = Path(match["file"]).stem, match["text"]
        lines = commands[name]
        place = lines[
            min(int(match["line"]), len(lines)) - 1
        ]  # what is missing at the end is said of the line after it
        if earlier := _EARLIER_LINE.search(message):
            other = lines[int(earlier[1]) - 1]
            if other.path != place.path and other.path.stem == name:
                continue
            message = message.replace(earlier[0], f"on line {other.number} of {other.path.name}")
        found[Finding(place.path, place.number, int(match["column"]), match["code"], message)].add(name)
    return found


if __name__ == "__main__":
    sys.exit(main())
