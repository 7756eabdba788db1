"""What listeners hear of this router's terms: each begins and ends once, with the reason of its end."""

from __future__ import annotations

import pytest

from shared_registry.errors import Fenced
from shared_registry.happenings import Happening, TermBegan, TermEnd, TermEnded
from shared_registry.leader.election import RunningTerm, StandAside
from tests.support.electing_router import LEASE, SIT_OUT, Lock, Router, deposed
from tests.support.fake_clock import FakeClock


def listening(lock: Lock) -> tuple[Router, list[Happening]]:
    router, heard = Router(lock), list[Happening]()
    router.emitter.subscribe(heard.append)
    return router, heard


def ends(heard: list[Happening]) -> list[tuple[int, TermEnd, str]]:
    """Return how terms ended; fail unless beginnings and ends alternate."""
    for position, one in enumerate(heard):
        assert isinstance(one, TermEnded if position % 2 else TermBegan)
    return [(one.epoch, one.end, one.reason) for one in heard if isinstance(one, TermEnded)]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (StandAside("too many open files"), TermEnd.BLIND),
        (StandAside("others reach it", is_contradicted=True), TermEnd.CONTRADICTED),
        (Fenced("another router leads"), TermEnd.LOST),
    ],
)
async def test_the_work_of_a_leader_may_end_its_term(
    clock: FakeClock, lock: Lock, error: Exception, end: TermEnd
) -> None:
    async def work(_: RunningTerm) -> None:
        await clock.sleep(1.0)
        raise error

    router, heard = listening(lock)
    router.work = work
    await router.start()
    await clock.run_until(lambda: len(heard) >= 2)
    assert ends(heard) == [(1, end, str(error))]
    await router.stop()


async def test_a_lost_lease_and_a_stop_are_told_apart(clock: FakeClock, lock: Lock) -> None:
    router, heard = listening(lock)
    await router.start()
    lock.seize()
    await clock.run_until(lambda: len(heard) >= 2)
    await clock.run_until(lambda: len(heard) >= 3)
    await router.stop()
    assert ends(heard) == [(1, TermEnd.LOST, ""), (3, TermEnd.RESIGNED, "")]


async def test_an_operator_ends_a_term(clock: FakeClock, lock: Lock) -> None:
    router, heard = listening(lock)
    await router.start()
    router.election.notice([deposed()])
    await clock.advance(LEASE)
    assert ends(heard) == [(1, TermEnd.DEPOSED, "")]
    await clock.advance(SIT_OUT + LEASE)
    await router.stop()
