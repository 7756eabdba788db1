"""The namespace gets a newer schema only when no router of an older version lives, or has lived lately."""

from __future__ import annotations

import pytest

from shared_registry.leader.upgrading import QUIET_SECONDS
from shared_registry.model import EventKind
from shared_registry.store.replies import UpgradeOutcome
from tests.support.lease_commands import ONE, TWO
from tests.support.space import Space, info

pytestmark = pytest.mark.redis


@pytest.fixture
async def older(space: Space) -> Space:
    """Return a namespace in the form of an earlier schema, with two routers of this version."""
    for router in (ONE, TWO):
        await space.store_of(router).heartbeat(info(router), expiry_seconds=60)
    space.raw.hset(space.keys.meta, "schema", "1-2")
    return space


@pytest.mark.parametrize("schemas", ["1-1", "0-1", "3-4", "nonsense"])
async def test_a_router_of_another_version_is_in_the_way(older: Space, schemas: str) -> None:
    older.raw.hset(older.keys.router(TWO), "schemas", schemas)
    for is_dry_run in (True, False):
        found = await older.store.upgrade(by="me", is_dry_run=is_dry_run)
        assert (found.outcome, list(found.older), found.before, found.now) == (UpgradeOutcome.OLDER, [TWO], "1-2", "2")
    assert older.raw.hget(older.keys.meta, "schema") == "1-2"


async def test_expired_routers_are_not_in_the_way(older: Space) -> None:
    older.raw.hset(older.keys.router(TWO), "schemas", "1-1")
    older.raw.zadd(older.keys.routers, {TWO: 1})
    assert (await older.store.upgrade(by="me")).outcome is UpgradeOutcome.UPGRADED


async def test_a_router_that_names_no_schemas_knows_the_second(older: Space) -> None:
    older.raw.hdel(older.keys.router(TWO), "schemas")
    assert (await older.store.upgrade(by="me")).outcome is UpgradeOutcome.UPGRADED


async def test_an_upgrade_is_told(older: Space) -> None:
    before = older.dump()
    assert (await older.store.upgrade(by="me", is_dry_run=True)).outcome is UpgradeOutcome.POSSIBLE
    assert older.dump() == before
    done = await older.store.upgrade(by="ann@desk")
    assert (done.outcome, done.before, done.now) == (UpgradeOutcome.UPGRADED, "1-2", "2")
    assert older.raw.hget(older.keys.meta, "schema") == "2"
    event = [event async for event in older.reader.all_events()][-1]
    assert (event.kind, event.by, event.reason) == (EventKind.NAMESPACE_UPGRADED, "ann@desk", "from schema 1-2 to 2")


async def test_a_leader_upgrades_a_day_after_the_last_older_router(older: Space) -> None:
    store, day = older.store, QUIET_SECONDS
    older.raw.hset(older.keys.router(TWO), "schemas", "1-1")
    assert (await store.upgrade(by=ONE, quiet_seconds=day)).outcome is UpgradeOutcome.OLDER
    seen_ms = int(older.raw.hget(older.keys.meta, "older_router_at_ms"))
    older.raw.zrem(older.keys.routers, TWO)
    assert (await store.upgrade(by=ONE, quiet_seconds=day)).outcome is UpgradeOutcome.EARLY
    older.raw.hset(older.keys.meta, "older_router_at_ms", seen_ms - int((day - 60) * 1000))
    assert (await store.upgrade(by=ONE, quiet_seconds=day)).outcome is UpgradeOutcome.EARLY
    older.raw.hset(older.keys.meta, "older_router_at_ms", seen_ms - int(day * 1000))
    assert (await store.upgrade(by=ONE, quiet_seconds=day)).outcome is UpgradeOutcome.UPGRADED
    assert older.raw.hget(older.keys.meta, "older_router_at_ms") is None


async def test_a_clock_set_back_begins_the_day_anew(older: Space) -> None:
    older.raw.hset(older.keys.meta, "older_router_at_ms", 10**14)
    assert (await older.store.upgrade(by=ONE, quiet_seconds=1)).outcome is UpgradeOutcome.EARLY
    assert int(older.raw.hget(older.keys.meta, "older_router_at_ms")) < 10**14


@pytest.mark.parametrize("is_dry_run", [True, False])
async def test_a_newer_programs_schema_is_not_taken_back(space: Space, is_dry_run: bool) -> None:
    space.raw.hset(space.keys.meta, "schema", "2-3")
    found = await space.store.upgrade(by="me", is_dry_run=is_dry_run)
    assert (found.outcome, found.before, found.now) == (UpgradeOutcome.CURRENT, "2-3", "2")
    assert space.raw.hget(space.keys.meta, "schema") == "2-3"
