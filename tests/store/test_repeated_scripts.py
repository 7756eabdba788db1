"""Every command may run twice, as after a lost reply: the second run changes nothing more."""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.model import AdminState, Source
from shared_registry.store.keys import Keys
from shared_registry.store.lua import command_names
from shared_registry.store.replies import Departure, Elected, Held, Resignation, UpgradeOutcome
from tests.support.scenario import ScriptRunner, run_scenario
from tests.support.space import THRESHOLDS, A, Dump, Space, info

COUNTS_TWICE = {"record_outcome"}
"""The exception: the same outcome may rightly happen twice, so it is never repeated."""
GOES_ON = "partial"
"""The answer of one that did as much as one call may; the next call does more of the same."""
MOVES_WITH_TIME = {
    "heartbeat_at_ms",
    "checked_at_ms",
    "reap_after_ms",
    "reap_until_ms",
    "heartbeats_resumed_at_ms",
    "announcements_cut_at_ms",
    "older_router_at_ms",
    "names_cursor",  # each call enters some more names of earlier versions
}


class Twice(ScriptRunner):
    """Runs everything twice and fails where the second run made a difference."""

    def __init__(self, space: Space) -> None:
        super().__init__(space.clients.commands)
        self.space = space
        self.repeated: set[str] = set()

    async def run(self, name: str, text: str, keys: Sequence[str], args: Sequence[str]) -> list[str]:
        reply = await super().run(name, text, keys, args)
        if name not in COUNTS_TWICE and reply[0] != GOES_ON:
            once = timeless(self.space.dump(), self.space.keys)
            await super().run(name, text, keys, args)
            assert timeless(self.space.dump(), self.space.keys) == once, f"{name} {args}"
            self.repeated.add(name)
        return reply


def timeless(dump: Dump, keys: Keys) -> Dump:
    """Leave out what each call moves on: times of day, and how far names of earlier versions are entered."""
    meta = dump.get(keys.meta)
    if isinstance(meta, dict):
        dump[keys.meta] = {field: value for field, value in meta.items() if field not in MOVES_WITH_TIME}
    for key, content in dump.items():
        if key.startswith(keys.replica_prefix) and isinstance(content, dict):
            dump[key] = {field: value for field, value in content.items() if field != "last_heartbeat_at_ms"}
    for key in (keys.routers, keys.probers, keys.announced):
        if isinstance(members := dump.get(key), list):
            dump[key] = {member for member, _ in members}
    return dump


async def test_a_second_run_changes_nothing_whatever_the_state(space: Space) -> None:
    runner = Twice(space)
    await run_scenario(space, runner)
    assert runner.repeated == set(command_names()) - COUNTS_TWICE


async def test_only_an_outcome_counts_twice(space: Space) -> None:
    await space.add()
    await space.store.record_outcome(space.failure(), THRESHOLDS)
    await space.store.record_outcome(space.failure(), THRESHOLDS)
    assert space.fields(A)["consecutive_failures"] == "2"


async def test_a_registration_repeated_after_a_removal_brings_nothing_back(space: Space) -> None:
    await space.add(request="one")
    await space.remove()
    before = space.dump()
    assert await space.add(request="one") == []
    assert space.dump() == before


async def test_an_update_repeated_after_a_removal_brings_nothing_back(space: Space) -> None:
    await space.add(request="one")
    await space.add(request="two", capacity=5)
    await space.remove()
    before = space.dump()
    for request in ("one", "two"):
        assert await space.add(request=request, capacity=5) == []
    assert space.dump() == before


async def test_a_seed_repeated_after_a_removal_brings_nothing_back(space: Space) -> None:
    await space.add(mode=Source.SEED, request="one")
    await space.remove()
    before = space.dump()
    assert await space.add(mode=Source.SEED, request="one") == []
    assert await space.add(mode=Source.SEED) == []
    assert space.dump() == before


async def test_a_removal_repeated_after_a_new_registration_removes_nothing(space: Space) -> None:
    await space.add()
    first = space.incarnation(A)
    await space.remove()
    await space.add()
    before = space.dump()
    assert await space.store.deregister(A, first) is None
    assert space.dump() == before


async def test_a_repeated_candidacy_returns_its_election_or_the_successor(space: Space) -> None:
    epoch = await space.elect("mine")
    assert await space.store.campaign("mine", lease_seconds=60, seen_epoch=0) == Elected(epoch)
    space.raw.delete(space.keys.leader)
    other = space.store_of("router~2")
    assert isinstance(await other.campaign("theirs", lease_seconds=60, seen_epoch=0), Elected)
    before = space.dump()
    assert isinstance(await space.store.campaign("mine", lease_seconds=60, seen_epoch=0), Held)
    assert not await space.store.renew("mine", lease_seconds=60)
    assert await space.store.resign("mine") is Resignation.LOST
    assert space.dump() == before


async def test_a_repeated_upgrade_changes_nothing(space: Space) -> None:
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
    space.raw.hset(space.keys.meta, "schema", "1-2")
    assert (await space.store.upgrade(by="me")).outcome is UpgradeOutcome.UPGRADED
    before = space.dump()
    assert (await space.store.upgrade(by="me")).outcome is UpgradeOutcome.CURRENT
    assert space.dump() == before


async def test_a_late_repeated_deposition_leaves_the_successor_alone(space: Space) -> None:
    epoch = await space.elect("old")
    assert await space.store.step_down(epoch, sit_out_seconds=9, by="me") == "router~1"
    await space.elect("new")
    before = space.dump()
    assert await space.store.step_down(epoch, sit_out_seconds=9, by="me") is None
    assert space.dump() == before


async def test_an_old_batch_repeated_is_a_duplicate(space: Space) -> None:
    await space.add()
    epoch = await space.elect()
    for batch in (1, 2):
        await space.report(epoch, batch, space.failure())
    before = space.dump()
    for batch in (1, 2):
        assert (await space.report(epoch, batch, space.failure())).is_duplicate
    assert space.dump() == before


async def test_a_late_repeated_reaping_leaves_a_returned_router_alone(space: Space) -> None:
    await space.store.heartbeat(info(), expiry_seconds=5)
    space.expire_router("router~1")
    assert await space.store.reap("router~1") is Departure.DONE
    await space.store.heartbeat(info(), expiry_seconds=5)
    before = space.dump()
    assert await space.store.reap("router~1") is Departure.REFUSED
    assert space.dump() == before


async def test_a_repeated_admin_state_is_one_event(space: Space) -> None:
    await space.add()
    assert await space.store.set_admin(A, AdminState.DRAINING, by="me", reason="deploy")
    before = space.dump()
    assert await space.store.set_admin(A, AdminState.DRAINING, by="me", reason="deploy") == []
    assert space.dump() == before
