"""The duties of the leader: the work that it does for all routers. They run concurrently, and end with the term."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from shared_registry.errors import Fenced
from shared_registry.leader.election import RunningTerm, StandAside
from shared_registry.model import Event


class Duty(Protocol):
    """One duty of the leader."""

    def notice(self, events: Sequence[Event]) -> None:
        """Receive changes, at any time. For `Mirror.subscribed`; no events mean that anything may have changed."""

    async def run(self, term: RunningTerm) -> None:
        """Do the duty for one term. Cancelled when the term ends; may return earlier if nothing is to be done.

        Raises:
            Fenced: Another leader was elected, and Redis refused a write.
            StandAside: Another router should be the leader.
        """


async def perform(duties: Sequence[Duty], term: RunningTerm) -> None:
    """Run all duties of a term at the same time.

    Raises:
        Fenced: A duty raised `Fenced`.
        StandAside: A duty raised `StandAside`, and none raised `Fenced`.
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
    """Return the error that ended a term, `Fenced` before `StandAside`; `None` if there are other errors too."""
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
