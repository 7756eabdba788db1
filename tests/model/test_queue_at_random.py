"""Random waiting in the queue for replicas that are mostly full, by routers that die, leave and come back.

The commands are those of `test_sessions`; here there is hardly ever room, and whatever makes some gives it away.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from shared_registry.model import AdminState, Source
from shared_registry.store.replies import Departure
from tests.model.test_machine import run_machine
from tests.model.test_sessions import ROUTERS, Sessions, routers
from tests.support.effort import takes_long
from tests.support.model import strategies as some
from tests.support.model.keyspace import Spec
from tests.support.model.lease_steps import LeaseSteps
from tests.support.model.queue_rules import GRANTS_AT_ONCE
from tests.support.model.queue_steps import QueueSteps
from tests.support.model.rules import EXPIRY_MS
from tests.support.model.steps import SPELLINGS, Harness, Steps, pick
from tests.support.model.strategies import Step

capacities = st.sampled_from([1, 1, 1, 2, 2, 3])


def specs_of(urls: st.SearchStrategy[str], capacities: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[str, Spec]]:
    return st.builds(
        lambda url, primary, weight, capacity: (url, Spec(url, primary=primary, weight=weight, capacity=capacity)),
        urls,
        st.sampled_from([True, True, False]),
        st.sampled_from([1.0, 1.0, 2.0]),
        capacities,
    )


everywhere = st.tuples(*(specs_of(st.just(url), capacities) for url in sorted(SPELLINGS)))
few_in_line = st.sampled_from([99, 99, 99, 2, 6])


class Waiting(Sessions):
    """Three routers whose sessions have filled three replicas at first, and some of whose wait."""

    @initialize(replicas=everywhere, is_slow=st.booleans(), panic_percent=st.sampled_from([0, 50, 100]))
    def begin(self, replicas: tuple[tuple[str, Spec], ...], is_slow: bool, panic_percent: int) -> None:
        super().begin(replicas, is_slow, panic_percent)
        for number in (0, 1, 2):
            self.wait(number, tie=number, times=4)

    def other_than(self, number: int, other: int) -> int:
        return (number + 1) % ROUTERS if other == number else other

    def die_in_line(
        self,
        by: int,
        number: int,
        *,
        waiting: int,
        session: str,
        affinity_seconds: int,
        comes_back: bool,
        key: str,
        has_room: bool,
    ) -> None:
        """A router with so many in the queue dies that reaping it takes some calls, and is back meanwhile, or seems to
        be.

        Its session comes to another router, which may have room for it by then.
        """
        by = self.other_than(number, by)
        self.join_and_wait(number, tie=0, session=session, times=waiting)
        self.die(by, number, affinity_seconds, 1)
        if comes_back:
            self.heartbeat(number)
        self.wait(number, tie=0)
        self.die(by, number, affinity_seconds, 9)
        if has_room:
            for other in range(self.router_count):
                self.abandon_all(other, 0)
            self.resize(by, key, 0)
        self.join_and_wait(by, tie=0, session=session)
        self.resize(by, key, 1)

    def pass_over(self, by: int, number: int, key: str, reap_until_ms: int, *, is_much: bool) -> None:
        """A router that waits beats no more, while others do, or none does; then there is room, and it asks again."""
        by = self.other_than(number, by)
        self.join_and_wait(number, tie=0, times=2)
        self.join_and_wait(by, tie=0)
        self.disturb_heartbeats(0, -1000, reap_until_ms)
        self.rewrite_expiry(number, -1000)
        self.release_all_on(key, 0)
        if is_much:
            self.resize(by, key, 0)
        self.poll(number, 0, brings=0)
        self.resize(by, key, 1)

    def leave_in_line(self, number: int, *, waiting: int, affinity_seconds: int) -> None:
        """A router with as many leaves, while one of its sessions asks once more."""
        self.wait(number, tie=0, session="anna", times=waiting)
        departure = self.leave(number, affinity_seconds)
        self.wait(number, tie=1)
        while departure is Departure.PARTIAL:
            departure = self.leave(number, affinity_seconds)

    def resize(self, by: int, key: str, capacity: int) -> None:
        """Give a replica another capacity, 0 for none."""
        spec = Spec(key, primary=True, capacity=capacity)
        self.register(by, Source.EXPLICIT, (key, spec))

    def open_again(self, by: int, key: str) -> None:
        """Drain a replica until its sessions have ended, and let it take some again."""
        self.set_admin(by, key, AdminState.DRAINING, "deploy")
        self.release_all_on(key, 0)
        self.set_admin(by, key, AdminState.ACTIVE, "")

    def flood(self, by: int, number: int, key: str, then: Callable[..., None]) -> None:
        """Let more wait than one command serves when there is any amount of room; then something else comes."""
        for url in sorted(self.expected.alive()):
            self.set_admin(by, url, AdminState.DRAINING, "deploy")
        self.join_and_wait(number, tie=0, times=2 * GRANTS_AT_ONCE + 2)
        self.resize(by, key, 0)
        self.set_admin(by, key, AdminState.ACTIVE, "")
        then(self, number)
        self.resize(by, key, 1)

    def ask_once(self, number: int) -> None:
        """A newcomer does not want to wait."""
        self.acquire(number, tie=0)

    def ask_for_the_first(self, number: int) -> None:
        """One is given its slot by its own question."""
        self.poll(number, 0, brings=0)

    def mend(self, number: int, session: str, *, is_first: bool, has_inbox: bool) -> None:
        """What a failover left is found, and repaired."""
        self.plant_unlisted(session=session, is_first=is_first, has_inbox=has_inbox)
        self.repair(number)

    def fail_and_recover(self, by: int, key: str, *, is_probed: bool) -> None:
        """Let a replica fail, its sessions end, and let it come back, by a probe or by what a session saw."""
        for error in ("refused", "refused", "refused", "", ""):
            if not error:
                self.release_all_on(key, 0)
            if is_probed:
                self.probe(by, key, error, 1)
            else:
                self.record_outcome(by, (key, 0, error, 1.5), (3, 1))

    def move(self, number: int, which: int, key: str) -> None:
        """Put a lease back on another replica than it is on, as far as Redis knows."""
        held = sorted(self.expected.leases.get(self.routers[number].name, {}))
        if held:
            self._restore(number, {pick(held, which): key})

    def wait_while_all_is_lost(self, number: int, times: int) -> None:
        """Everything is lost; who waited asks again with its place, and is served once replicas are put back."""
        self.join_and_wait(number, tie=0, times=2)
        self.lose_everything()
        self.join_and_wait(number, tie=0, times=times)
        self.poll(number, min(times, 3), brings=0)
        self.reconnect(0)

    @rule(
        step=some.step(
            (
                10,
                Sessions.join_and_wait,
                some.asking(routers, 5)
                | {
                    "excluded": some.few_urls_or_all,
                    "max_queue": few_in_line,
                    "sequence": st.sampled_from(["", "", "", "5"]),
                },
            ),
            (
                6,
                QueueSteps.poll,
                {"number": routers, "which": some.mostly_first, "brings": st.integers(0, 2), "max_queue": few_in_line},
            ),
            (5, QueueSteps.ask_last, {"number": routers, "which": some.mostly_first}),
            (
                3,
                QueueSteps.abandon,
                {"number": routers, "which": some.mostly_first, "affinity_seconds": some.affinities},
            ),
            (1, QueueSteps.abandon_all, {"number": routers, "affinity_seconds": some.affinities}),
            (2, QueueSteps.hold_waiting, {"number": routers, "which": some.mostly_first, "key": some.urls}),
            (1, QueueSteps.forget_sequence, {"session": some.sessions}),
            (
                1,
                QueueSteps.plant_unlisted,
                {"session": some.sessions, "is_first": st.booleans(), "has_inbox": st.booleans()},
            ),
            (
                1,
                mend,
                {
                    "number": routers,
                    "session": some.sessions,
                    "is_first": st.booleans(),
                    "has_inbox": st.booleans(),
                },
            ),
            (
                2,
                Sessions.join_and_acquire,
                some.asking(routers, 2),
            ),
            (4, LeaseSteps.release, {"number": routers, "which": some.which, "affinity_seconds": some.affinities}),
            (6, LeaseSteps.release_all_on, {"key": some.urls, "affinity_seconds": some.affinities}),
            (2, move, {"number": routers, "which": some.which, "key": some.urls}),
            (1, LeaseSteps.restore, {"number": routers, "held": some.held, "new": some.unheard_of}),
            (1, LeaseSteps.forget_session, {"session": some.sessions}),
            (2, Sessions.heal, {}),
            (3, Sessions.fail, {"urls": some.few_urls_or_all}),
            (3, fail_and_recover, {"by": routers, "key": some.urls, "is_probed": st.booleans()}),
            (
                4,
                flood,
                {
                    "by": routers,
                    "number": routers,
                    "key": some.urls,
                    "then": st.sampled_from(
                        [ask_once, ask_for_the_first, QueueSteps.repair, QueueSteps.repair, Steps.heartbeat]
                    ),
                },
            ),
            (
                4,
                pass_over,
                {
                    "by": routers,
                    "number": routers,
                    "key": some.urls,
                    "reap_until_ms": st.sampled_from([-500, EXPIRY_MS // 2]),
                    "is_much": st.booleans(),
                },
            ),
            (3, open_again, {"by": routers, "key": some.urls}),
            (3, resize, {"by": routers, "key": some.urls, "capacity": st.sampled_from([0, 1, 1, 2, 3, 9])}),
            (3, Steps.register, {"by": routers, "mode": some.modes, "replica": specs_of(some.urls, capacities)}),
            (1, Steps.deregister, {"by": routers, "key": some.urls, "when_drained": st.booleans()}),
            (2, Steps.set_admin, {"by": routers, "key": some.urls, "state": some.states, "reason": some.reasons}),
            (
                2,
                LeaseSteps.die,
                {"by": routers, "number": routers, "affinity_seconds": some.affinities, "pieces": st.integers(0, 6)},
            ),
            (
                4,
                die_in_line,
                {
                    "by": routers,
                    "number": routers,
                    "waiting": st.integers(1, 6),
                    "session": st.sampled_from(["anna", "bert", "anna", "bert", ""]),
                    "affinity_seconds": st.sampled_from([600, 600, 0]),
                    "comes_back": st.booleans(),
                    "key": some.urls,
                    "has_room": st.booleans(),
                },
            ),
            (
                2,
                leave_in_line,
                {"number": routers, "waiting": st.integers(1, 9), "affinity_seconds": some.affinities},
            ),
            (2, Steps.rewrite_expiry, {"number": routers, "by_ms": st.sampled_from([-1000, -1000, 10**9])}),
            (
                1,
                Steps.disturb_heartbeats,
                {
                    "heartbeat_ms": st.sampled_from([None, 0, 0, -EXPIRY_MS]),
                    "reap_after_ms": st.sampled_from([-1000, -1000, 10**9]),
                    "reap_until_ms": st.sampled_from([-500, EXPIRY_MS // 2]),
                },
            ),
            (2, Steps.reap, {"by": routers, "number": routers, "affinity_seconds": some.affinities}),
            (3, Steps.heartbeat, {"number": routers}),
            (3, Steps.repeat, {"which": some.mostly_current}),
            (1, Steps.cut_off, {"number": st.just(0)}),
            (2, Steps.reconnect, {"number": st.just(0)}),
            (1, Sessions.lose_and_come_back, {}),
            (1, wait_while_all_is_lost, {"number": routers, "times": st.integers(1, 5)}),
        )
    )
    def step(self, step: Step) -> None:
        command, arguments = step
        command(self, **arguments)


@takes_long
def test_every_command_that_makes_room_serves_waiters_in_order(place_on: Callable[..., Harness]) -> None:
    run_machine(Waiting, place_on(), examples=25, steps=25)
