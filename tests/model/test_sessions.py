"""Random sessions on replicas that fail, drain and go, placed by routers that die, leave and come back; some wait.

The commands are those of `test_machine`; here leases are at the centre, and replicas there to hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from shared_registry.model import Source
from shared_registry.store.replies import Departure
from tests.model.test_machine import run_machine
from tests.support.effort import takes_long
from tests.support.model import strategies as some
from tests.support.model.keyspace import Spec
from tests.support.model.lease_steps import LeaseSteps
from tests.support.model.queue_steps import QueueSteps
from tests.support.model.steps import SPELLINGS, Harness, Steps
from tests.support.model.strategies import Step

ROUTERS = 3
routers = st.integers(0, ROUTERS - 1)


def specs_of(urls: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, Spec]]:
    return st.builds(
        lambda url, primary, weight, capacity: (url, Spec(url, primary=primary, weight=weight, capacity=capacity)),
        urls,
        st.sampled_from([True, True, False]),
        st.sampled_from([1.0, 1.0, 1.0, 2.0]),
        st.sampled_from([0, 0, 1, 2, 3]),
    )


everywhere = st.tuples(*(specs_of(st.just(url)) for url in sorted(SPELLINGS)))


class Sessions(QueueSteps):
    """Three routers, of which one or another may be gone, and three replicas, which are all well at first.

    Only the first router mirrors anything: the others add nothing to that but time.
    """

    router_count = ROUTERS

    @initialize(replicas=everywhere, is_slow=st.booleans(), panic_percent=st.sampled_from([0, 50, 100]))
    def begin(self, replicas: tuple[tuple[str, Spec], ...], is_slow: bool, panic_percent: int) -> None:
        self.panic_percent = panic_percent
        self.start(0)
        for number in range(1, ROUTERS):
            self.heartbeat(number)
        for url, spec in replicas:
            self.register(0, Source.EXPLICIT, (url, spec))
        self.campaign(0)
        self.advance_ramps(0, leader=0, is_slow=is_slow)
        self.heal()

    def heal(self) -> None:
        """Let every replica be up."""
        if not self.expected.leader:
            self.campaign(0)
        for _ in range(2):
            results = [(url, 0, "", 1.5) for url in sorted(self.expected.alive())]
            self.report(0, leader=0, jump=1, limits=(3, 2), results=results)

    def fail(self, urls: Sequence[str]) -> None:
        """Let some replicas fail all at once, which may be a panic."""
        if not self.expected.leader:
            self.campaign(0)
        results = [(url, 0, "refused", 1.5) for url in urls if url in self.expected.alive()]
        self.report(0, leader=0, jump=1, limits=(1, 2), results=results)

    def join_and_acquire(self, number: int, **how: object) -> None:
        """What a router does that is told to be none: it beats, and asks again."""
        if self.routers[number].name not in self.expected.routers:
            self.heartbeat(number)
        self.acquire(number, **how)  # type: ignore[arg-type]  # as drawn

    def join_and_wait(self, number: int, **how: object) -> None:
        """The same, but in the queue."""
        if self.routers[number].name not in self.expected.routers:
            self.heartbeat(number)
        self.wait(number, **how)  # type: ignore[arg-type]  # as drawn

    def doubt(self, key: str, outcomes: Sequence[tuple[int, str]], limits: tuple[int, int]) -> None:
        """Routers tell one after the other how their sessions fared on a replica."""
        for by, error in outcomes:
            self.record_outcome(by, (key, 0, error, 1.5), limits, is_passive=True)

    def die_with(self, by: int, number: int, *, key: str, sessions: int, affinity_seconds: int, pieces: int) -> None:
        """A router with so many sessions dies that reaping it takes some calls, of which the first are made."""
        self.add_degraded_leases(number, key, sessions)
        self.die(by, number, affinity_seconds, pieces)

    def leave_with(self, number: int, *, key: str, sessions: int, affinity_seconds: int) -> None:
        """A router leaves with as many."""
        self.add_degraded_leases(number, key, sessions)
        while self.leave(number, affinity_seconds) is Departure.PARTIAL:
            pass

    def lose_and_come_back(self) -> None:
        """Everything is lost; replicas are put back and routers join, but what these hold Redis does not know yet."""
        self.lose_everything()
        for number in range(ROUTERS):
            self.heartbeat(number)
        self.reconnect(0)

    @rule(
        step=some.step(
            (
                12,
                join_and_acquire,
                some.asking(routers, 4),
            ),
            (
                4,
                join_and_wait,
                some.asking(routers, 3),
            ),
            (
                2,
                QueueSteps.poll,
                {"number": routers, "which": some.mostly_first, "brings": st.integers(0, 2)},
            ),
            (1, QueueSteps.ask_last, {"number": routers, "which": some.mostly_first}),
            (
                1,
                QueueSteps.abandon,
                {"number": routers, "which": some.mostly_first, "affinity_seconds": some.affinities},
            ),
            (1, LeaseSteps.ask_again, {"number": routers, "which": some.which}),
            (2, LeaseSteps.take_over, {"number": routers, "which": some.which}),
            (6, LeaseSteps.release, {"number": routers, "which": some.which, "affinity_seconds": some.affinities}),
            (5, LeaseSteps.release_all_on, {"key": some.urls, "affinity_seconds": some.affinities}),
            (3, LeaseSteps.restore, {"number": routers, "held": some.held, "new": some.unheard_of}),
            (1, LeaseSteps.forget_session, {"session": some.sessions}),
            (3, heal, {}),
            (3, fail, {"urls": some.few_urls_or_all}),
            (1, LeaseSteps.probe, {"by": routers, "key": some.urls, "error": some.errors, "times": st.integers(1, 3)}),
            (
                4,
                doubt,
                {
                    "key": some.urls,
                    "outcomes": st.lists(
                        st.tuples(routers, st.sampled_from(["refused", "refused", ""])), min_size=2, max_size=5
                    ),
                    "limits": some.limits,
                },
            ),
            (
                5,
                Steps.deregister,
                {"by": routers, "key": some.urls, "when_drained": st.sampled_from([True, True, True, False])},
            ),
            (4, Steps.set_admin, {"by": routers, "key": some.urls, "state": some.states, "reason": some.reasons}),
            (3, Steps.register, {"by": routers, "mode": some.modes, "replica": specs_of(some.urls)}),
            (
                2,
                LeaseSteps.die,
                {"by": routers, "number": routers, "affinity_seconds": some.affinities, "pieces": st.integers(1, 6)},
            ),
            (
                3,
                die_with,
                {
                    "by": routers,
                    "number": routers,
                    "key": some.urls,
                    "sessions": st.integers(6, 25),
                    "affinity_seconds": some.affinities,
                    "pieces": st.integers(1, 6),
                },
            ),
            (2, Steps.reap, {"by": routers, "number": routers, "affinity_seconds": some.affinities}),
            (1, Steps.leave, {"number": routers, "affinity_seconds": some.affinities}),
            (
                1,
                leave_with,
                {
                    "number": routers,
                    "key": some.urls,
                    "sessions": st.integers(6, 25),
                    "affinity_seconds": some.affinities,
                },
            ),
            (3, Steps.heartbeat, {"number": routers}),
            (2, Steps.repeat, {"which": some.mostly_current}),
            (1, Steps.cut_off, {"number": st.just(0)}),
            (2, Steps.reconnect, {"number": st.just(0)}),
            (1, lose_and_come_back, {}),
        )
    )
    def step(self, step: Step) -> None:
        command, arguments = step
        command(self, **arguments)


@takes_long
def test_leases_are_counted_placed_and_ended_like_the_model(place_on: Callable[..., Harness]) -> None:
    run_machine(Sessions, place_on(), examples=26, steps=30)
