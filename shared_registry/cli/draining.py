"""`shared-registry drain --wait`: until no session is left on the drained replicas, with progress on standard error."""

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

LOOK_SECONDS = 0.2


async def wait_drained(settings: RouterConfig, names: Sequence[str], *, timeout_seconds: float | None) -> int:
    """Return how many sessions are left: none, or some when the time is up. Looks at least once.

    On a terminal a bar shows how far it has come; otherwise each change of the number is a line.

    Raises:
        StoreUnavailable: Redis did not answer; what was asked for goes on all the same.
        UnknownReplica: A replica was removed more than seven days ago, or never registered.
    """
    deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    async with Operator(settings) as operator:
        targets = await operator.find(names, also_removed=True)
        left = await operator.sessions_left(targets)
        with _Progress(left) as progress:
            while left and time.monotonic() < deadline:
                await asyncio.sleep(min(LOOK_SECONDS, max(deadline - time.monotonic(), 0.0)))
                left = await operator.sessions_left(targets)
                progress.show(left)
    return left


class _Progress:
    """How many of the sessions have ended."""

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
        self._tell(self._sessions)
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:  # rich before 14.3 ends also a bar that was not started with an empty line
            self._bar.stop()

    def show(self, left: int) -> None:
        """Show how many are left now."""
        self._bar.update(self._task, completed=max(self._sessions - left, 0), left=left)
        if left != self._shown:
            self._shown = left
            self._tell(left)

    def _tell(self, left: int) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{left} sessions left", highlight=False)
