"""A leader's duties run beside each other, and one that ends the term ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from shared_registry.errors import Fenced
from shared_registry.leader.duties import perform
from shared_registry.leader.election import RunningTerm, StandAside
from shared_registry.model import Event
from tests.support.fake_clock import FakeClock


class Endless:
    """A duty until it is cancelled."""

    def __init__(self) -> None:
        self.is_running = False

    def notice(self, events: Sequence[Event]) -> None:
        pass

    async def run(self, term: RunningTerm) -> None:
        self.is_running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_running = False


class Failing(Endless):
    """One that ends the term, in a group of tasks of its own."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = errors

    async def run(self, term: RunningTerm) -> None:
        raise ExceptionGroup("several", self.errors) if len(self.errors) > 1 else self.errors[0]


class Done(Endless):
    """One that has nothing to do."""

    async def run(self, term: RunningTerm) -> None:
        return


@pytest.fixture
def term() -> RunningTerm:
    return RunningTerm(7, "token", 1e6, FakeClock())


@pytest.mark.parametrize("error", [Fenced("over"), StandAside("blind"), RuntimeError("a bug")])
async def test_a_failing_duty_ends_the_others(term: RunningTerm, error: Exception) -> None:
    endless = Endless()
    with pytest.raises((type(error), ExceptionGroup)) as caught:
        await perform([endless, Done(), Failing(error)], term)
    assert not endless.is_running
    assert isinstance(caught.value, ExceptionGroup) == isinstance(error, RuntimeError)


async def test_a_fenced_term_takes_precedence_over_other_errors(term: RunningTerm) -> None:
    with pytest.raises(Fenced, match="over"):
        await perform([Failing(StandAside("blind"), Fenced("over"))], term)


async def test_a_bug_is_reported_besides_the_end_of_the_term(term: RunningTerm) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await perform([Failing(Fenced("over"), RuntimeError("a bug"))], term)
    assert caught.group_contains(RuntimeError, match="a bug")


async def test_leading_ends_once_all_duties_are_done(term: RunningTerm) -> None:
    await asyncio.wait_for(perform([Done(), Done()], term), 5)


async def test_cancelled_duties_leave_no_task_running(term: RunningTerm) -> None:
    endless = Endless()
    task = asyncio.ensure_future(perform([endless], term))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert endless.is_running
    task.cancel()
    await asyncio.wait([task])
    assert (task.cancelled(), endless.is_running) == (True, False)
