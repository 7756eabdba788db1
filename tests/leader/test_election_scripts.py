"""Campaign, renew, resign: one winner per epoch, and epochs that only rise."""

from __future__ import annotations

import asyncio

import pytest

from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.model import EventKind
from shared_registry.store.replies import Elected, Held, Resignation
from tests.support.space import Space, info
from tests.support.until import until

LEASE_MS = 60_000
LONGEST_LEASE_SECONDS = 3600

pytestmark = pytest.mark.usefixtures("stays_sound")


async def campaign(space: Space, token: str, *, router: str = "router~1", seen_epoch: int = 0) -> Elected | Held:
    return await space.store_of(router).campaign(token, lease_seconds=LEASE_MS / 1000, seen_epoch=seen_epoch)


async def epoch_of(space: Space, token: str, *, seen_epoch: int = 0) -> int:
    answer = await campaign(space, token, seen_epoch=seen_epoch)
    assert isinstance(answer, Elected)
    return answer.epoch


def depose(space: Space) -> None:
    """Let the lease end now."""
    space.raw.delete(space.keys.leader)


async def test_the_winner_is_stored_for_the_duration_of_the_lease(space: Space) -> None:
    before = space.now_ms()
    epoch = await epoch_of(space, "token")
    leader = space.raw.hgetall(space.keys.leader)
    assert before <= epoch <= space.now_ms()
    assert int(leader.pop("elected_at_ms")) == epoch
    assert leader == {
        "router": "router~1",
        "token": "token",
        "epoch": str(epoch),
        "batch": "0",
        "lease_ms": str(LEASE_MS),
    }
    assert LEASE_MS - 5_000 < space.raw.pttl(space.keys.leader) <= LEASE_MS
    (event,) = await space.reader.last_events(9)
    assert (event.kind, event.router, event.epoch) == (EventKind.LEADER_ELECTED, "router~1", epoch)


async def test_a_heartbeat_tells_how_long_the_lease_lasts(space: Space) -> None:
    assert (await space.store.heartbeat(info("router~1"), expiry_seconds=5)).leader_lease_seconds is None
    await epoch_of(space, "token")
    told = (await space.store.heartbeat(info("router~1"), expiry_seconds=5)).leader_lease_seconds
    assert told is not None
    assert LEASE_MS / 1000 - 5 < told <= LEASE_MS / 1000
    depose(space)
    assert (await space.store.heartbeat(info("router~1"), expiry_seconds=5)).leader_lease_seconds is None


async def test_the_first_candidacy_begins_the_history(space: Space) -> None:
    await epoch_of(space, "token")
    meta = space.raw.hgetall(space.keys.meta)
    assert (meta["schema"], len(meta["history_id"])) == ("2", 16)
    depose(space)
    await epoch_of(space, "token")
    assert space.raw.hget(space.keys.meta, "history_id") == meta["history_id"]


async def test_one_of_many_candidates_wins_and_the_others_learn_which(space: Space) -> None:
    answers = await asyncio.gather(*(campaign(space, f"token {n}", router=f"router~{n}") for n in range(50)))
    (winner,) = [answer for answer in answers if isinstance(answer, Elected)]
    held = [answer for answer in answers if isinstance(answer, Held)]
    leader = await space.reader.leader()
    assert leader is not None
    assert (len(held), {answer.leader for answer in held}) == (49, {leader})
    assert leader.epoch == winner.epoch
    assert all(LEASE_MS / 1000 - 5 < answer.remaining_seconds <= LEASE_MS / 1000 for answer in held)
    assert space.event_kinds() == ["leader_elected"]


async def test_no_epoch_has_two_winners_over_many_elections(space: Space) -> None:
    epochs: list[int] = []
    for round_number in range(20):
        tokens = [f"{round_number} {n}" for n in range(5)]
        answers = await asyncio.gather(*(campaign(space, token) for token in tokens))
        epochs += [answer.epoch for answer in answers if isinstance(answer, Elected)]
        depose(space)
    assert len(epochs) == 20
    assert epochs == sorted(set(epochs))


async def test_the_epoch_rises_although_the_clock_is_behind(space: Space) -> None:
    ahead = space.now_ms() + 10**9
    space.raw.hset(space.keys.meta, "epoch", ahead)
    assert await epoch_of(space, "one") == ahead + 1
    depose(space)
    assert await epoch_of(space, "two") == ahead + 2


async def test_the_epoch_exceeds_the_candidates_last_although_meta_is_lost(space: Space) -> None:
    ahead = space.now_ms() + 10**9
    assert await epoch_of(space, "one", seen_epoch=ahead) == ahead + 1
    space.raw.delete(*space.dump())
    assert await epoch_of(space, "two", seen_epoch=ahead + 1) == ahead + 2
    depose(space)
    assert await epoch_of(space, "three", seen_epoch=5) == ahead + 3


async def test_the_epoch_is_at_least_the_clock_after_total_loss(space: Space) -> None:
    """No candidate has seen an epoch before either."""
    first = await epoch_of(space, "one")
    space.raw.delete(*space.dump())
    await until(lambda: space.now_ms() > first)
    assert await epoch_of(space, "two") > first


async def test_large_epochs_keep_every_digit(space: Space) -> None:
    assert await epoch_of(space, "one", seen_epoch=2**53 - 2) == 2**53 - 1
    assert (await space.reader.head()).epoch == 2**53 - 1


async def test_a_repeated_candidacy_is_elected_again_with_a_full_lease(space: Space) -> None:
    epoch = await epoch_of(space, "mine")
    space.raw.pexpire(space.keys.leader, 5_000)
    assert await campaign(space, "mine") == Elected(epoch)
    assert space.raw.pttl(space.keys.leader) > 5_000
    assert space.event_kinds() == ["leader_elected"]


async def test_a_candidacy_repeated_after_its_lease_gets_a_new_epoch(space: Space) -> None:
    epoch = await epoch_of(space, "mine")
    depose(space)
    assert await epoch_of(space, "mine") > epoch


async def test_the_lease_expires_by_itself(space: Space) -> None:
    answer = await space.store.campaign("brief", lease_seconds=0.05, seen_epoch=0)
    assert isinstance(answer, Elected)
    await until(lambda: not space.raw.exists(space.keys.leader))
    assert not await space.store.renew("brief", lease_seconds=60)
    assert await epoch_of(space, "next") > answer.epoch


@pytest.mark.parametrize("ttl_ms", [None, 10**12])
async def test_a_leader_without_expiry_is_given_one_lease(space: Space, ttl_ms: int | None) -> None:
    await epoch_of(space, "mine")
    if ttl_ms is None:
        space.raw.persist(space.keys.leader)
    else:
        space.raw.pexpire(space.keys.leader, ttl_ms)
    answer = await campaign(space, "other")
    assert isinstance(answer, Held)
    assert answer.remaining_seconds == LEASE_MS / 1000
    assert 0 < space.raw.pttl(space.keys.leader) <= LEASE_MS


@pytest.mark.parametrize("candidates_seconds", [0.1, 3.0, 3600.0])
async def test_a_candidates_own_lease_never_shortens_the_leaders(space: Space, candidates_seconds: float) -> None:
    await epoch_of(space, "mine")
    candidate = space.store_of("router~2")
    answer = await candidate.campaign("other", lease_seconds=candidates_seconds, seen_epoch=0)
    assert isinstance(answer, Held)
    assert LEASE_MS / 1000 - 5 < answer.remaining_seconds <= LEASE_MS / 1000
    assert LEASE_MS - 5_000 < space.raw.pttl(space.keys.leader) <= LEASE_MS
    space.raw.pexpire(space.keys.leader, 10**9)  # as if the clock was set back by days
    answer = await candidate.campaign("other", lease_seconds=candidates_seconds, seen_epoch=0)
    assert isinstance(answer, Held)
    assert answer.remaining_seconds == LEASE_MS / 1000
    assert LEASE_MS - 5_000 < space.raw.pttl(space.keys.leader) <= LEASE_MS


@pytest.mark.parametrize("candidates_seconds", [0.1, 3.0, 3600.0])
@pytest.mark.parametrize("noted", [None, "text"])
async def test_a_lease_of_unknown_length_is_not_shortened(
    space: Space, noted: str | None, candidates_seconds: float
) -> None:
    """An earlier version did not say for how long its leader asked."""
    await epoch_of(space, "mine")
    space.raw.hdel(space.keys.leader, "lease_ms")
    if noted:
        space.raw.hset(space.keys.leader, "lease_ms", noted)
    candidate = space.store_of("router~2")
    answer = await candidate.campaign("other", lease_seconds=candidates_seconds, seen_epoch=0)
    assert isinstance(answer, Held)
    assert LEASE_MS / 1000 - 5 < answer.remaining_seconds <= LEASE_MS / 1000
    assert LEASE_MS - 5_000 < space.raw.pttl(space.keys.leader) <= LEASE_MS
    space.raw.pexpire(space.keys.leader, 10**9)  # as if the clock was set back by days
    answer = await candidate.campaign("other", lease_seconds=candidates_seconds, seen_epoch=0)
    assert isinstance(answer, Held)
    assert answer.remaining_seconds == LONGEST_LEASE_SECONDS


def test_no_setting_allows_a_longer_lease() -> None:
    RouterConfig(lease_seconds=LONGEST_LEASE_SECONDS)
    with pytest.raises(ConfigError):
        RouterConfig(lease_seconds=LONGEST_LEASE_SECONDS + 1)


async def test_renewing_extends_only_ones_own_lease(space: Space) -> None:
    await epoch_of(space, "mine")
    space.raw.pexpire(space.keys.leader, 5_000)
    before = space.dump()
    assert not await space.store.renew("other", lease_seconds=60)
    assert space.raw.pttl(space.keys.leader) <= 5_000
    assert await space.store.renew("mine", lease_seconds=60)
    assert space.raw.pttl(space.keys.leader) > 5_000
    assert space.dump() == before


async def test_renewing_never_makes_a_leader(space: Space) -> None:
    assert not await space.store.renew("mine", lease_seconds=60)
    assert space.dump() == {}


async def test_resigning_ends_only_ones_own_lease_and_is_announced(space: Space) -> None:
    epoch = await epoch_of(space, "mine")
    before = space.dump()
    assert await space.store.resign("other") is Resignation.LOST
    assert space.dump() == before
    assert await space.store_of("router~9").resign("mine") is Resignation.RESIGNED
    assert not space.raw.exists(space.keys.leader)
    _, event = await space.reader.last_events(9)
    assert (event.kind, event.router, event.epoch) == (EventKind.LEADER_RESIGNED, "router~1", epoch)
    assert await space.store.resign("mine") is Resignation.LOST


async def test_deposing_ends_the_lease_of_that_epoch_and_names_it(space: Space) -> None:
    """The reply names the router whose lease it was."""
    epoch = await epoch_of(space, "mine")
    before = space.dump()
    for other in (epoch - 1, epoch + 1, 0):
        assert await space.store.step_down(other, sit_out_seconds=9) is None
    assert space.dump() == before
    operator = space.store_of("operator")
    assert await operator.step_down(epoch, sit_out_seconds=4.5, by="ann@desk", reason="upgrade") == "router~1"
    assert not space.raw.exists(space.keys.leader)
    _, event = await space.reader.last_events(9)
    assert (event.kind, event.router, event.epoch) == (EventKind.LEADER_RESIGNED, "router~1", epoch)
    assert (event.by, event.reason, event.sit_out_seconds) == ("ann@desk", "upgrade", 4.5)
    assert not await space.store.renew("mine", lease_seconds=60)
    assert await epoch_of(space, "next") > epoch


async def test_a_resignation_asks_nobody_to_sit_out(space: Space) -> None:
    await epoch_of(space, "mine")
    await space.store.resign("mine")
    assert (await space.reader.last_events(1))[0].sit_out_seconds is None


async def test_a_leader_hash_without_a_token_is_no_leader(space: Space) -> None:
    space.raw.hset(space.keys.leader, "router", "someone")
    assert await space.store.resign("") is Resignation.LOST
    assert not await space.store.renew("", lease_seconds=60)
    await epoch_of(space, "mine")
    assert space.raw.hget(space.keys.leader, "router") == "router~1"
