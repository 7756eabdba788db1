"""What the check of the Lua commands finds, and where it says that it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shared_registry.store.lua import LUA_DIR
from tests.tools import lua_lint
from tests.tools.lua_lint import LuacheckMissing, lint

needs_luacheck = pytest.mark.skipif(
    shutil.which("luacheck") is None and os.environ.get("CI") != "true", reason="needs luacheck: see `make check`"
)
LIBRARY = "local function offered(a)\n  return a\nend\nlocal function also_offered()\n  return offered(1)\nend\n"


def write(directory: Path, **files: str) -> Path:
    (directory / "lib").mkdir()
    for name, text in files.items():
        path = directory / f"{name.replace('lib_', 'lib/')}.lua"
        path.write_text(text, encoding="utf-8")
    return directory


def found(directory: Path) -> list[tuple[str, int, str]]:
    return [(one.path.name, one.line, one.code) for one in lint(directory)]


@needs_luacheck
@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        ("local a = 1\nreturn KEYS[b]\n", 1, "W211"),
        ("\nreturn KEYS[b]\n", 2, "W113"),
        ("b = 1\n", 1, "W111"),
        ("return cjson\n", 1, "W113"),
        ("return redis.cal('GET')\n", 1, "W143"),
        ("local a = 1\nif a then\n  local a = 2\n  return a\nend\n", 3, "W421"),
        ("return 1 \n", 1, "W612"),
        (f"return '{'a' * 120}'\n", 1, "W631"),
        ("\nreturn (\n", 2, "E011"),
    ],
)
def test_every_problem_is_found_with_its_line(tmp_path: Path, text: str, line: int, code: str) -> None:
    assert ("a.lua", line, code) in found(write(tmp_path, a=text))


@needs_luacheck
def test_a_problem_after_an_include_has_its_own_line(tmp_path: Path) -> None:
    command = "-- include lib/x.lua\nlocal a = also_offered()\nreturn b\n"
    assert found(write(tmp_path, a=command, lib_x=LIBRARY)) == [("a.lua", 2, "W211"), ("a.lua", 3, "W113")]


@needs_luacheck
def test_an_included_file_may_offer_more_than_one_command_uses(tmp_path: Path) -> None:
    commands = {name: f"-- include lib/x.lua\nreturn {call}\n" for name, call in (("a", "offered(1)"), ("b", "1"))}
    directory = write(tmp_path, lib_x=LIBRARY, **commands)
    assert found(directory) == [("x.lua", 4, "W211")]
    (directory / "b.lua").write_text("-- include lib/x.lua\nreturn also_offered()\n", encoding="utf-8")
    assert found(directory) == []


@needs_luacheck
def test_a_file_that_no_command_includes_is_found(tmp_path: Path) -> None:
    assert found(write(tmp_path, a="return 1\n", lib_x=LIBRARY)) == [("x.lua", 1, "W000")]


@needs_luacheck
def test_a_command_must_not_hide_a_name_that_it_includes(tmp_path: Path) -> None:
    hiding = "-- include lib/x.lua\nif KEYS then\n  local also_offered = 1\n  return also_offered\nend\n"
    hidden = "local a = 1\nif a then\n-- include lib/y.lua\n  return own()\nend\n"
    library = "local function own()\n  local a = 1\n  return a\nend\n"
    assert ("a.lua", 3, "W421") in found(write(tmp_path, a=hiding, b=hidden, lib_x=LIBRARY, lib_y=library))
    assert "y.lua" not in [path for path, _, _ in found(tmp_path)]


def test_without_luacheck_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LuacheckMissing, match="apt-get install lua-check"):
        lint(LUA_DIR)
    assert lua_lint.main() == 1
    assert "luarocks" in capsys.readouterr().err
