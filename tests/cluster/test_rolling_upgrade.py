"""Two versions of the package, of two schemas, run side by side: a roll-out, a roll-back, and then the upgrade."""

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

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.store.lua import LUA_DIR
from shared_registry.store.schema import SCHEMA
from tests.support.lease_cluster import PATIENCE
from tests.support.replica_server import ReplicaServer
from tests.support.space import Space
from tests.support.until import until

PROGRAM = Path(__file__).parents[1] / "support" / "placing_program.py"
PACKAGE = Path(__file__).parents[2] / "shared_registry"
NEWER = str(int(SCHEMA) + 1)


@pytest.fixture
def newer_version(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package that knows one schema more."""
    package = tmp_path / "newer" / "shared_registry"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "lua"))
    shutil.copytree(LUA_DIR, package / "lua")
    for name, pattern in (
        ("lua/lib/schema.lua", r"(?m)^local SCHEMA = '\d+'"),
        ("store/schema.py", r'(?m)^SCHEMA = "\d+"'),
    ):
        path = package / name
        text, count = re.subn(pattern, lambda found: re.sub(r"\d+", NEWER, found[0]), path.read_text())
        assert count == 1
        path.write_text(text)
    return package.parent


class Version:
    """One version of the package, whose programs are run."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(folder)}
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


@pytest.mark.timeout(180)
async def test_versions_run_side_by_side_until_the_upgrade(
    server: EmbeddedServer, space: Space, namespace: str, newer_version: Path
) -> None:
    settings = {
        "redis_url": server.url,
        "namespace": namespace,
        "lease_seconds": 1.5,
        "renew_interval_seconds": 0.5,
        "heartbeat_seconds": 0.5,
        "router_expiry_seconds": 3.0,
        "recovery_threshold": 1,
        "health_check_interval_seconds": 0.5,
    }
    older, newer = Version(PACKAGE.parent, settings), Version(newer_version, settings)

    def schema() -> str | None:
        found: str | None = space.raw.hget(space.keys.meta, "schema")
        return found

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await space.add((await stack.enter_async_context(ReplicaServer())).url(), capacity=4)
        async with older.router() as last:
            async with older.router():
                pass
            async with newer.router() as first:  # the roll-out begins
                assert schema() == SCHEMA
                assert space.raw.hget(space.keys.router(first.key), "schemas") == f"{SCHEMA}-{NEWER}"
                code, said = await newer.upgrade()
                assert (code, said["outcome"], said["older_routers"]) == (1, "older", [last.key])
            async with older.router():  # and back
                assert schema() == SCHEMA
            await stack.enter_async_context(newer.router())  # and forth
        await until(lambda: not space.raw.exists(space.keys.router(last.key)), seconds=PATIENCE)
        code, said = await newer.upgrade("--dry-run")
        assert (code, said["outcome"], schema()) == (0, "possible", SCHEMA)
        code, said = await newer.upgrade()
        assert (code, said["outcome"], said["schema"]) == (0, "upgraded", {"before": SCHEMA, "now": NEWER})
        assert schema() == NEWER
        assert f"schema {NEWER}, " in (refusal := await older.refusal())
        assert "a newer version has upgraded it" in refusal
        async with newer.router():  # places sessions beside the one that has lived through the upgrade
            assert (await newer.upgrade())[1]["outcome"] == "current"
