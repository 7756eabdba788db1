"""What is installed finds the Lua commands: from a wheel, from an sdist, and editable from a checkout.

Each flavour goes into an empty virtual environment that borrows the dependencies, and nothing else, from the one that
runs the tests: a path that a .pth file adds is not searched for .pth files, so an editable install there stays out.
"""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT_FROM = (".gitignore", "LICENSE", "README.md", "lua", "pyproject.toml", "shared_registry")
DESCRIBE = """
import json, shared_registry
from shared_registry.store.lua import LUA_DIR
files = {path.relative_to(LUA_DIR).as_posix(): path.read_text() for path in LUA_DIR.rglob("*.lua")}
print(json.dumps({"package": shared_registry.__path__[0], "lua": str(LUA_DIR), "files": files}))
"""


@dataclass(frozen=True)
class Installed:
    """What an environment's own interpreter says of the package in it."""

    package: Path
    lua: Path
    files: dict[str, str]


class Environment:
    """A virtual environment with the dependencies and, once installed, the package."""

    def __init__(self, home: Path) -> None:
        venv.create(home, with_pip=False, symlinks=True)
        self.home = home
        self.python = str(home / "bin" / "python")
        [self.site_packages] = home.glob("lib/python*/site-packages")
        borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.site_packages / "borrowed.pth").write_text("\n".join(borrowed))

    def install(self, *what: str | Path) -> None:
        """Install a wheel, an sdist or a directory, without downloading anything."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        # --ignore-installed: the borrowed path shows pip an installation that is not this environment's.
        offline = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed"]
        run([*pip, *offline, *map(str, what)], cwd=self.home)

    def describe(self) -> Installed:
        """Ask the installed package, from a directory that has no copy of it."""
        told = json.loads(run([self.python, "-c", DESCRIBE], cwd=self.home))
        return Installed(package=Path(told["package"]), lua=Path(told["lua"]), files=told["files"])


def run(command: list[str], cwd: Path) -> str:
    """Run a command, away from this environment's settings, and return its output."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lua_files(directory: Path) -> dict[str, str]:
    return {path.relative_to(directory).as_posix(): path.read_text() for path in directory.rglob("*.lua")}


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from, safe to change."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build("wheel", checkout)


@pytest.fixture(scope="module")
def sdist(checkout: Path) -> Path:
    return build("sdist", checkout)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


@pytest.fixture(scope="module")
def with_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which the wheel is installed."""
    environment = Environment(tmp_path_factory.mktemp("with_wheel") / "environment")
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def with_checkout(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which the checkout is installed, editable."""
    environment = Environment(tmp_path_factory.mktemp("with_checkout") / "environment")
    environment.install("--editable", checkout)
    return environment


def build(target: str, checkout: Path) -> Path:
    directory = checkout.with_name(f"{checkout.name}-{target}")
    run([sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(directory)], cwd=checkout)
    [built] = directory.iterdir()
    return built


def test_lua_commands_and_their_library_are_found() -> None:
    names = lua_files(ROOT / "lua")
    assert any("/" not in name for name in names)
    assert any(name.startswith("lib/") for name in names)


def test_an_installed_wheel_has_its_lua_inside(with_wheel: Environment) -> None:
    installed = with_wheel.describe()
    assert installed.package == with_wheel.site_packages / "shared_registry"
    assert installed.lua == installed.package / "lua"
    assert installed.files == lua_files(ROOT / "lua")


def test_an_installed_sdist_has_its_lua_inside(sdist: Path, environment: Environment) -> None:
    environment.install(sdist)
    installed = environment.describe()
    assert installed.lua == environment.site_packages / "shared_registry" / "lua"
    assert installed.files == lua_files(ROOT / "lua")


def test_a_wheel_built_from_the_sdist_equals_the_checkouts(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # an argument only from 3.11.4 on
        archive.extractall(tmp_path)
    [unpacked] = tmp_path.iterdir()
    assert lua_files(unpacked / "lua") == lua_files(ROOT / "lua")
    assert members(build("wheel", unpacked)) == members(wheel)


def test_an_editable_install_reads_the_working_copy(checkout: Path, with_checkout: Environment) -> None:
    installed = with_checkout.describe()
    assert installed.package == checkout / "shared_registry"
    assert installed.lua == checkout / "lua"
    assert installed.files == lua_files(ROOT / "lua")

    (checkout / "lua" / "added.lua").write_text("return 'new'\n")
    try:
        assert with_checkout.describe().files["added.lua"] == "return 'new'\n"
    finally:
        (checkout / "lua" / "added.lua").unlink()


def test_an_editable_install_leaves_no_copy_of_lua_behind(with_checkout: Environment) -> None:
    copied = [path for path in with_checkout.site_packages.rglob("*") if path.suffix in {".lua", ".py"}]
    assert copied == []
    assert not (with_checkout.site_packages / "shared_registry").exists()


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel: Path) -> None:
    names = members(wheel)
    assert {name.partition("/")[0] for name in names} == {"shared_registry", f"{wheel.name.split('-py3')[0]}.dist-info"}
    assert "shared_registry/py.typed" in names
    assert not any(name.endswith((".pyc", ".orig")) for name in names)


def test_the_metadata_names_version_licence_and_command(wheel: Path, with_wheel: Environment) -> None:
    files = {name.rpartition("/")[2]: data for name, data in members(wheel).items() if ".dist-info/" in name}
    metadata = email.message_from_bytes(files["METADATA"])
    assert metadata["Name"] == "shared-registry"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert b"Apache License" in files["LICENSE"]
    assert files["entry_points.txt"].decode() == "[console_scripts]\nshared-registry = shared_registry.__main__:main\n"

    assert (with_wheel.home / "bin" / "shared-registry").exists()
    version = [with_wheel.python, "-c", "from shared_registry._version import __version__; print(__version__)"]
    assert run(version, cwd=with_wheel.home).strip() == metadata["Version"]
