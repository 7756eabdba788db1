"""`shared-registry drain --wait`: waits until the drained replicas have no session, and reports on standard error."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

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
        with _progress(left) as show:
            while left and time.monotonic() < deadline:
                pause = min(POLL_SECONDS, max(deadline - time.monotonic(), 0.0))
                await asyncio.sleep(min(EVENTS_SECONDS, pause))
                events = await operator.wait_events(after=revision, seconds=pause)
                revision = events[-1].id if events else revision
                left = await operator.sessions_left(targets)
                show(left)
    return left


@contextlib.contextmanager
def _progress(sessions: int) -> Iterator[Callable[[int], None]]:
    """Show how many sessions are left, each time that the function is called with their number."""
    if not sys.stderr.isatty() and not os.environ.get("FORCE_COLOR"):
        shown = None

        def print_left(left: int) -> None:
            nonlocal shown
            if left != shown:
                shown = left
                sys.stderr.write(f"{left} sessions left\n")
                sys.stderr.flush()

        print_left(sessions)
        yield print_left
        return
    from rich.console import Console  # noqa: PLC0415  slow to import
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = TextColumn("draining"), BarColumn(), TextColumn("{task.fields[left]} sessions left"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("draining", total=max(sessions, 1), left=sessions)
        yield lambda left: bar.update(task, completed=max(sessions - left, 0), left=left)
