"""The short way of the usual acquire and release does exactly what the long way does, also for several at once."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from shared_registry.model import AdminState
from shared_registry.store.lua import assemble
from tests.support.lease_commands import EXPIRY_SECONDS, ONE, TWO
from tests.support.space import A, Dump, Space, info
from tests.support.space import B as OTHER

pytestmark = pytest.mark.redis
STEPS = 60
URLS = [f"http://127.0.0.{number}:8000" for number in range(1, 8)]


def long_way(name: str) -> str:
    """Return a command without its short way."""
    text, count = re.subn(r"(?ms)^if [^\n]*may_be_usual.*?^end\n", "", assemble(name), count=1)
    assert count == 1
    return text


class Twins:
    """Two namespaces with the same content: one takes the short way where it can, the other one never."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._other = space.keys.prefix.replace("{", "{other-", 1)

    def delete(self) -> None:
        """Delete the other namespace."""
        for key in self.space.raw.scan_iter(match=f"{self._other}*", count=1000):
            self.space.raw.delete(key)

    def copy(self) -> None:
        """Make the other namespace like the first."""
        self.delete()
        for key in self.space.dump():
            assert self.space.raw.copy(key, self._translated(key))

    def run(self, name: str, *args: str) -> list[str]:
        """Run a command in both, and compare replies and contents."""
        meta = self.space.keys.meta
        reply: list[str] = self.space.raw.eval(assemble(name), 1, meta, *args)
        twin = self.space.raw.eval(long_way(name), 1, self._translated(meta), *args)
        if reply[0] == "waiting":  # its sequence is the time
            assert twin[0] == "waiting"
            self.copy()
        else:
            assert twin == reply
            self.compare()
        return reply

    def run_each(self, name: str, router: str, lease_ids: list[str]) -> list[str]:
        """Run a command for several at once, and in the other namespace the one for each of those that it did."""
        meta = self.space.keys.meta
        first, *values = self.space.raw.eval(assemble(f"{name}s"), 1, meta, router, *lease_ids)
        done = lease_ids[: len(values) // 2 if first == "granted" else int(values[0])]
        rest = [] if name == "release_lease" else ["0", "", "1", "0"]
        for at, lease_id in enumerate(done):
            args = [router, lease_id, *(rest or ["0"])]
            reply = self.space.raw.eval(long_way(name), 1, self._translated(meta), *args)
            assert reply == ([first] if name == "release_lease" else [first, *values[2 * at : 2 * at + 2]])
        self.compare()
        return done

    def heartbeat(self, now_ms: int, args: list[str]) -> bool:
        """Send a heartbeat in both at that time. Return whether it took the short way."""
        meta, clock = self.space.keys.meta, f"{{'{now_ms // 1000}', '{now_ms % 1000 * 1000}'}}"
        whole = assemble("heartbeat")
        # The time of Redis itself, which ends a settling, does not stand still.
        lasting = whole.replace("keys.settling, limit_ms", "keys.settling, 1000 * limit_ms")
        assert lasting != whole
        text = lasting.replace("redis.call('TIME')", clock)
        is_short, before = text.replace("return usual\n", "return {'short', unpack(usual)}\n"), self._count_events()
        reply: list[str] = self.space.raw.eval(is_short, 1, meta, *args)
        long = text.replace("local usual = send_usual()", "local usual")
        assert long != text != is_short
        twin = self.space.raw.eval(long, 1, self._translated(meta), *args)
        took_short_way = reply[0] == "short"
        if took_short_way or self._count_events() == before:
            assert twin == reply[took_short_way:]
            if took_short_way:
                self._align()
            self.compare()
        else:  # the ids of events are times
            self.copy()
        return took_short_way

    def _align(self) -> None:
        """Give the other namespace the times of this one's last heartbeat, which a short way may not have noted."""
        raw, meta, names = self.space.raw, self.space.keys.meta, ("heartbeat_at_ms", "reap_until_ms")
        for name in names:
            ours, theirs = raw.hget(meta, name), raw.hget(self._translated(meta), name)
            assert 0 <= int(theirs or 0) - int(ours or 0) < NOTED_MS
            raw.hset(self._translated(meta), name, ours or "")

    def _count_events(self) -> int:
        count: int = self.space.raw.xlen(self.space.keys.events)
        return count

    def compare(self) -> None:
        """Fail unless both have the same content, apart from the times in the inboxes and of the last long way."""
        ours = {self._translated(key): value for key, value in self.space.dump().items() if ":inbox:" not in key}
        theirs: Dump = {}
        for key in sorted(self.space.raw.scan_iter(match=f"{self._other}*", count=1000)):
            if ":inbox:" not in key:
                theirs[key] = self.space._value(key)
        for dump in (ours, theirs):
            meta = dump.get(self._translated(self.space.keys.meta))
            if isinstance(meta, dict):
                meta.pop("checked_at_ms", None)
        assert ours == theirs

    def _translated(self, key: str) -> str:
        return self._other + key.removeprefix(self.space.keys.prefix)


@pytest.fixture
def twins(space: Space) -> Iterator[Twins]:
    twins = Twins(space)
    yield twins
    twins.delete()


async def populate(space: Space, chance: random.Random, *, is_uniform: bool) -> None:
    """Register replicas: all alike, or some of them unhealthy, draining, ramping up or over their capacity."""
    for router in (ONE, TWO):
        await space.store_of(router).heartbeat(info(router), expiry_seconds=EXPIRY_SECONDS)
    tier, capacity = chance.choice((0.0, 0.5, 1.0)), chance.choice((0, 2))
    for url in URLS:
        if is_uniform:
            await space.add(url, primary=tier == 1.0, capacity=capacity)
            await space.make("healthy", url)
            continue
        most, weight = chance.choice((0, 0, 1, 2, 5)), chance.choice((0.1, 1.0, 1.0, 3.0))
        await space.add(url, primary=chance.random() < tier, capacity=most, weight=weight)
        if chance.random() < 0.8:
            await space.make(chance.choice(("healthy", "healthy", "healthy", "unhealthy")), url)
        if chance.random() < 0.15:
            await space.store.set_admin(url, AdminState.DRAINING)
        if chance.random() < 0.3:
            space.raw.hset(space.keys.replica(url), "slow_start_ms", chance.choice((1, 10**9)))


@pytest.mark.parametrize("seed", range(16))
async def test_the_short_way_does_what_the_long_way_does(space: Space, twins: Twins, seed: int) -> None:
    chance, held = random.Random(seed), dict[str, str]()
    await populate(space, chance, is_uniform=seed % 2 == 0)
    twins.copy()
    for step in range(STEPS):
        if chance.random() < 0.1:  # as if a smaller capacity had been registered
            space.raw.hset(space.keys.replica(chance.choice(URLS)), "capacity", chance.choice((0, 1, 3)))
            twins.copy()
        router = chance.choice((ONE, ONE, TWO, "router~gone"))
        new = f"{chance.getrandbits(32):08x}{step:08x}" + chance.choice(("", "", "", ":session", "~healthy"))
        match chance.randrange(8):
            case 0 | 1 | 2:
                excluded = [chance.choice(URLS)] if chance.random() < 0.2 else []
                queue = chance.choice(("0", "0", "3"))
                reply = twins.run("acquire_lease", router, new, queue, "", "1", "0", *excluded)
                if reply[0] in ("granted", "spare", "waiting"):
                    held[new] = router
            case 3 if held:
                lease_id = chance.choice(list(held))
                twins.run("acquire_lease", held[lease_id], lease_id, "0", "", "1", "0")
            case 4 | 5 if held:
                lease_id = chance.choice(list(held))
                twins.run("release_lease", held.pop(lease_id), lease_id, chance.choice(("0", "500000")))
            case 6:
                several = [f"{chance.getrandbits(32):08x}{step:07x}{number}" for number in range(chance.randint(1, 6))]
                done = twins.run_each("acquire_lease", router, several)
                held |= dict.fromkeys(done, router)
            case 7 if held:
                own = [one for one, holder in held.items() if holder == router][: chance.randint(1, 6)]
                for one in twins.run_each("release_lease", router, own) if own else []:
                    del held[one]


async def test_several_at_once_take_the_short_way(space: Space, twins: Twins) -> None:
    """Or the tests above would compare nothing."""
    await space.store.heartbeat(info(ONE), expiry_seconds=EXPIRY_SECONDS)
    await space.add(A, capacity=3)
    await space.make("healthy", A)
    twins.copy()
    ids = [f"{number:08x}" for number in range(5)]
    assert twins.run_each("acquire_lease", ONE, ids) == ids[:3]
    assert twins.run_each("acquire_lease", ONE, ids[:1]) == [], "a lease that is held is not usual"
    assert twins.run_each("release_lease", ONE, ids) == ids[:3]


@pytest.mark.parametrize("command", ["acquire_leases", "release_leases"])
@pytest.mark.parametrize("key", ["meta", "routers", "queue", "ready_primary", "full", "replica", "leases"])
async def test_keys_of_other_types_stop_the_short_way(space: Space, command: str, key: str) -> None:
    for url in (A, OTHER):
        await space.add(url, primary=True, capacity=2)
        await space.make("healthy", url)
    await space.store.heartbeat(info(ONE), expiry_seconds=EXPIRY_SECONDS)
    held = [f"{number:08x}" for number in range(3)]
    for lease_id in held:
        await space.store.acquire(lease_id)
    if command == "release_leases" and key == "routers":
        return  # it does not read them
    keys = {"replica": space.keys.replica(A), "leases": space.keys.leases(ONE)}
    name = keys.get(key) or str(getattr(space.keys, key))
    space.raw.delete(name)
    space.raw.set(name, "a string")
    if key == "replica":
        space.raw.zrem(space.keys.ready_primary, OTHER)
        space.raw.zadd(space.keys.ready_primary, {A: 0})
        held = [one for one in held if space.raw.hget(space.keys.leases(ONE), one) == A]
    before = space.dump()
    ids = held if command == "release_leases" else ["000000ff", "000000fe"]
    reply = space.raw.eval(assemble(command), 1, space.keys.meta, ONE, *ids)
    assert reply == (["granted"] if command == "acquire_leases" else ["released", "0"])
    assert space.dump() == before


async def test_heartbeats_make_many_leases_a_hash_table(space: Space) -> None:
    """Redis searches a small hash from its start for each lease."""
    await space.add(A)
    await space.make("healthy", A)
    await space.store.heartbeat(info(ONE), expiry_seconds=EXPIRY_SECONDS)
    leases = space.keys.leases(ONE)
    held = {f"{number:032x}": A for number in range(100)}
    for lease_id in held:
        await space.store.acquire(lease_id)
    assert space.raw.object("encoding", leases) in ("listpack", "ziplist")
    heartbeat = await space.store.heartbeat(info(ONE), expiry_seconds=EXPIRY_SECONDS)
    assert heartbeat.leases == len(held)
    assert space.raw.object("encoding", leases) == "hashtable"
    assert space.raw.hgetall(leases) == held


BEGUN_MS = 1_800_000_000_000
HISTORY = "1" * 16
NOTED_MS = 100
"""For so long after a heartbeat that noted its time in `meta`, a short one does not, with an expiry of 5 s."""
LEASE_AT = 9
"""Where the reply to a heartbeat has the lease of the leader."""
REVISION_AT, MARK_AT = 2, LEASE_AT + 1
CHECKED_MS = 500
"""For so long after a long heartbeat, a short one looks only at what it reads and writes."""
ODD_META = (
    "heartbeat_at_ms",
    "reap_after_ms",
    "epoch",
    "revision",
    "names_cursor",
    "returns_all",
    "settling",
    "cluster",
)


def said(chance: random.Random, router: str, version: str) -> list[str]:
    """Return the arguments of a heartbeat, a few of which are not what they usually are."""

    def usually(text: str, *others: str) -> str:
        return text if chance.random() < 0.99 else chance.choice(others)

    print_of_probes = usually("p" if router == ONE else "", "q", "")
    known = [usually(HISTORY, "", "2" * 16), usually("", "1-1"), ""]
    words = [router, "5000", HISTORY, "host", "1", "1.0", "5", "", "f", usually("m", "n"), print_of_probes]
    words += [usually(version, "0"), "0", usually("", "no route"), "leader", *known, usually("", "east"), "1", "2", "3"]
    return words + ([] if chance.random() < 0.97 else URLS[:1])


def disturb(space: Space, chance: random.Random, now_ms: int) -> None:
    """Write something that makes the next heartbeats unusual, as if the last look at everything was some time ago."""
    raw, keys = space.raw, space.keys
    raw.hset(keys.meta, "checked_at_ms", now_ms - CHECKED_MS)
    kind = chance.randrange(8)
    if kind == 0:
        raw.hset(keys.meta, chance.choice(ODD_META), chance.choice(("x", "7", "9" * 16, f"{now_ms + 9000}", "1-1")))
    elif kind == 1:
        raw.hdel(keys.meta, *ODD_META)
    elif kind == 2:
        raw.zadd(keys.ejected, {URLS[0]: now_ms + chance.choice((-100, 100_000))})
    elif kind == 3:
        raw.zadd(keys.routers, {chance.choice((ONE, TWO)): now_ms + chance.choice((-1, 99_000))})
    elif kind == 4:
        raw.zadd(keys.probers, {f"p m {chance.choice((ONE, TWO))}": now_ms + 5000})
    elif kind == 5:
        raw.zadd(chance.choice((keys.announced, keys.departing)), {URLS[1]: now_ms + 1})
    elif kind == 6:
        raw.hset(keys.leases(ONE), mapping={f"{number:08x}": URLS[0] for number in range(chance.choice((1, 40)))})
    else:
        raw.hset(keys.router(TWO), chance.choice(("reap_cursor", "trouble", "machine")), "x")


@pytest.mark.parametrize("seed", range(12))
async def test_a_short_heartbeat_does_what_a_long_one_does(space: Space, twins: Twins, seed: int) -> None:
    chance, now_ms, short = random.Random(seed), BEGUN_MS, 0
    twins.copy()
    for step in range(4 * STEPS):
        now_ms += chance.choice((0, 50, 150, 300, 700))
        if step % 80 == 0:
            now_ms += chance.choice((3000, -50))
            space.raw.delete(space.keys.announced, space.keys.departing, space.keys.settling, space.keys.ejected)
            space.raw.hdel(space.keys.meta, *ODD_META)
            twins.copy()
        router = chance.choice((ONE, TWO))
        version = space.raw.hget(space.keys.meta, "probers_version") or "0"
        short += twins.heartbeat(now_ms, said(chance, router, f"{HISTORY}-{version}"))
        if chance.random() < 0.03:
            disturb(space, chance, now_ms)
            twins.copy()
    assert short >= 5


WRONG_TYPES = (
    *("replicas", "removed", "admin_by_name", "probers", "events", "ready_primary", "ready_secondary", "full"),
    *("spare_primary", "spare_secondary", "spare_answered"),
)


def beat_at(space: Space, now_ms: int, expiry_ms: int = 5000) -> list[str]:
    """Send a heartbeat at that time."""
    clock = f"{{'{now_ms // 1000}', '{now_ms % 1000 * 1000}'}}"
    version = f"{HISTORY}-{space.raw.hget(space.keys.meta, 'probers_version') or '0'}"
    words = [
        ONE,
        str(expiry_ms),
        HISTORY,
        "host",
        "1",
        "1.0",
        "5",
        "",
        "f",
        "m",
        "",
        version,
        "0",
        "",
        "leader",
        HISTORY,
    ]
    text = assemble("heartbeat").replace("redis.call('TIME')", clock)
    reply: list[str] = space.raw.eval(text, 1, space.keys.meta, *words, "", "", "", "1", "2", "3")
    return reply


@pytest.mark.parametrize("expiry_ms", [100, 500, 5000])
async def test_heartbeats_in_quick_succession_note_the_time_once(space: Space, expiry_ms: int) -> None:
    """Within a time that is short beside the expiry, after half of which the heartbeats would count as interrupted."""
    for at in range(8):
        begun = BEGUN_MS + at * expiry_ms // 5
        beat_at(space, begun, expiry_ms)
    resumed, noted = space.raw.hget(space.keys.meta, "heartbeats_resumed_at_ms"), []
    within = expiry_ms // 50
    for later in (1, within // 2, within - 1, within, within + 1):
        beat_at(space, begun + later, expiry_ms)
        noted.append(int(space.raw.hget(space.keys.meta, "heartbeat_at_ms") or 0) - begun)
        assert space.raw.zscore(space.keys.routers, ONE) == begun + expiry_ms + later
    assert noted == [0, 0, 0, within, within] if within > 2 else noted[-2:] == [within, within]
    assert space.raw.hget(space.keys.meta, "heartbeats_resumed_at_ms") == resumed
    space.raw.hset(space.keys.meta, "panic_percent", "77")
    beat_at(space, begun + within + 2, expiry_ms)
    assert space.raw.hget(space.keys.meta, "panic_percent") == "0", "which all routers have in common"


async def test_heartbeats_tell_how_long_the_lease_of_the_leader_lasts(space: Space) -> None:
    key, short = space.keys.leader, 0
    for now_ms in range(BEGUN_MS, BEGUN_MS + 8000, 400):
        before = space.raw.hget(space.keys.meta, "checked_at_ms")
        assert beat_at(space, now_ms)[LEASE_AT] == "", "no leader"
        space.raw.hset(key, "router", TWO)
        assert beat_at(space, now_ms + 1)[LEASE_AT] == "", "a lease without an end, which a campaign mends"
        space.raw.pexpire(key, 60_000)
        assert 50_000 < int(beat_at(space, now_ms + 2)[LEASE_AT]) <= 60_000
        space.raw.delete(key)
        short += space.raw.hget(space.keys.meta, "checked_at_ms") == before
    assert 3 <= short < 18, "by the short way and by the long way"


async def test_heartbeats_report_the_last_event_and_its_mark(space: Space) -> None:
    short = 0
    for now_ms in range(BEGUN_MS, BEGUN_MS + 8000, 400):
        before = space.raw.hget(space.keys.meta, "checked_at_ms")
        reply = beat_at(space, now_ms)
        assert reply[REVISION_AT] == space.raw.hget(space.keys.meta, "revision")
        assert reply[MARK_AT].startswith(f"{reply[REVISION_AT]} ")
        assert reply[MARK_AT] == space.raw.hget(space.keys.meta, "mark")
        short += space.raw.hget(space.keys.meta, "checked_at_ms") == before
    assert 1 <= short < 20, "by the short way and by the long way"
    heartbeat, head = await space.store.heartbeat(info(ONE), expiry_seconds=EXPIRY_SECONDS), await space.reader.head()
    assert (heartbeat.revision, heartbeat.mark) == (head.revision, head.mark)


@pytest.mark.parametrize("name", WRONG_TYPES)
async def test_heartbeats_soon_refuse_a_key_of_another_type(space: Space, name: str) -> None:
    for now_ms in (BEGUN_MS, BEGUN_MS + 2000, BEGUN_MS + 4000, BEGUN_MS + 6000):
        assert beat_at(space, now_ms)[0] == "alive"
    key = getattr(space.keys, name)
    space.raw.delete(key)
    space.raw.set(key, "text")
    for later in (1, CHECKED_MS - 1):
        assert beat_at(space, BEGUN_MS + 6000 + later)[0] == "alive"
    before = space.dump()
    for later in (CHECKED_MS, CHECKED_MS + 1):
        assert beat_at(space, BEGUN_MS + 6000 + later)[:2] == ["wrong_type", key]
    assert space.dump() == before


async def test_heartbeats_soon_mend_what_short_ones_pass_over(space: Space) -> None:
    for now_ms in (BEGUN_MS, BEGUN_MS + 2000, BEGUN_MS + 4000, BEGUN_MS + 6000):
        beat_at(space, now_ms)
    space.raw.hset(space.keys.meta, "epoch", "x")
    space.raw.zadd(space.keys.routers, {TWO: BEGUN_MS + 10**9})
    beat_at(space, BEGUN_MS + 6000 + CHECKED_MS)
    assert space.raw.hget(space.keys.meta, "epoch") != "x"
    assert space.raw.zscore(space.keys.routers, TWO) == BEGUN_MS + 6000 + CHECKED_MS + 5000


@pytest.mark.parametrize("field", ["host", "pid", "version", "started_at_ms", "url", "config_fingerprint", "schemas"])
@pytest.mark.parametrize("value", ["wrong", None])
async def test_each_heartbeat_mends_its_routers_record(space: Space, field: str, value: str | None) -> None:
    for now_ms in (BEGUN_MS, BEGUN_MS + 2000, BEGUN_MS + 4000, BEGUN_MS + 6000):
        beat_at(space, now_ms)
    record = space.keys.router(ONE)
    before = space.raw.hgetall(record)
    if value is None:
        space.raw.hdel(record, field)
    else:
        space.raw.hset(record, field, value)
    beat_at(space, BEGUN_MS + 6001)
    assert space.raw.hgetall(record) == before


async def test_a_short_heartbeat_makes_many_leases_a_hash_table(space: Space) -> None:
    for now_ms in (BEGUN_MS, BEGUN_MS + 2000, BEGUN_MS + 4000, BEGUN_MS + 6000):
        beat_at(space, now_ms)
    leases = space.keys.leases(ONE)
    held = {f"{number:08x}": A for number in range(40)}
    space.raw.hset(leases, mapping=held)
    assert beat_at(space, BEGUN_MS + 6001)[4] == str(len(held))
    assert space.raw.object("encoding", leases) == "hashtable"
    assert space.raw.hgetall(leases) == held
