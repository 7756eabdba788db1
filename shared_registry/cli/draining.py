"""`shared-registry drain --wait`: waits until the drained replicas have no session, and reports on standard error."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shared_registry.admin.operator import Operator
from shared_registry.config import RouterConfig

POLL_SECONDS = 1.0
"""How often the number of sessions is read while no event says that a replica has none left."""
EVENTS_SECONDS = 0.05
"""The least time between two readings, however many events there are."""


async def wait_drained(settings: RouterConfig, names: Sequence[str], *, timeout_seconds: float | None) -> int:
    """Wait until the replicas have no session, or until the timeout, and return the number of sessions left.

    The number is read at least once. Progress is a bar on a terminal, and otherwise a line for each change.

    Raises:
        StoreUnavailable: Redis did not answer; the replicas continue to drain.
        UnknownReplica: A replica was never registered.
    """
    deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    async with Operator(settings) as operator:
        targets = await operator.find(names, also_removed=True)
        revision, left = await operator.revision(), await operator.sessions_left(targets)
        with _Progress(left) as progress:
            while left and time.monotonic() < deadline:
                pause = min(POLL_SECONDS, max(deadline - time.monotonic(), 0.0))
                await asyncio.sleep(min(EVENTS_SECONDS, pause))
                events = await operator.wait_events(after=revision, seconds=pause)
                revision = events[-1].id if events else revision
                left = await operator.sessions_left(targets)
                progress.show(left)
    return left


class _Progress:
    """Shows how many sessions are left: as a bar on a terminal, and otherwise as lines."""

    def __init__(self, sessions: int) -> None:
        self._console = Console(stderr=True)
        self._sessions = self._shown = sessions
        self._bar = Progress(
            TextColumn("draining"),
            BarColumn(),
            TextColumn("{task.fields[left]} sessions left"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("draining", total=max(sessions, 1), left=sessions)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        self._print_left(self._sessions)
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:  # rich before 14.3 prints an empty line for a bar that was never started
            self._bar.stop()

    def show(self, left: int) -> None:
        """Update the number of sessions left."""
        self._bar.update(self._task, completed=max(self._sessions - left, 0), left=left)
        if left != self._shown:
            self._shown = left
            self._print_left(left)

    def _print_left(self, left: int) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{left} sessions left", highlight=False)
