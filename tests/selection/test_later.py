"""Large work of policies is done in pieces where somebody takes them on, and at once where nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from shared_registry.selection import Selection
from shared_registry.selection.hash_ring import HashRing
from shared_registry.selection.later import Later
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Members
from shared_registry.selection.view import View
from tests.support.choices import members, record, replicas, shown
from tests.support.until import until

KEYS = [f"client-{number}" for number in range(500)]


class Work:
    def __init__(self, pieces: int) -> None:
        self.left = pieces

    def piece(self) -> bool:
        self.left -= 1
        return self.left == 0


@contextlib.asynccontextmanager
async def running(later: Later) -> AsyncIterator[None]:
    task = asyncio.create_task(later.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_no_work_is_put_off_where_nobody_takes_pieces() -> None:
    later, work = Later(), Work(5)
    assert not later.put_off(work.piece)
    assert (work.left, later.is_done) == (5, True)


def test_work_that_is_left_at_the_end_is_done_there() -> None:
    later, works = Later(), [Work(5), Work(3)]
    with later.in_pieces():
        for work in works:
            assert later.put_off(work.piece)
        later.do_piece()
        assert [work.left for work in works] == [4, 3]
    assert [work.left for work in works] == [0, 0]
    assert later.is_done


async def test_other_tasks_run_between_the_pieces() -> None:
    later, work = Later(), Work(20)
    async with running(later):
        assert later.put_off(work.piece)
        seen = {work.left}
        while not later.is_done:
            await asyncio.sleep(0)
            seen.add(work.left)
        assert seen == set(range(21))
        again = Work(3)
        assert later.put_off(again.piece)
        await until(lambda: later.is_done)
    assert again.left == 0


async def test_a_ring_that_is_made_anew_lets_sessions_go_on() -> None:
    """Every session gets a replica, a key whose replica stays keeps it, and all routers agree at the end."""
    view = shown(View(Selection("hash")), *(record(number) for number in range(300)))
    later = view.selection.later
    async with running(later):
        view.apply([record(number, weight=3.0, revision=2) for number in range(300)])
        turns = 0
        while not later.is_done:
            assert None not in [view.selection.select(None, key, ()) for key in KEYS[:10]]
            turns += 1
            await asyncio.sleep(0)
    assert turns >= 10
    other = shown(View(Selection("hash")), *(record(number, weight=3.0) for number in range(300)))
    chosen = [[one.selection.select(None, key, ()).key for key in KEYS] for one in (view, other)]  # type: ignore[union-attr]
    assert chosen[0] == chosen[1]


def test_exclusions_leave_members_whose_points_are_not_there_yet() -> None:
    everyone, later = replicas(100), Later()
    policy = HashRing(random.Random(1), Loads(), later=later)
    with later.in_pieces():
        policy.update(Members(everyone, [1.0] * 100))
        present = {replica.key for replica in everyone if replica in policy._ring._sizes}
        assert 0 < len(present) < 100
        chosen = policy.choose_except("a", present)
        assert chosen is not None
        assert chosen.key not in present


def test_a_member_that_left_is_not_chosen_while_points_move() -> None:
    group, later = members([1.0] * 200), Later()
    policy = HashRing(random.Random(1), Loads(), later=later)
    policy.update(group)
    with later.in_pieces():
        policy.update(Members(group.replicas[1:], [4.0] * 199))
        assert not later.is_done
        assert group.replicas[0] not in [policy.choose(key) for key in KEYS]
