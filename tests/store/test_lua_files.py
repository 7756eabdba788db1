"""How commands are found, and put together with what they include."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from lupa import lua51

from shared_registry.store.channel import scripts
from shared_registry.store.lua import LUA_DIR, Script, assemble, command_names


def write(directory: Path, **files: str) -> None:
    (directory / "lib").mkdir(exist_ok=True)
    for name, text in files.items():
        path = (
            directory / "lib" / f"{name.removeprefix('lib_')}.lua"
            if name.startswith("lib_")
            else directory / f"{name}.lua"
        )
        path.write_text(text, encoding="utf-8")


def test_the_commands_are_the_sorted_top_level_files(tmp_path: Path) -> None:
    write(tmp_path, b="", a="", lib_c="")
    (tmp_path / "notes.txt").touch()
    assert command_names(tmp_path) == ["a", "b"]


def test_an_include_is_inserted_at_its_position(tmp_path: Path) -> None:
    write(tmp_path, a="one\n-- include lib/x.lua\nthree\n", lib_x="two\n")
    assert assemble("a", tmp_path) == "one\ntwo\nthree\n"


def test_every_file_is_inserted_once_at_its_first_include(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="-- include lib/x.lua\n-- include lib/y.lua\n-- include lib/x.lua\na\n",
        lib_x="-- include lib/z.lua\nx\n",
        lib_y="-- include lib/z.lua\n-- include lib/x.lua\ny\n",
        lib_z="z\n",
    )
    assert assemble("a", tmp_path) == "z\nx\ny\na\n"


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    write(tmp_path, a="-- include lib/x.lua\na\n", lib_x="-- include lib/y.lua\nx\n", lib_y="-- include lib/x.lua\ny\n")
    assert assemble("a", tmp_path) == "y\nx\na\n"


def test_only_a_whole_line_is_an_include(tmp_path: Path) -> None:
    text = (
        " -- include lib/x.lua\nlocal a = 1 -- include lib/x.lua\n-- include other/x.lua\n-- include lib/x.lua indeed\n"
    )
    write(tmp_path, a=text, lib_x="x\n")
    assert assemble("a", tmp_path) == text


@pytest.mark.parametrize("text", ["-- include lib/missing.lua\n", None])
def test_a_missing_include_is_an_error_that_names_it(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        write(tmp_path, a=text)
    with pytest.raises(FileNotFoundError, match=r"missing\.lua|a\.lua"):
        assemble("a", tmp_path)


@pytest.mark.parametrize("name", command_names())
def test_every_command_of_the_package_compiles(name: str) -> None:
    """As Lua 5.1: luacheck also accepts the syntax of later versions, which Redis does not."""
    text = assemble(name)
    lua51.LuaRuntime().compile(text)
    assert not re.search(r"^\s*-- include", text, re.MULTILINE)


@pytest.mark.parametrize("name", command_names())
def test_a_script_has_the_text_of_its_command(name: str) -> None:
    assert scripts()[name] == Script.of(assemble(name))
    assert scripts()[name].text == assemble(name)
    assert scripts()[name].digest == hashlib.sha1(assemble(name).encode()).hexdigest()


def test_what_several_commands_include_is_in_memory_once() -> None:
    one, other = Script.of("a\n\nlong\n\nb\n"), Script.of("long\n\n\nc")
    assert (one.text, other.text) == ("a\n\nlong\n\nb\n", "long\n\n\nc")
    assert one.paragraphs[1] is other.paragraphs[0]


@pytest.mark.parametrize("path", sorted(LUA_DIR.rglob("*.lua")), ids=lambda path: path.name)
def test_every_file_is_plain_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.replace("…", "").isascii()
    assert text.endswith("\n")
    assert "\t" not in text
    assert "\r" not in text
