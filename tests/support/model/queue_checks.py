"""What must be true of the queue, whatever the rules say, and what others see of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shared_registry.admin.check import Violation
from shared_registry.admin.inspector import Inspector
from tests.support.model.queue_rules import QueueRules, lease_id_of, router_of
from tests.support.model.values import Dump, exact

Position = tuple[float, str]
"""What who waits is ordered by."""


def expect_fair(expected: QueueRules, before: Dump, found: Dump, *, slots_are_kept: bool) -> None:
    """Fail if anybody has a slot before one who came earlier, or if anybody who may have one waits beside room.

    Of what the model says of the line, this takes only which routers are given up.

    Args:
        expected: Says which routers are given up.
        before: Every key before the command.
        found: Every key after it.
        slots_are_kept: Whether the command put back leases or moved one, so that those new at a router are not new.
    """

    def may_have_one(router: str) -> bool:
        return router in expected.routers and not expected.is_given_up(router)

    assert expected.is_cut_short or not _waits_beside_free_slots(found, may_have_one)
    if slots_are_kept:
        return
    before_positions, positions = _queue_in(before), _queue_in(found)
    still = [one for one in positions.keys() & before_positions.keys() if may_have_one(router_of(one))]
    for one in _leases_in(found) - _leases_in(before):
        is_healthy = _status_of(found, one) == "healthy"
        patient = [positions[other] for other in still if is_healthy or "~healthy" not in other]
        assert not patient or (one in before_positions and before_positions[one] < min(patient)), (
            f"{one} has passed others"
        )


async def expect_shown(expected: QueueRules, reader: Inspector) -> None:
    """Fail unless what routers and operators read of the line is what is there."""
    waiters = expected.waiters()
    shown = [one async for page in reader.waiters() for one in page]
    assert [f"{one.router}/{one.lease_id}" for one in shown] == waiters
    assert [one.sequence for one in shown] == [exact(expected.queue[waiter]) for waiter in waiters]
    for router in {*map(router_of, waiters), "no-such-router"}:
        asked = ["0000", *expected.waiting_of(router)[::-1]]
        assert await reader.positions(router, asked) == (len(waiters), expected.positions(router))
    inspection = await reader.inspect_queue(sorted(expected.inboxes))
    ready = expected.ready()
    assert inspection.waiting == sum(expected.is_alive(router_of(waiter)) for waiter in waiters)
    assert inspection.ready == len(ready.primary) + len(ready.secondary)
    assert sorted(inspection.unlisted) == sorted(expected.unlisted())


def expect_found(expected: QueueRules, found: Dump, violations: Sequence[Violation]) -> None:
    """Fail unless the check has named the routers that are none, and said whether somebody waits beside room."""
    about = [violation.router for violation in violations]
    assert {*about} - {""} == expected.unlisted()
    assert ("" in about) is _waits_beside_free_slots(found, expected.is_alive)


def _waits_beside_free_slots(found: Dump, may_have_one: Callable[[str], bool]) -> bool:
    has_free_slots = "ready:primary" in found or "ready:secondary" in found
    return has_free_slots and any(may_have_one(router_of(waiter)) for waiter in _queue_in(found))


def _queue_in(dump: Dump) -> dict[str, Position]:
    queue: Any = dump.get("queue", {})
    return {waiter: (sequence, waiter) for waiter, sequence in queue.items()}


def _status_of(dump: Dump, lease: str) -> object:
    """Return the status of the replica that a lease is on."""
    leases: Any = dump[f"leases:{router_of(lease)}"]
    replica: Any = dump[f"replica:{leases[lease_id_of(lease)]}"]
    return replica["status"]


def _leases_in(dump: Dump) -> set[str]:
    """Return every lease as who waited for it stood in the queue."""
    held: list[tuple[str, Any]] = [(name, value) for name, value in dump.items() if name.startswith("leases:")]
    return {f"{name.removeprefix('leases:')}/{lease_id}" for name, leases in held for lease_id in leases}
