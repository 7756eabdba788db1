"""Random sessions while most replicas fail: they get replicas that are not healthy, at once or while they wait."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from shared_registry.model import AdminState, Source
from tests.model.test_machine import run_machine
from tests.model.test_sessions import Sessions, routers
from tests.support.effort import takes_long
from tests.support.model import strategies as some
from tests.support.model.keyspace import Spec
from tests.support.model.lease_steps import LeaseSteps
from tests.support.model.queue_steps import QueueSteps
from tests.support.model.steps import SPELLINGS, Harness, Steps
from tests.support.model.strategies import Step

everywhere = st.tuples(
    *(
        st.builds(
            lambda primary, weight, capacity, url=url: (
                url,
                Spec(url, primary=primary, weight=weight, capacity=capacity),
            ),
            st.booleans(),
            st.sampled_from([1.0, 1.0, 2.0]),
            st.sampled_from([1, 1, 1, 2]),
        )
        for url in sorted(SPELLINGS)
    )
)


class Panics(Sessions):
    """The same routers and replicas; all replicas have answered once, and most of them fail."""

    @initialize(replicas=everywhere, panic_percent=st.sampled_from([50, 100, 100]))
    def begin(self, replicas: tuple[tuple[str, Spec], ...], panic_percent: int) -> None:
        super().begin(replicas, is_slow=False, panic_percent=panic_percent)
        self.fail(sorted(SPELLINGS)[1:])

    def try_and_wait(self, number: int, *, session: str, excluded: list[str], times: int) -> None:
        """What a session does that could not use what it was given: it asks again, with its sequence, and waits."""
        for at in range(times):
            self.wait(number, tie=at, session=session)
            sequence = str(self.expected.sequence)
            self.release(number, 0, 0)
            self.wait(number, tie=at, session=session, excluded=excluded, spare="at once", sequence=sequence)

    def change_percent(self, number: int, percent: int) -> None:
        self.panic_percent = percent
        self.heartbeat(number)

    def resize(self, by: int, key: str, capacity: int, *, primary: bool) -> None:
        self.register(by, Source.EXPLICIT, (key, Spec(key, primary=primary, capacity=capacity)))

    @rule(
        step=some.step(
            (10, Sessions.join_and_wait, some.asking(routers, 4)),
            (4, Sessions.join_and_acquire, some.asking(routers, 2)),
            (
                5,
                try_and_wait,
                {
                    "number": routers,
                    "session": some.sessions,
                    "excluded": some.few_urls,
                    "times": st.integers(1, 2),
                },
            ),
            (2, QueueSteps.poll, {"number": routers, "which": some.mostly_first, "brings": st.integers(0, 2)}),
            (2, QueueSteps.ask_last, {"number": routers, "which": some.mostly_first}),
            (2, LeaseSteps.ask_again, {"number": routers, "which": some.which}),
            (4, LeaseSteps.release, {"number": routers, "which": some.which, "affinity_seconds": some.affinities}),
            (4, LeaseSteps.release_all_on, {"key": some.urls, "affinity_seconds": some.affinities}),
            (2, LeaseSteps.restore, {"number": routers, "held": some.held, "new": some.unheard_of}),
            (5, Sessions.fail, {"urls": some.few_urls_or_all}),
            (1, Sessions.heal, {}),
            (2, LeaseSteps.probe, {"by": routers, "key": some.urls, "error": some.errors, "times": st.integers(1, 3)}),
            (1, Steps.heartbeat, {"number": routers}),
            (1, change_percent, {"number": routers, "percent": st.sampled_from([0, 50, 100, 100])}),
            (
                2,
                resize,
                {
                    "by": routers,
                    "key": some.urls,
                    "capacity": st.sampled_from([0, 1, 1, 2]),
                    "primary": st.booleans(),
                },
            ),
            (
                2,
                Steps.set_admin,
                {
                    "by": routers,
                    "key": some.urls,
                    "state": st.sampled_from([AdminState.ACTIVE, AdminState.ACTIVE, AdminState.DRAINING]),
                    "reason": some.reasons,
                },
            ),
            (1, Steps.deregister, {"by": routers, "key": some.urls, "when_drained": st.booleans()}),
            (
                1,
                LeaseSteps.die,
                {"by": routers, "number": routers, "affinity_seconds": some.affinities, "pieces": st.just(9)},
            ),
            (1, QueueSteps.repair, {"number": routers}),
        )
    )
    def step(self, step: Step) -> None:
        command, arguments = step
        command(self, **arguments)


@takes_long
def test_in_a_panic_sessions_are_placed_as_the_model_says(place_on: Callable[..., Harness]) -> None:
    run_machine(Panics, place_on(), examples=40, steps=25)
