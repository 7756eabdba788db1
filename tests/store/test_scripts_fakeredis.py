"""The commands answer on fakeredis as on a real server (test_repeated_scripts.py runs the same scenario there)."""

from __future__ import annotations

from shared_registry.admin.check import find_violations
from tests.support.scenario import ScriptRunner, run_scenario
from tests.support.space import on_fake


async def test_every_command_gives_the_same_answers_on_fakeredis() -> None:
    async with on_fake() as space:
        await run_scenario(space, ScriptRunner(space.clients.commands))
        assert await find_violations(space.reader, space.keys) == []


async def test_the_store_works_on_fakeredis_by_digest() -> None:
    async with on_fake() as space:
        await space.add()
        assert await space.add() == []
        await space.make("healthy")
        assert space.ready() == (set(), {"http://10.0.0.1:8000"}, set())
        assert space.event_kinds() == ["replica_registered", "replica_healthy"]
