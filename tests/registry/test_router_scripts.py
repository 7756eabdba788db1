"""Heartbeats, reaping and leaving: the dead go, and neither an outage nor a jump of the clock takes the living."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared_registry.model import EventKind
from shared_registry.store.replies import Departure, Heartbeat
from shared_registry.store.schema import OLDEST_SCHEMA, SCHEMA
from tests.support.space import Space, info

EXPIRY_MS = 60_000
ONE, TWO = "router~1", "router~2"
DONE, REFUSED = Departure.DONE, Departure.REFUSED

pytestmark = pytest.mark.usefixtures("stays_sound")


async def heartbeat(space: Space, router: str = ONE, *, expiry_ms: int = EXPIRY_MS) -> Heartbeat:
    return await space.store_of(router).heartbeat(info(router), expiry_seconds=expiry_ms / 1000)


def expires_in_ms(space: Space, router: str) -> int:
    return int(space.raw.zscore(space.keys.routers, router)) - space.now_ms()


def set_meta(space: Space, **offsets_ms: int) -> None:
    now = space.now_ms()
    space.raw.hset(space.keys.meta, mapping={name: now + offset for name, offset in offsets_ms.items()})


def meta_in_ms(space: Space, name: str) -> int:
    return int(space.raw.hget(space.keys.meta, name)) - space.now_ms()


async def steady(space: Space, *expired: str) -> None:
    """Make a cluster in which ONE has beaten all the time and the others expired a moment ago."""
    for router in (ONE, *expired):
        await heartbeat(space, router)
    for router in expired:
        space.expire_router(router)


async def test_a_router_joins_only_once(space: Space) -> None:
    first = await heartbeat(space)
    again = await heartbeat(space)
    assert (first.joined, again.joined, first.expired) == (True, False, [])
    (event,) = await space.reader.last_events(9)
    assert (event.kind, event.router, event.id) == (EventKind.ROUTER_JOINED, ONE, first.revision)
    assert first.history_id == again.history_id == (await space.reader.head()).history_id
    assert space.raw.hget(space.keys.meta, "schema") == "2"


async def test_a_router_is_described_for_operators(space: Space) -> None:
    await heartbeat(space)
    assert space.raw.hgetall(space.keys.router(ONE)) == {
        "host": "host",
        "pid": "1",
        "version": "0.1",
        "started_at_ms": "1700000000500",
        "url": "http://router",
        "config_fingerprint": "fingerprint",
        "expiry_ms": str(EXPIRY_MS),
        "machine": "",
        "probe_print": "",
        "probing": "",
        "view_age_ms": "",
        "probe_age_ms": "",
        "probe_lag_ms": "",
        "schemas": f"{OLDEST_SCHEMA}-{SCHEMA}",
    }
    assert EXPIRY_MS - 5_000 < expires_in_ms(space, ONE) <= EXPIRY_MS


async def test_trouble_of_a_router_is_told_once(space: Space) -> None:
    async def heartbeat_with(trouble: str) -> None:
        await space.store.heartbeat(replace(info(ONE), trouble=trouble), expiry_seconds=EXPIRY_MS / 1000)

    for trouble in ("", "too many open files", "too many open files; no route", "", ""):
        await heartbeat_with(trouble)
        assert space.raw.hget(space.keys.router(ONE), "trouble") == (trouble or None)
    assert space.event_kinds() == ["router_joined", "router_in_trouble", "router_recovered"]
    (began,) = [each for each in await space.reader.last_events(9) if each.kind is EventKind.ROUTER_IN_TROUBLE]
    assert (began.router, began.reason) == (ONE, "too many open files")


async def test_a_heartbeat_returns_the_revision_without_creating_one(space: Space) -> None:
    await heartbeat(space)
    (event,) = await space.add()
    assert (await heartbeat(space)).revision == event.id
    assert (await heartbeat(space)).revision == event.id


async def test_at_most_16_expired_routers_are_offered_for_reaping(space: Space) -> None:
    await steady(space, TWO)
    await heartbeat(space, "router~3")
    assert (await heartbeat(space)).expired == [TWO]
    many = {f"dead~{n:02}": n for n in range(20)}
    space.raw.zadd(space.keys.routers, many)
    assert (await heartbeat(space)).expired == sorted(many)[:16]


async def test_an_expired_router_is_reaped_with_its_record(space: Space) -> None:
    await steady(space, TWO)
    assert await space.store.reap(TWO) is DONE
    assert space.raw.zrange(space.keys.routers, 0, -1) == [ONE]
    assert not space.raw.exists(space.keys.router(TWO))
    (event,) = await space.reader.last_events(1)
    assert (event.kind, event.router, event.by) == (EventKind.ROUTER_EXPIRED, TWO, ONE)
    before = space.dump()
    assert await space.store.reap(TWO) is REFUSED
    assert space.dump() == before


async def test_a_router_that_is_back_in_time_is_not_reaped(space: Space) -> None:
    await steady(space, TWO)
    assert (await heartbeat(space)).expired == [TWO]
    assert not (await heartbeat(space, TWO)).joined
    before = space.dump()
    assert await space.store.reap(TWO) is REFUSED
    assert space.dump() == before


async def test_a_reaped_router_joins_again(space: Space) -> None:
    await steady(space, TWO)
    await space.store.reap(TWO)
    assert (await heartbeat(space, TWO)).joined
    assert space.event_kinds() == ["router_joined", "router_joined", "router_expired", "router_joined"]


async def test_a_live_or_unknown_router_is_not_reaped(space: Space) -> None:
    await steady(space)
    before = space.dump()
    assert await space.store.reap(ONE) is REFUSED
    assert await space.store.reap("router~9") is REFUSED
    assert space.dump() == before


LAST_BEATS_MS = {
    "no beat was ever kept": None,
    "the last heartbeat is older than half an expiry": -EXPIRY_MS // 2 - 1000,
    "the last heartbeat is long ago": -(10**9),
    "the clock was set back": 10**7,
}


@pytest.mark.parametrize("last_heartbeat_ms", LAST_BEATS_MS.values(), ids=LAST_BEATS_MS)
async def test_no_router_is_reaped_soon_after_an_outage(space: Space, last_heartbeat_ms: int | None) -> None:
    """Within one expiry."""
    await steady(space, TWO)
    if last_heartbeat_ms is None:
        space.raw.hdel(space.keys.meta, "heartbeat_at_ms")
    else:
        set_meta(space, heartbeat_at_ms=last_heartbeat_ms)
    assert (await heartbeat(space)).expired == []
    assert EXPIRY_MS - 5_000 < meta_in_ms(space, "reap_after_ms") <= EXPIRY_MS
    before = space.dump()
    assert await space.store.reap(TWO) is REFUSED
    assert space.dump() == before
    assert (await heartbeat(space)).expired == []
    set_meta(space, reap_after_ms=-1)
    assert (await heartbeat(space)).expired == [TWO]
    assert await space.store.reap(TWO) is DONE


async def test_a_timely_heartbeat_does_not_delay_reaping(space: Space) -> None:
    await steady(space, TWO)
    set_meta(space, heartbeat_at_ms=-EXPIRY_MS // 2 + 5_000)
    assert (await heartbeat(space)).expired == [TWO]


async def test_without_a_reaping_time_no_router_is_reaped(space: Space) -> None:
    await steady(space, TWO)
    space.raw.hdel(space.keys.meta, "reap_after_ms")
    assert await space.store.reap(TWO) is REFUSED


async def test_a_wrong_clock_does_not_delay_reaping_for_long(space: Space) -> None:
    await steady(space, TWO)
    set_meta(space, reap_after_ms=10**9)
    await heartbeat(space)
    assert EXPIRY_MS - 5_000 < meta_in_ms(space, "reap_after_ms") <= EXPIRY_MS


async def test_a_far_expiry_is_reduced_to_the_routers_own(space: Space) -> None:
    await heartbeat(space)
    await heartbeat(space, TWO, expiry_ms=20_000)
    await heartbeat(space, "router~3", expiry_ms=90_000)
    now = space.now_ms()
    space.raw.zadd(space.keys.routers, {TWO: now + 10**9, "router~4": now + 10**9})
    await heartbeat(space)
    assert 15_000 < expires_in_ms(space, TWO) <= 20_000
    assert 85_000 < expires_in_ms(space, "router~3") <= 90_000  # it asked for more than the one that beats
    assert EXPIRY_MS - 5_000 < expires_in_ms(space, "router~4") <= EXPIRY_MS  # it has no record of its own


async def test_ones_own_far_expiry_is_reduced(space: Space) -> None:
    await heartbeat(space)
    space.raw.zadd(space.keys.routers, {ONE: space.now_ms() + 10**9})
    assert not (await heartbeat(space)).joined
    assert expires_in_ms(space, ONE) <= EXPIRY_MS


async def test_leaving_removes_only_the_router_itself_and_only_once(space: Space) -> None:
    await heartbeat(space)
    await heartbeat(space, TWO)
    assert await space.store.leave() is DONE
    assert space.raw.zrange(space.keys.routers, 0, -1) == [TWO]
    assert not space.raw.exists(space.keys.router(ONE))
    (event,) = await space.reader.last_events(1)
    assert (event.kind, event.router) == (EventKind.ROUTER_LEFT, ONE)
    before = space.dump()
    assert await space.store.leave() is REFUSED
    assert space.dump() == before


async def test_a_heartbeat_after_total_loss_begins_a_history(space: Space) -> None:
    first = await heartbeat(space)
    space.raw.delete(*space.dump())
    second = await heartbeat(space)
    assert (second.joined, second.expired) == (True, [])
    assert second.history_id != first.history_id


@pytest.mark.parametrize("value", ["a string", ""])
async def test_a_damaged_record_stops_no_other_routers_heartbeat(space: Space, value: str) -> None:
    await space.store.heartbeat(info("router~1"), expiry_seconds=5)
    record = space.keys.router("router~2")
    if value:
        space.raw.set(record, value)
    else:
        space.raw.hset(record, "expiry_ms", "soon")
    space.raw.zadd(space.keys.routers, {"router~2": space.now_ms() + 10**9})
    await space.store.heartbeat(info("router~1"), expiry_seconds=5)
    assert space.raw.zscore(space.keys.routers, "router~2") <= space.now_ms() + 5000
    space.raw.delete(record)
    space.raw.zrem(space.keys.routers, "router~2")
