"""Other versions of the package, made from this one, and router processes that run them side by side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from shared_registry.store.lua import LUA_DIR
from tests.support.lease_cluster import PATIENCE

PROGRAM = Path(__file__).parent / "placing_program.py"
PACKAGE = Path(__file__).parents[2] / "shared_registry"


def changed_package(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """Make a folder with a copy of the package.

    Args:
        folder: The folder, for PYTHONPATH.
        changes: A file, a pattern that matches once in it, and what replaces the match.
    """
    package = folder / "shared_registry"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "lua"))
    shutil.copytree(LUA_DIR, package / "lua")
    for name, pattern, by in changes:
        path = package / name
        text, count = re.subn(pattern, by, path.read_text())
        assert count == 1, (name, pattern)
        path.write_text(text)
    return folder


class Version:
    """One version of the package, whose programs are run."""

    def __init__(self, folder: Path, settings: dict[str, Any], **environment: str) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
        self._folder = folder
        self._settings = settings

    @contextlib.asynccontextmanager
    async def router(self) -> AsyncIterator[Router]:
        """Run a router from its first placement on; it must not fail to place a session."""
        process = await self._run(str(PROGRAM), json.dumps(self._settings))
        router = Router(process)
        try:
            await router.begin()
            yield router
            await router.end()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def refusal(self) -> str:
        """Run a router that is refused; return what it says."""
        process = await self._run(str(PROGRAM), json.dumps(self._settings))
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
        return errors.decode()

    async def upgrade(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Run `shared-registry upgrade`."""
        where = ("--redis", self._settings["redis_url"], "--namespace", self._settings["namespace"], "--json")
        process = await self._run("-m", "shared_registry", *where, "upgrade", *options)
        output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert output, errors.decode()
        assert process.returncode is not None
        return process.returncode, json.loads(output)

    async def _run(self, *words: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, *words, env=self._environment, cwd=self._folder, stdout=pipe, stderr=pipe
        )


class Router:
    """A router process."""

    key = ""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begin(self) -> None:
        """Wait for its first placement."""
        self.key = (await self._line())["router"]

    async def end(self) -> None:
        """Stop it. It must have placed sessions all the time."""
        self._process.terminate()
        said = await self._line()
        assert said["failures"] == []
        assert said["placed"] > 0
        assert await asyncio.wait_for(self._process.wait(), PATIENCE) == 0

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
        assert line, (await self._process.stderr.read()).decode()
        said: dict[str, Any] = json.loads(line)
        return said
