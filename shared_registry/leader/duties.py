"""What a router does for all others while it leads: its duties run beside each other, and end with the term."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from shared_registry.errors import Fenced
from shared_registry.leader.election import RunningTerm, StandAside
from shared_registry.model import Event


class Duty(Protocol):
    """One of them."""

    def notice(self, events: Sequence[Event]) -> None:
        """Take note of changes, at any time. For `Mirror.subscribed`; no events mean that anything may have changed."""

    async def run(self, term: RunningTerm) -> None:
        """Do it for one term. Cancelled when the term ends; may return earlier where nothing is to be done.

        Raises:
            Fenced: Another leader has been elected, and Redis refused a write.
            StandAside: Another router should lead.
        """


async def perform(duties: Sequence[Duty], term: RunningTerm) -> None:
    """Run all duties of a term at the same time.

    Raises:
        Fenced: One of them raised that.
        StandAside: Likewise, and none was fenced.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for duty in duties:
                group.create_task(duty.run(term))
    except BaseExceptionGroup as failures:
        end = end_of_term(failures)
        if end is None:
            raise
        raise end from None


def end_of_term(failures: BaseExceptionGroup) -> Fenced | StandAside | None:
    """Return why a term is over, where nothing else is wrong; that it was fenced comes first."""
    ended, rest = failures.split((Fenced, StandAside))
    if ended is None or rest is not None:
        return None
    leaves = [*_leaves(ended)]
    return next((leaf for leaf in leaves if isinstance(leaf, Fenced)), leaves[0])


def _leaves(group: BaseExceptionGroup) -> list[Fenced | StandAside]:
    found: list[Fenced | StandAside] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found += _leaves(error)
        elif isinstance(error, Fenced | StandAside):
            found.append(error)
    return found
