"""Runs pages as a reader does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support import own_network
from tests.support.page_commands import build_wheel, make_environment, run_script

SECONDS = 150.0
"""For a page that starts some ten programs, on a machine that does much else; its test has `timeout(180)`."""
RunScript = Callable[[str], "CompletedProcess[str]"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def run_as_reader(tmp_path: Path, wheel: Path, redis_binary: Path) -> RunScript:
    """Run a script in an empty folder, with this package not yet installed, and ports that nobody else has."""
    if not own_network.is_possible():
        pytest.skip("needs unshare, ip, and the right to use them")
    variables = make_environment(tmp_path / "environment", wheel, redis_binary)
    folder = tmp_path / "folder"
    folder.mkdir()
    return lambda script: run_script(script, folder, variables, SECONDS)
