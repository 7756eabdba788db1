"""Programs and packages that nobody here wrote: found, or the test is skipped; in CI they must be there."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from typing import Any, NoReturn

import pytest


def find_program(name: str, package: str = "") -> str:
    """Return where a program of the system is, which a Debian package brings."""
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    return program or missing(f"needs {name}: apt-get install {package or name}")


def find_module(name: str, package: str = "") -> Any:
    """Return a module of the extra `foreign`, which a package of PyPI brings. Also for a whole test module."""
    if importlib.util.find_spec(name) is None:
        missing(f"needs {name}: pip install {package or name}")
    return importlib.import_module(name)


def missing(why: str) -> NoReturn:
    """Skip the test, or the whole test module; in CI fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why, allow_module_level=True)
