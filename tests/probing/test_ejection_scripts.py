"""Ejections, as the scripts decide them: what counts, the limits, how long, and what ends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared_registry.admin.check import find_violations
from shared_registry.admin.repair import repair
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import (
    AdminState,
    ConnectedSessions,
    EjectionLimits,
    Event,
    EventKind,
    ProbeResult,
    Source,
    Term,
    Thresholds,
)
from shared_registry.store.codec import restored_entry
from shared_registry.store.replies import Denied, Grant, Heartbeat, Queued
from tests.support.space import A, B, C, D, E, Space, info, on_server

INTERVAL = 5.0
LIMITS = Thresholds(failure=3, recovery=2, interval_seconds=INTERVAL, timeout_seconds=2.0)
BASE = 30.0
EJECTION = EjectionLimits(max_percent=50.0, base_seconds=BASE, failures=5)
ONE, TWO, THREE = "router~1", "router~2", "router~3"
REPLICAS = (A, B, C, D)


class Ejecting:
    """A leader and two more routers that probe, each on a machine of its own, and four healthy replicas."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.epoch = 0
        self.batch = 0

    async def begin(self) -> None:
        for router in (ONE, TWO, THREE):
            await self.heartbeat(router)
        meta, now = self.space.keys.meta, self.space.now_ms()
        steady = {"reap_after_ms": now - 1, "heartbeats_resumed_at_ms": now - 10**6, "reap_until_ms": now + 10**6}
        self.space.raw.hset(meta, mapping=steady)
        self.epoch = await self.space.elect()
        for url in REPLICAS:
            await self.space.add(url, capacity=1)
        await self.probe(*(self.space.success(url) for url in REPLICAS))
        assert self.ready() == set(REPLICAS)

    async def heartbeat(self, router: str = ONE, *, machine: str = "", panic_percent: float = 0.0) -> Heartbeat:
        described = replace(info(router), machine=machine or f"of-{router}", probe_print="same")
        return await self.space.store_of(router).heartbeat(described, expiry_seconds=60, panic_percent=panic_percent)

    async def probe(self, *results: ProbeResult) -> None:
        self.batch += 1
        await self.space.store.report(Term(self.epoch, "token"), self.batch, results, LIMITS)

    async def unreached(
        self,
        router: str,
        url: str = A,
        *,
        ago: float | None = 0.0,
        limits: EjectionLimits = EJECTION,
        interval: float = INTERVAL,
    ) -> list[Event]:
        """Let a session of a router fail to connect; a probe of that router has reached the replica since, or not."""
        thresholds = replace(LIMITS, interval_seconds=interval)
        return await self.space.store_of(router).record_outcome(
            self.space.failure(url), thresholds, by="proxy", is_passive=True, failed_ago_seconds=ago, ejection=limits
        )

    async def broken(self, router: str, client: str, count: int = 1, url: str = A) -> list[Event]:
        """Let connected sessions of a router fail."""
        return await self.outcome(router, self.space.failure(url, "HTTP 500"), ConnectedSessions(count, client))

    async def completed(self, router: str, url: str = A) -> list[Event]:
        return await self.outcome(router, self.space.success(url), ConnectedSessions(0))

    async def outcome(
        self,
        router: str,
        result: ProbeResult,
        sessions: ConnectedSessions | None = None,
        limits: EjectionLimits = EJECTION,
    ) -> list[Event]:
        return await self.space.store_of(router).record_outcome(
            result, LIMITS, by="proxy", is_passive=True, sessions=sessions, ejection=limits
        )

    def shift(self, seconds: float, *names: str, url: str = A) -> None:
        """Move times of a replica, where it has them."""
        fields = self.state(url)
        for name in names:
            if name in fields:
                self.space.raw.hset(self.space.keys.replica(url), name, int(fields[name]) + int(seconds * 1000))

    def let_a_second_pass(self, url: str = A) -> None:
        self.shift(-1.0, "reported_at_ms", "announced_at_ms", "sessions_failing_since_ms", url=url)

    async def eject(self, url: str = A) -> list[Event]:
        """Eject a replica by sessions of two machines that do not reach it, while its probes succeed."""
        self.shift(-INTERVAL, "reported_at_ms", url=url)
        await self.unreached(ONE, url)
        await self.probe(self.space.success(url))
        return await self.unreached(TWO, url)

    def state(self, url: str = A) -> dict[str, str]:
        return self.space.fields(url)

    def is_ejected(self, url: str = A) -> bool:
        return "ejected_until_ms" in self.state(url)

    def ready(self) -> set[str]:
        return self.space.ready()[0] | self.space.ready()[1]

    def end_time(self, url: str = A) -> None:
        """Let the time of an ejection be over."""
        self.space.raw.hset(self.space.keys.replica(url), "ejected_until_ms", self.space.now_ms() - 1)
        self.space.raw.zadd(self.space.keys.ejected, {url: self.space.now_ms() - 1})

    def left_seconds(self, url: str = A) -> float:
        return (int(self.state(url)["ejected_until_ms"]) - self.space.now_ms()) / 1000


@pytest.fixture
async def ejecting(server: EmbeddedServer, namespace: str) -> AsyncIterator[Ejecting]:
    async with on_server(server.url, namespace) as space:
        ejecting = Ejecting(space)
        await ejecting.begin()
        yield ejecting
        assert await find_violations(space.reader, space.keys) == []


async def test_two_machines_that_do_not_reach_it_eject(ejecting: Ejecting) -> None:
    assert [event.kind for event in await ejecting.unreached(ONE)] == [EventKind.REPLICA_REPORTED]
    await ejecting.probe(ejecting.space.success())
    (event,) = await ejecting.unreached(TWO)
    assert (event.kind, event.router, event.by) == (EventKind.REPLICA_EJECTED, TWO, "proxy")
    assert event.reason == "sessions of 2 machines could not connect: refused"
    assert event.record is not None
    assert event.record.ejected_until == pytest.approx(event.at + BASE, abs=0.01)
    assert (event.record.ejections, event.record.is_selectable) == (1, False)
    assert ejecting.state()["status"] == "healthy"
    assert ejecting.ready() == {B, C, D}


async def test_a_machine_whose_probe_fails_is_no_witness(ejecting: Ejecting) -> None:
    """Two routers that no path leads to the replica call its prober, however often, and eject nothing."""
    kinds = []
    for router in (ONE, TWO, THREE) * 3:
        kinds += [event.kind for event in await ejecting.unreached(router, ago=None)]
        await ejecting.probe(ejecting.space.success())
    assert kinds == [EventKind.REPLICA_REPORTED]
    assert "unreached_from" not in ejecting.state()
    await ejecting.unreached(ONE)
    await ejecting.probe(ejecting.space.success())
    await ejecting.unreached(TWO, ago=None)
    assert not ejecting.is_ejected(), "one has reached it"
    await ejecting.unreached(TWO)
    assert ejecting.is_ejected()


async def test_the_time_of_the_session_counts(ejecting: Ejecting) -> None:
    """A probe of the prober between a session's failure and the testimony is late enough, an older session too old."""
    await ejecting.unreached(ONE, ago=None)
    await ejecting.probe(ejecting.space.success())
    await ejecting.unreached(ONE, ago=8.0)
    long_ago = 2 * INTERVAL + 1
    machine, _, at = ejecting.state()["unreached_from"].partition("@")
    assert int(at) <= ejecting.space.now_ms() - 8000
    ejecting.space.raw.hset(
        ejecting.space.keys.replica(A), "unreached_from", f"{machine}@{int(at) - int(long_ago * 1000)}"
    )
    await ejecting.unreached(TWO, ago=7.5)
    assert not ejecting.is_ejected()
    await ejecting.unreached(ONE, ago=7.8)
    assert ejecting.is_ejected()


async def test_one_machine_alone_does_not_eject(ejecting: Ejecting) -> None:
    ejecting.shift(5.0, "last_ok_at_ms")
    for _ in range(3):
        await ejecting.unreached(ONE)
    assert not ejecting.is_ejected()
    await ejecting.unreached(TWO)
    assert ejecting.is_ejected()


async def test_failures_during_an_ejection_do_not_extend_it(ejecting: Ejecting) -> None:
    await ejecting.eject()
    before = ejecting.state()["ejected_until_ms"]
    await ejecting.eject()
    assert ejecting.state()["ejected_until_ms"] == before
    assert "unreached_from" not in ejecting.state()


async def test_two_routers_of_one_machine_do_not_eject(ejecting: Ejecting) -> None:
    await ejecting.heartbeat(TWO, machine=f"of-{ONE}")
    for _ in range(3):
        await ejecting.eject()
    assert not ejecting.is_ejected()


async def test_a_probe_must_succeed_after_the_report(ejecting: Ejecting) -> None:
    await ejecting.unreached(ONE)
    await ejecting.unreached(TWO)
    assert not ejecting.is_ejected()
    await ejecting.probe(ejecting.space.success())
    await ejecting.unreached(TWO)
    assert ejecting.is_ejected()


async def test_a_replica_whose_probes_fail_is_not_ejected(ejecting: Ejecting) -> None:
    await ejecting.unreached(ONE)
    await ejecting.probe(ejecting.space.success())
    await ejecting.probe(ejecting.space.failure())
    await ejecting.unreached(TWO)
    assert not ejecting.is_ejected()


async def test_reports_of_long_ago_do_not_eject(ejecting: Ejecting) -> None:
    interval = 300.0  # so that a pause of this machine counts for little
    await ejecting.unreached(ONE)
    machine, _, at = ejecting.state()["unreached_from"].partition("@")
    for seconds, is_ejected in ((2 * interval + 1, False), (2 * interval - 30, True)):
        long_ago = f"{machine}@{int(at) - int(seconds * 1000)}"
        ejecting.space.raw.hset(ejecting.space.keys.replica(A), "unreached_from", long_ago)
        await ejecting.probe(ejecting.space.success())
        await ejecting.unreached(TWO, interval=interval)
        assert ejecting.is_ejected() is is_ejected


@pytest.mark.parametrize(("seconds", "is_ejected"), [(1.5, True), (3.5, False)])
async def test_reports_a_second_apart_count_together(ejecting: Ejecting, seconds: float, is_ejected: bool) -> None:
    """A router reports at most once a second, which may be longer than two intervals."""
    await ejecting.unreached(ONE)
    machine, _, _ = ejecting.state()["unreached_from"].partition("@")
    await ejecting.probe(ejecting.space.success())
    long_ago = f"{machine}@{ejecting.space.now_ms() - int(seconds * 1000)}"
    ejecting.space.raw.hset(ejecting.space.keys.replica(A), "unreached_from", long_ago)
    await ejecting.unreached(TWO, interval=0.2)
    assert ejecting.is_ejected() is is_ejected


async def test_a_session_that_connects_takes_reports_back(ejecting: Ejecting) -> None:
    await ejecting.unreached(ONE)
    await ejecting.probe(ejecting.space.success())
    await ejecting.outcome(THREE, ejecting.space.success())
    await ejecting.unreached(TWO)
    assert not ejecting.is_ejected()


async def test_a_number_of_failed_sessions_in_a_row_ejects(ejecting: Ejecting) -> None:
    await ejecting.broken(ONE, "a", 3)
    await ejecting.probe(ejecting.space.success())
    ejecting.let_a_second_pass()
    await ejecting.broken(TWO, "b")
    assert not ejecting.is_ejected()
    (event,) = await ejecting.broken(ONE, "a")
    assert event.kind is EventKind.REPLICA_EJECTED
    assert event.reason == "5 sessions in a row failed: HTTP 500"
    assert "session_failures" not in ejecting.state()


async def test_one_client_alone_does_not_eject(ejecting: Ejecting) -> None:
    await ejecting.broken(ONE, "a", 20)
    await ejecting.probe(ejecting.space.success())
    ejecting.let_a_second_pass()
    await ejecting.broken(TWO, "a", 20)
    assert not ejecting.is_ejected()
    await ejecting.broken(ONE, "b")
    assert ejecting.is_ejected()


async def test_unnamed_clients_of_two_routers_are_two(ejecting: Ejecting) -> None:
    for _ in range(2):
        await ejecting.broken(ONE, "", 5)
        await ejecting.probe(ejecting.space.success())
        ejecting.let_a_second_pass()
    assert not ejecting.is_ejected()
    await ejecting.broken(TWO, "")
    assert ejecting.is_ejected()


async def test_a_success_ends_the_run_of_failures(ejecting: Ejecting) -> None:
    await ejecting.broken(ONE, "a", 4)
    await ejecting.probe(ejecting.space.success())
    ejecting.let_a_second_pass()
    await ejecting.completed(THREE)
    await ejecting.broken(TWO, "b", 4)
    ejecting.let_a_second_pass()
    await ejecting.probe(ejecting.space.success())
    assert not ejecting.is_ejected()
    assert ejecting.state()["session_failures"] == "4"


async def test_other_routers_have_a_second_to_object(ejecting: Ejecting) -> None:
    await ejecting.broken(ONE, "a", 4)
    await ejecting.probe(ejecting.space.success())
    await ejecting.broken(TWO, "b", 4)
    assert not ejecting.is_ejected()
    ejecting.let_a_second_pass()
    await ejecting.broken(TWO, "b")
    assert ejecting.is_ejected()


async def test_further_reports_do_not_put_an_ejection_off(ejecting: Ejecting) -> None:
    """Where several routers report, one report or another is always younger than a second."""
    await ejecting.broken(ONE, "a", 4)
    await ejecting.probe(ejecting.space.success())
    ejecting.let_a_second_pass()
    ejecting.shift(-INTERVAL, "reported_at_ms")
    (event,) = await ejecting.unreached(THREE, ago=None)
    assert event.kind is EventKind.REPLICA_REPORTED
    (event,) = await ejecting.broken(TWO, "b")
    assert event.kind is EventKind.REPLICA_EJECTED


async def test_a_run_that_was_not_announced_does_not_eject(ejecting: Ejecting) -> None:
    """Its event was left out, because another run had one within the interval."""
    await ejecting.broken(ONE, "a", 4)
    ejecting.shift(-2.0, "reported_at_ms", "announced_at_ms", "sessions_failing_since_ms")
    await ejecting.completed(THREE)
    await ejecting.probe(ejecting.space.success())
    for client in "ab":
        assert await ejecting.broken(ONE, client, 9) == []
    ejecting.shift(-INTERVAL, "reported_at_ms", "announced_at_ms", "sessions_failing_since_ms")
    (event,) = await ejecting.broken(ONE, "a")
    assert event.kind is EventKind.REPLICA_REPORTED


async def test_failures_of_long_ago_are_forgotten(ejecting: Ejecting) -> None:
    await ejecting.broken(ONE, "a", 4)
    ejecting.shift(-301, "reported_at_ms", "announced_at_ms", "sessions_failing_since_ms")
    await ejecting.broken(TWO, "b", 4)
    assert ejecting.state()["session_failures"] == "4"


async def test_broken_sessions_do_not_take_a_word_back(ejecting: Ejecting) -> None:
    """The prober of a replica that was handed over reaches it, although its sessions break."""
    until = ejecting.space.now_ms() + 60_000
    ejecting.space.raw.hset(ejecting.space.keys.replica(A), mapping={"prober": TWO, "prober_until_ms": until})
    await ejecting.broken(TWO, "a")
    assert "suspicion" not in ejecting.state()


@pytest.mark.parametrize("status", ["unhealthy", "unknown"])
async def test_only_a_healthy_replica_is_ejected(ejecting: Ejecting, status: str) -> None:
    ejecting.space.raw.hset(ejecting.space.keys.replica(A), "status", status)
    await ejecting.outcome(ONE, ejecting.space.failure())
    ejecting.shift(1.0, "last_ok_at_ms")
    await ejecting.outcome(TWO, ejecting.space.failure())
    assert not ejecting.is_ejected()
    ejecting.space.raw.hset(ejecting.space.keys.replica(A), "status", "healthy")


async def test_a_draining_replica_is_not_ejected(ejecting: Ejecting) -> None:
    await ejecting.space.store.set_admin(A, AdminState.DRAINING)
    await ejecting.eject()
    assert not ejecting.is_ejected()


async def test_without_a_percentage_nothing_is_ejected_or_counted(ejecting: Ejecting) -> None:
    before = ejecting.state()
    off = replace(EJECTION, max_percent=0.0)
    await ejecting.unreached(ONE, limits=off)
    await ejecting.probe(ejecting.space.success())
    await ejecting.unreached(TWO, limits=off)
    assert ejecting.state().keys() - before.keys() == {"reported_at_ms"}


async def test_one_router_alone_ejects_nothing(ejecting: Ejecting) -> None:
    for router in (TWO, THREE):
        await ejecting.space.store_of(router).leave()
    before = ejecting.state()
    await ejecting.broken(ONE, "a", 50)
    await ejecting.broken(ONE, "b", 50)
    assert ejecting.state() == before


async def test_no_prober_no_ejection(ejecting: Ejecting) -> None:
    ejecting.space.raw.delete(ejecting.space.keys.probers)
    before = ejecting.state()
    await ejecting.broken(ONE, "a", 50)
    await ejecting.broken(TWO, "b", 50)
    assert ejecting.state() == before


async def test_no_more_than_the_percentage_are_ejected(ejecting: Ejecting) -> None:
    for url in REPLICAS:
        await ejecting.eject(url)
    assert [url for url in REPLICAS if ejecting.is_ejected(url)] == [A, B]
    assert ejecting.ready() == {C, D}


async def test_one_may_be_ejected_at_a_low_percentage(ejecting: Ejecting) -> None:
    limits = replace(EJECTION, max_percent=1.0)
    for url in (A, B):
        await ejecting.unreached(ONE, url, limits=limits)
        await ejecting.probe(ejecting.space.success(url))
        await ejecting.unreached(TWO, url, limits=limits)
    assert ejecting.ready() == {B, C, D}


async def test_the_last_ready_replica_is_not_ejected(ejecting: Ejecting) -> None:
    for url in (B, C, D):
        await ejecting.space.store.set_admin(url, AdminState.DISABLED)
    await ejecting.eject()
    assert ejecting.ready() == {A}


async def test_dead_replicas_do_not_raise_the_limit(ejecting: Ejecting) -> None:
    """The percentage is one of the active replicas that answered within the last hour."""
    for number in range(20):
        await ejecting.space.add(f"http://10.1.0.{number + 1}:80")
    await ejecting.eject(A)
    await ejecting.eject(B)
    await ejecting.eject(C)
    assert ejecting.ready() == {C, D}


async def test_what_an_operator_enabled_does_not_use_the_limit(ejecting: Ejecting) -> None:
    await ejecting.eject(A)
    await ejecting.eject(B)
    await ejecting.space.store.set_admin(A, AdminState.ACTIVE)
    await ejecting.eject(C)
    assert ejecting.ready() == {A, D}


async def test_a_heartbeat_returns_a_replica_when_time_is_over(ejecting: Ejecting) -> None:
    await ejecting.eject()
    await ejecting.heartbeat(THREE)
    assert ejecting.is_ejected()
    ejecting.end_time()
    await ejecting.heartbeat(THREE)
    assert not ejecting.is_ejected()
    assert ejecting.ready() == set(REPLICAS)
    assert not ejecting.space.raw.exists(ejecting.space.keys.ejected)
    (event,) = await ejecting.space.reader.last_events(1)
    assert (event.kind, event.router) == (EventKind.REPLICA_RETURNED, THREE)
    assert event.record is not None
    assert event.record.is_selectable


async def test_a_returned_replica_serves_the_queue_at_once(ejecting: Ejecting) -> None:
    await ejecting.eject()
    for number in range(3):
        assert isinstance(await ejecting.space.store_of(ONE).acquire(f"0000000{number}"), Grant)
    waiting = await ejecting.space.store_of(TWO).acquire("00000009", max_queue=9)
    assert isinstance(waiting, Queued)
    ejecting.end_time()
    await ejecting.heartbeat(THREE)
    held = await ejecting.space.store_of(TWO).acquire("00000009", max_queue=9)
    assert isinstance(held, Grant)
    assert held.key == A


async def test_a_session_gets_no_ejected_replica_without_panic(ejecting: Ejecting) -> None:
    await ejecting.eject()
    for number in range(3):
        granted = await ejecting.space.store.acquire(f"0000000{number}")
        assert isinstance(granted, Grant)
        assert granted.key != A
    assert isinstance(await ejecting.space.store.acquire("00000009"), Denied)


async def test_in_panic_an_ejected_replica_is_a_spare(ejecting: Ejecting) -> None:
    await ejecting.eject()
    await ejecting.heartbeat(panic_percent=80)
    for number in range(3):
        await ejecting.space.store.acquire(f"0000000{number}")
    granted = await ejecting.space.store.acquire("00000009")
    assert isinstance(granted, Grant)
    assert (granted.key, granted.is_spare) == (A, True)
    again = await ejecting.space.store.acquire("00000009")
    assert isinstance(again, Grant)
    assert (again.key, again.is_spare) == (A, True)
    await ejecting.space.store.release("00000009")
    assert ejecting.space.raw.zscore(ejecting.space.keys.spare_secondary, A) == 0


async def test_sessions_that_end_leave_an_ejected_replica_out(ejecting: Ejecting) -> None:
    for number in range(4):
        await ejecting.space.store.acquire(f"0000000{number}")
    await ejecting.eject()
    for number in range(4):
        await ejecting.space.store.release(f"0000000{number}")
    assert ejecting.ready() == {B, C, D}


async def test_probes_of_an_ejected_replica_keep_its_last_answer(ejecting: Ejecting) -> None:
    await ejecting.eject()
    before = ejecting.space.raw.zscore(ejecting.space.keys.spare_answered, A)
    while ejecting.space.now_ms() <= before:
        pass
    await ejecting.probe(ejecting.space.success())
    answered = ejecting.space.raw.zscore(ejecting.space.keys.spare_answered, A)
    assert before < answered == float(ejecting.state()["last_ok_at_ms"])


async def test_a_ramp_does_not_count_among_spares(ejecting: Ejecting) -> None:
    await ejecting.space.add(B, capacity=4)
    fields = {"slow_start_ms": 10**6, "status_since_ms": ejecting.space.now_ms()}
    ejecting.space.raw.hset(ejecting.space.keys.replica(B), mapping=fields)
    for number in range(5):
        await ejecting.space.store.acquire(f"0000000{number}")
    await ejecting.eject(B)
    load = float(ejecting.state(B)["in_flight"])
    assert load > 0
    assert ejecting.space.raw.zscore(ejecting.space.keys.spare_secondary, B) == load
    ejecting.end_time(B)
    await ejecting.heartbeat()
    assert ejecting.space.raw.zscore(ejecting.space.keys.ready_secondary, B) > load


async def test_each_ejection_is_longer_up_to_a_limit(ejecting: Ejecting) -> None:
    seconds = []
    for _ in range(12):
        await ejecting.eject()
        seconds.append(round(ejecting.left_seconds() / BASE))
        ejecting.end_time()
        await ejecting.heartbeat()
    assert seconds == [*range(1, 11), 10, 10]


async def test_the_number_of_ejections_falls_with_time(ejecting: Ejecting) -> None:
    for rested, times in ((0.0, 1), (0.9, 2), (1.1, 2), (2.1, 1), (0.0, 2), (99.0, 1)):
        ejecting.shift(-rested * BASE, "returned_at_ms")
        await ejecting.eject()
        assert ejecting.state()["ejections"] == str(times)
        ejecting.end_time()
        await ejecting.heartbeat()


@pytest.mark.parametrize("state", [AdminState.ACTIVE, AdminState.DISABLED])
async def test_an_operator_ends_an_ejection(ejecting: Ejecting, state: AdminState) -> None:
    await ejecting.eject()
    assert await ejecting.space.store.set_admin(A, state)
    assert not ejecting.state().keys() & {"ejected_until_ms", "ejections", "returned_at_ms"}
    assert (A in ejecting.ready()) is (state is AdminState.ACTIVE)


async def test_draining_leaves_an_ejection(ejecting: Ejecting) -> None:
    await ejecting.eject()
    await ejecting.space.store.set_admin(A, AdminState.DRAINING)
    assert ejecting.is_ejected()


async def test_a_registration_on_purpose_ends_an_ejection(ejecting: Ejecting) -> None:
    await ejecting.eject()
    assert await ejecting.space.add(A, capacity=1)
    assert not ejecting.is_ejected()
    assert ejecting.ready() == set(REPLICAS)
    assert "ejections" not in ejecting.state()


async def test_a_config_file_does_not_end_an_ejection(ejecting: Ejecting) -> None:
    await ejecting.eject()
    ejecting.space.raw.hset(ejecting.space.keys.replica(A), "source", "seed")
    assert await ejecting.space.add(A, capacity=1, mode=Source.SEED) == []
    assert ejecting.is_ejected()


async def test_a_removal_forgets_ejections(ejecting: Ejecting) -> None:
    await ejecting.eject()
    await ejecting.space.remove(A)
    ejecting.space.raw.zadd(ejecting.space.keys.ejected, {A: 1})
    await ejecting.heartbeat()
    assert "replica_returned" not in ejecting.space.event_kinds()
    await ejecting.space.add(A, capacity=1)
    assert not ejecting.state().keys() & {"ejected_until_ms", "ejections", "returned_at_ms", "unreached_from"}
    ejecting.end_time(E)
    ejecting.space.raw.delete(ejecting.space.keys.replica(E))
    await ejecting.heartbeat()


async def test_a_new_registration_knows_no_failed_sessions(ejecting: Ejecting) -> None:
    await ejecting.unreached(ONE)
    tombstone = {"admin": "removed", "unreached_from": "m@1", "ejections": "4"}
    ejecting.space.raw.hset(ejecting.space.keys.replica(A), mapping=tombstone)
    await ejecting.space.add(A, capacity=1)
    assert not ejecting.state().keys() & {"ejections", "unreached_from"}


async def test_a_restored_replica_is_not_ejected(ejecting: Ejecting) -> None:
    await ejecting.eject()
    lost = await ejecting.space.reader.snapshot()
    history_id, revision = lost.head.history_id or "", lost.head.revision
    ejecting.space.raw.delete(*ejecting.space.dump())
    entries = [restored_entry("replica", record) for record in lost.records.values()]
    assert lost.records[A].ejected_until is not None
    for view_revision in (revision, f"{int(revision.partition('-')[0]) + 1}-0"):
        await ejecting.space.store.restore(entries, view_history_id=history_id, view_revision=view_revision)
        assert not ejecting.is_ejected()
        assert ejecting.ready() == set(REPLICAS)
        ejecting.space.raw.hset(ejecting.space.keys.replica(A), "ejected_until_ms", ejecting.space.now_ms() + 9000)
    ejecting.space.raw.hdel(ejecting.space.keys.replica(A), "ejected_until_ms")


async def test_a_change_of_status_ends_an_ejection(ejecting: Ejecting) -> None:
    await ejecting.eject()
    await ejecting.space.make("unhealthy", A)
    assert not ejecting.is_ejected()
    assert ejecting.state()["ejections"] == "1"
    await ejecting.space.make("healthy", A)
    assert A in ejecting.ready()


async def test_a_clock_set_back_ends_ejections(ejecting: Ejecting) -> None:
    await ejecting.eject()
    ahead = ejecting.space.now_ms() + 10**9
    ejecting.space.raw.hset(ejecting.space.keys.replica(A), "ejected_until_ms", ahead)
    ejecting.space.raw.zadd(ejecting.space.keys.ejected, {A: ahead})
    ejecting.space.raw.hset(ejecting.space.keys.meta, "heartbeat_at_ms", ahead)
    await ejecting.heartbeat()
    assert not ejecting.is_ejected()


async def test_a_wrong_type_of_hash_does_not_stop_heartbeats(ejecting: Ejecting) -> None:
    ejecting.space.raw.set(ejecting.space.keys.replica(E), "text")
    ejecting.space.raw.zadd(ejecting.space.keys.ejected, {E: 1})
    await ejecting.heartbeat()
    assert ejecting.space.raw.zcard(ejecting.space.keys.ejected) == 0
    assert ejecting.space.raw.get(ejecting.space.keys.replica(E)) == "text"
    ejecting.space.raw.delete(ejecting.space.keys.replica(E))


async def test_check_finds_and_repairs_an_ejection_without_end(ejecting: Ejecting) -> None:
    await ejecting.eject()
    ejecting.space.raw.delete(ejecting.space.keys.ejected)
    (violation,) = found = await find_violations(ejecting.space.reader, ejecting.space.keys)
    assert (violation.rule, violation.key) == ("ready", ejecting.space.keys.ejected)
    await repair(ejecting.space.store, found, by="me")
    until_ms = ejecting.space.raw.zscore(ejecting.space.keys.ejected, A)
    assert until_ms == float(ejecting.state()["ejected_until_ms"])


async def plant_ejected(ejecting: Ejecting, count: int, until_ms: int) -> list[str]:
    """Let as many more replicas be ejected until then; return their urls."""
    space, urls = ejecting.space, [f"http://10.2.0.{number + 1}:80" for number in range(count)]
    for url in urls:
        await space.add(url, capacity=1)
        space.raw.hset(space.keys.replica(url), mapping={"status": "healthy", "ejected_until_ms": until_ms})
    space.raw.zadd(space.keys.ejected, dict.fromkeys(urls, until_ms))
    return urls


async def test_many_ejections_end_by_several_heartbeats_at_once(ejecting: Ejecting) -> None:
    space = ejecting.space
    urls = await plant_ejected(ejecting, 25, space.now_ms() - 1)
    still = []
    while (await ejecting.heartbeat()).is_partial:
        still.append(sum(ejecting.is_ejected(url) for url in urls))
    assert still == [20, 15, 10, 5, 0]
    assert not any(ejecting.is_ejected(url) for url in urls)


async def test_a_clock_set_back_ends_many_ejections(ejecting: Ejecting) -> None:
    space = ejecting.space
    urls = await plant_ejected(ejecting, 25, space.now_ms() + 10**8)
    space.raw.hset(space.keys.meta, "heartbeat_at_ms", space.now_ms() + 10**8)
    while (await ejecting.heartbeat()).is_partial:
        pass
    assert not any(ejecting.is_ejected(url) for url in urls)
    assert not space.raw.hexists(space.keys.meta, "returns_all")
    await ejecting.eject()
    await ejecting.heartbeat()
    assert ejecting.is_ejected()


async def test_more_ejected_than_are_counted_leave_the_limit(ejecting: Ejecting) -> None:
    """What has ended otherwise is taken out of the list, some in each call, and a limited number is looked at."""
    space = ejecting.space
    until_ms = space.now_ms() + 10**6
    space.raw.zadd(space.keys.ejected, {f"http://10.3.{n // 250}.{n % 250}:80": until_ms for n in range(500)})
    await ejecting.eject()
    assert not ejecting.is_ejected()
    assert space.raw.zcard(space.keys.ejected) == 380
    for _ in range(4):
        await ejecting.eject()
    assert ejecting.is_ejected()
    assert space.raw.zrange(space.keys.ejected, 0, -1) == [A]
