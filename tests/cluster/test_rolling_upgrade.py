"""Two versions of the package, of two schemas, run side by side: a roll-out, a roll-back, and then the upgrade."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.store.schema import SCHEMA
from tests.support.lease_cluster import PATIENCE
from tests.support.replica_server import ReplicaServer
from tests.support.space import Space
from tests.support.until import until
from tests.support.versions import PACKAGE, Version, changed_package

NEWER = str(int(SCHEMA) + 1)


@pytest.fixture
def newer_version(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package that knows one schema more."""
    return changed_package(
        tmp_path / "newer",
        ("lua/lib/schema.lua", r"(?m)^local SCHEMA = '\d+'", f"local SCHEMA = '{NEWER}'"),
        ("store/schema.py", r'(?m)^SCHEMA = "\d+"', f'SCHEMA = "{NEWER}"'),
    )


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
        "router_expiry_seconds": 30.0,  # all of them leave by themselves
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
