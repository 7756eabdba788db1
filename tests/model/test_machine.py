"""Random commands on a real server and on the model: every key, two mirrors and the check agree after each of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from shared_registry.model import Source
from tests.support.effort import effort, takes_long
from tests.support.model import strategies as some
from tests.support.model.keyspace import Spec
from tests.support.model.lease_steps import LeaseSteps
from tests.support.model.queue_steps import QueueSteps
from tests.support.model.rules import EXPIRY_MS
from tests.support.model.steps import Harness, Steps
from tests.support.model.strategies import Step

routers = st.integers(0, Steps.router_count - 1)


class Commands(QueueSteps):
    """Every command, and everything that may happen around them."""

    @initialize(
        replicas=st.lists(some.specs(), min_size=1, max_size=3),
        has_leader=st.sampled_from([True, True, True, False]),
        is_slow=st.booleans(),
    )
    def begin(self, replicas: list[tuple[str, Spec]], has_leader: bool, is_slow: bool) -> None:
        for number in range(self.router_count):
            self.start(number)
        for replica in replicas:
            self.register(0, Source.EXPLICIT, replica)
        if has_leader:
            self.campaign(0)
            self.advance_ramps(0, leader=0, is_slow=is_slow)
            results = [(key, 0, "", 1.5) for key, _ in replicas]
            self.report(0, leader=0, jump=1, limits=(3, 2), results=results)

    @rule(
        step=some.step(
            (
                4,
                Steps.register,
                {
                    "by": routers,
                    "mode": some.modes,
                    "replica": some.specs(),
                    "old_request": st.sampled_from([None, None, None, 0, 1, 2]),
                },
            ),
            (
                2,
                Steps.register_many,
                {"by": routers, "mode": some.modes, "replicas": st.lists(some.specs(), min_size=1, max_size=4)},
            ),
            (
                2,
                Steps.deregister,
                {"by": routers, "key": some.urls, "which": some.mostly_current, "when_drained": st.booleans()},
            ),
            (2, Steps.set_admin, {"by": routers, "key": some.urls, "state": some.states, "reason": some.reasons}),
            (
                8,
                LeaseSteps.acquire,
                some.asking(routers, 3),
            ),
            (
                4,
                QueueSteps.wait,
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
            (1, QueueSteps.forget_sequence, {"session": some.sessions}),
            (1, QueueSteps.repair, {"number": routers}),
            (3, LeaseSteps.release, {"number": routers, "which": some.which, "affinity_seconds": some.affinities}),
            (1, LeaseSteps.restore, {"number": routers, "held": some.held, "new": some.unheard_of}),
            (6, LeaseSteps.probe, {"by": routers, "key": some.urls, "error": some.errors, "times": st.integers(1, 3)}),
            (
                4,
                Steps.report,
                {
                    "by": routers,
                    "leader": some.mostly_current,
                    "jump": st.sampled_from([1, 1, 1, 1, 0, -1, 5]),
                    "limits": some.limits,
                    "results": st.lists(some.verdicts, min_size=1, max_size=4),
                },
            ),
            (
                3,
                Steps.record_outcome,
                {"by": routers, "verdict": some.verdicts, "limits": some.limits, "is_passive": st.booleans()},
            ),
            (
                2,
                Steps.campaign,
                {
                    "by": routers,
                    "old_token": st.sampled_from([None, None, None, 0, 1]),
                    "ahead": st.sampled_from([0, 0, 10**6]),
                },
            ),
            (1, Steps.renew, {"by": routers, "leader": some.mostly_current}),
            (1, Steps.resign, {"by": routers, "leader": some.mostly_current}),
            (1, Steps.step_down, {"by": routers, "leader": some.mostly_current, "reason": some.reasons}),
            (1, Steps.advance_ramps, {"by": routers, "leader": some.mostly_current, "is_slow": st.booleans()}),
            (1, Steps.declare_panic, {"by": routers, "leader": some.mostly_current, "is_panic": st.booleans()}),
            (1, Steps.expire_leader, {}),
            (3, Steps.heartbeat, {"number": routers}),
            (
                1,
                Steps.disturb_heartbeats,
                {
                    "heartbeat_ms": st.sampled_from([None, 0, 0, -EXPIRY_MS, EXPIRY_MS]),
                    "reap_after_ms": st.sampled_from([-1000, -1000, 10**9]),
                    "reap_until_ms": st.sampled_from([-500, EXPIRY_MS // 2]),
                },
            ),
            (1, Steps.rewrite_expiry, {"number": routers, "by_ms": st.sampled_from([-1000, 10**9])}),
            (1, Steps.reap, {"by": routers, "number": routers, "affinity_seconds": some.affinities}),
            (
                2,
                LeaseSteps.die,
                {"by": routers, "number": routers, "affinity_seconds": some.affinities, "pieces": st.integers(1, 6)},
            ),
            (1, Steps.leave, {"number": routers, "affinity_seconds": some.affinities}),
            (2, Steps.repeat, {"which": some.mostly_current}),
            (1, Steps.forget_scripts, {}),
            (1, Steps.trim_stream, {"left": st.integers(1, 3)}),
            (2, Steps.cut_off, {"number": routers}),
            (4, Steps.reconnect, {"number": routers}),
            (1, Steps.lose_everything, {}),
        )
    )
    def step(self, step: Step) -> None:
        command, arguments = step
        command(self, **arguments)


class Restarts(Commands):
    """The same on a server that is killed and started again, with its data and without."""

    restarts_left = 3

    @precondition(lambda self: self.restarts_left)
    @rule(keeps_data=st.booleans(), is_meant=st.sampled_from([False, False, False, True]))
    def restart(self, keeps_data: bool, is_meant: bool) -> None:
        if not is_meant:
            return
        self.restarts_left -= 1
        server = self.harness.server
        if not keeps_data:
            for number in range(self.router_count):
                self.cut_off(number)
        server.kill()
        if not keeps_data:
            shutil.rmtree(server.data_dir / "appendonlydir", ignore_errors=True)
            (server.data_dir / "appendonly.aof").unlink(missing_ok=True)  # before Redis 7
        server.start()
        self.do(self.bench.raw.connection_pool.disconnect, lambda: None if keeps_data else self.expected.lose())


def run_machine(machine: type[Steps], harness: Harness, *, examples: int, steps: int) -> None:
    """Run a machine at that place."""
    run_state_machine_as_test(
        type(machine.__name__, (machine,), {"harness": harness}), settings=effort(examples=examples, steps=steps)
    )


@takes_long
def test_server_and_mirrors_behave_like_the_model(place_on: Callable[..., Harness]) -> None:
    run_machine(Commands, place_on(), examples=60, steps=30)


@takes_long
def test_restarts_change_nothing_with_kept_or_restored_data(
    place_on: Callable[..., Harness],
) -> None:
    """What the server does not keep, the mirrors put back."""
    run_machine(Restarts, place_on(appendonly="yes"), examples=12, steps=25)
