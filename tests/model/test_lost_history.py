"""Losses of history at random: views of several ages, put back in any order and call by call between other writes.

What must come out is said by `Truth`, from the views and from what was written since; it knows nothing of marks,
chunks or the order of calls. Besides, the model says what every single call does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from shared_registry.model import Source
from tests.model.test_machine import run_machine
from tests.support.effort import takes_long
from tests.support.model import strategies as some
from tests.support.model.bench import Router
from tests.support.model.keyspace import HEALTH, OPERATOR, SPEC, KnownView, Spec, copy_of, is_later
from tests.support.model.lease_steps import LeaseSteps
from tests.support.model.rules import Namespace
from tests.support.model.steps import Place, Steps
from tests.support.model.strategies import Step
from tests.support.model.values import Fields

ROUTERS = 4
CONFIGURED = ("http://10.0.0.1:8000", "https://b.example")
"""What the config file of a router that starts names."""
routers = st.integers(0, ROUTERS - 1)


class Truth:
    """What must be there after a loss, from the views that were put back and from what was done on purpose since.

    Attributes:
        told: For each url the newest view that told of it so far.
        written: What somebody wrote on purpose since.
        probed: What probes found since.
    """

    def __init__(self, rules: Namespace) -> None:
        self.rules = rules
        self.told: dict[str, KnownView] = {}
        self.written: dict[str, Fields] = {}
        self.probed: dict[str, Fields] = {}

    def tell(self, view: KnownView, urls: Iterable[str]) -> None:
        """A router puts back what its view knows of these replicas."""
        for url in urls:
            if url not in self.told or self._is_newer(view, self.told[url], url):
                self.told[url] = view

    def _is_newer(self, view: KnownView, other: KnownView, url: str) -> bool:
        """Return whether a view knows of a replica as of later than another one, or as of the same but is later."""
        (known, _), (known_there, _) = view.known_as_of(url), other.known_as_of(url)
        return is_later(known, known_there) or (known == known_there and is_later(view.revision, other.revision))

    def note(self, before: dict[str, Fields]) -> None:
        """Take what a step other than putting back has changed since for meant."""
        for url, fields in self.rules.hashes.items():
            was = before.get(url, {})
            if fields == was:
                continue
            if "restored_from" not in fields:
                self.written[url] = chosen(fields, SPEC + OPERATOR)
            if fields["incarnation"] != was.get("incarnation"):
                self.probed.pop(url, None)
            elif chosen(fields, HEALTH) != chosen(was, HEALTH):
                self.probed[url] = chosen(fields, HEALTH)

    def expect(self) -> None:
        """Fail where something is neither as it was written or probed since, nor as the newest view has it."""
        for url, fields in self.probed.items():
            assert chosen(self.rules.hashes[url], HEALTH) == fields, f"{url} lost what probes found"
        for url, fields in self.written.items():
            assert chosen(self.rules.hashes[url], SPEC + OPERATOR) == fields, f"{url} lost what was written"
        for url in self.told.keys() - self.written.keys():
            self._expect_known(url, self.told[url].hashes.get(url))

    def _expect_known(self, url: str, known: Fields | None) -> None:
        there = self.rules.alive().get(url)
        if known is None:
            assert there is None, f"{url} came back"
            return
        assert there is not None, f"{url} is gone"
        assert chosen(there, SPEC + OPERATOR) == chosen(known, SPEC + OPERATOR)
        assert goes_when_drained(there) == goes_when_drained(known)
        assert url in self.probed or there["status"] == known["status"]


class Losses(LeaseSteps):
    """Routers are cut off one after the other, everything is lost, and they come back bit by bit."""

    router_count = ROUTERS

    def __init__(self) -> None:
        super().__init__()
        self.truth: Truth | None = None

    def age(self, number: int) -> None:
        """Cut a router off: what it knows grows old."""
        if self.truth is None:
            self.cut_off(number)

    def lose(self) -> None:
        if self.truth is None:
            self.lose_everything()
            self.truth = Truth(self.expected)

    def restart_router(self, number: int) -> None:
        """A router dies, whatever it was about to put back, and starts again with its config file."""
        old = self.routers[number]
        self.place.runner.run(old.stop())
        self.routers[number] = Router(old.name, self.bench)
        self.start(number)
        for url in CONFIGURED:
            if url not in self.expected.alive():
                self.register(number, Source.SEED, (url, Spec(url, weight=2.0)))

    def read_again(self, number: int) -> None:
        """Let a router that follows read all again, as after a gap."""
        router = self.routers[number]
        if router.is_following:
            self.do(router.mirror.load, lambda: None)

    def put_back(self, number: int, calls: int) -> None:
        """Let a router that was cut off make the next calls that put its view back; after the last it follows."""
        for _ in range(calls):
            if self.truth is None or self.routers[number].known is None:
                return
            self._put_back_one(number, self.routers[number])

    def _put_back_one(self, number: int, router: Router) -> None:
        assert self.truth is not None
        view = router.known
        assert view is not None
        if router.steps is None:
            self.place.runner.run(router.begin_to_put_back())
        assert router.steps is not None
        if router.steps.waiting is None:
            router.steps = None
            self.reconnect(number)
            return
        truth, (entries, is_complete) = self.truth, router.steps.waiting

        def effect() -> str:
            status = self.expected.restore_view(view, entries, router=router.name, is_complete=is_complete)
            if status == "restored":
                truth.tell(view, (url for kind, url in entries if kind != "absent"))
            return status

        self.do(router.put_back_next, effect)

    def settle(self) -> None:
        """Let every router put all of its view back, and follow: the new history has begun."""
        for number in range(ROUTERS):
            while self.truth is not None and self.routers[number].known is not None:
                self.put_back(number, 1)
        self.truth = None

    def _do(self, step: Step) -> None:
        command, arguments = step
        before, truth = copy_of(self.expected.hashes), self.truth
        command(self, **arguments)
        if truth is not None:
            if command not in (Losses.put_back, Losses.settle):
                truth.note(before)
            truth.expect()

    # --- how they follow each other ---

    writes = (
        (3, Steps.register, {"by": routers, "mode": st.just(Source.EXPLICIT), "replica": some.specs()}),
        (3, Steps.deregister, {"by": routers, "key": some.urls, "when_drained": st.booleans()}),
        (3, Steps.set_admin, {"by": routers, "key": some.urls, "state": some.states, "reason": some.reasons}),
        (4, LeaseSteps.probe, {"by": routers, "key": some.urls, "error": some.errors, "times": st.integers(1, 3)}),
        (
            2,
            Steps.record_outcome,
            {"by": routers, "verdict": some.verdicts, "limits": some.limits, "is_passive": st.booleans()},
        ),
        (2, Steps.heartbeat, {"number": routers}),
        (3, LeaseSteps.acquire, {"number": routers, "tie": st.integers(0, 2), "times": st.integers(1, 2)}),
        (2, LeaseSteps.release, {"number": routers, "which": some.which, "affinity_seconds": st.just(0)}),
        (1, LeaseSteps.restore, {"number": routers, "held": some.held}),
    )

    @initialize(life=st.lists(some.step(*writes, (4, age, {"number": routers})), min_size=4, max_size=15))
    def begin(self, life: list[Step]) -> None:
        for number in range(ROUTERS):
            self.start(number)
        for url in CONFIGURED:
            self.register(0, Source.SEED, (url, Spec(url)))
        for step in life:
            self._do(step)
        self.lose()

    @rule(
        step=some.step(
            *writes,
            (1, Steps.trim_stream, {"left": st.integers(1, 3)}),
            (1, read_again, {"number": routers}),
            (2, restart_router, {"number": routers}),
            (12, put_back, {"number": routers, "calls": st.integers(1, 3)}),
            (1, settle, {}),
            (2, age, {"number": routers}),
            (2, lose, {}),
        )
    )
    def happen(self, step: Step) -> None:
        self._do(step)

    def teardown(self) -> None:
        try:
            if not self.has_failed:
                self.settle()
        finally:
            super().teardown()


def chosen(fields: Fields, names: Sequence[str]) -> Fields:
    return {name: fields[name] for name in names if name in fields}


def goes_when_drained(fields: Fields) -> bool:
    return fields.get("removes_when_drained") == "1"


@takes_long
def test_the_newest_view_comes_out_and_nothing_written_since_is_lost(place_on: Callable[..., Place]) -> None:
    run_machine(Losses, place_on(), examples=25, steps=20)
