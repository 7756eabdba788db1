"""Output that continues until Ctrl-C, also while Redis is away: `status --watch` and `events --follow`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from shared_registry.admin.durations import since
from shared_registry.admin.observer import Observer, Overview
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration, print_json
from shared_registry.cli.overview_document import overview_document
from shared_registry.cli.replica_filter import ReplicaFilter
from shared_registry.cli.status import overview_text
from shared_registry.cli.tables import Group, Text, is_drawn, output_width, print_shown
from shared_registry.config.address import RegistryAddress
from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.model import ORIGIN, Event, is_later
from shared_registry.store.redis_url import mask_redis_url

PAUSE_SECONDS = 0.5
SHORTEST_SECONDS = 0.1
"""The least time between two updates of a status, however many events there are; a slow reading lengthens it."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of the registry.

    Attributes:
        overview: The last status that was read; `None` before the first.
        age: How many seconds ago that was, or how many seconds ago the command began.
        trouble: The error that kept the status from being read again, if there was one.
    """

    overview: Overview | None
    age: float
    trouble: StoreError | None


Show = Callable[[State], None]


async def watch_status(
    settings: RegistryAddress, chosen: ReplicaFilter, *, interval_seconds: float, as_json: bool
) -> None:
    """Read and show the status at each change, and at least every `interval_seconds`, until cancelled.

    While Redis cannot be reached, also at the start, it shows the error, and the last status with its age.

    Raises:
        StoreError: Redis could be reached at the start, but refused the command.
    """
    if as_json:
        await _renew(settings, interval_seconds, _json_lines(settings, chosen))
        return
    if not is_drawn():
        width = output_width()
        await _renew(
            settings, interval_seconds, lambda state: print_shown(Group(_page(settings, state, chosen, width), ""))
        )
        return
    from rich.live import Live  # noqa: PLC0415  slow to import

    from shared_registry.cli.drawing import drawn, new_console  # noqa: PLC0415  rich

    console = new_console(None if sys.stdout.isatty() else output_width())
    with Live(console=console, auto_refresh=False) as live:
        await _renew(
            settings,
            interval_seconds,
            lambda state: live.update(drawn(_page(settings, state, chosen, console.width)), refresh=True),
        )


async def _renew(settings: RegistryAddress, interval_seconds: float, show: Show) -> None:
    overview: Overview | None = None
    read_at = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        observer: Observer | None = None
        while True:
            trouble: StoreError | None = None
            began_at = time.monotonic()
            try:
                if observer is None:
                    observer = await stack.enter_async_context(Observer(settings))
                overview = await observer.overview()
                read_at = time.monotonic()
            except StoreUnavailable as error:
                trouble = error
            except StoreError as error:
                if overview is None:
                    raise
                trouble = error
            show(State(overview, time.monotonic() - read_at, trouble))
            pause = min(interval_seconds, max(SHORTEST_SECONDS, time.monotonic() - began_at))
            await asyncio.sleep(pause)
            if trouble is None and observer is not None and overview is not None:
                await _change(observer, overview, interval_seconds - pause)
            else:
                await asyncio.sleep(interval_seconds - pause)


async def _change(observer: Observer, overview: Overview, seconds: float) -> None:
    """Wait for an event after a status, that long at most."""
    until = time.monotonic() + seconds
    with contextlib.suppress(StoreError):  # the next reading shows it
        if seconds <= 0 or await observer.wait_events(after=overview.head.revision, seconds=seconds):
            return
    await asyncio.sleep(max(0.0, until - time.monotonic()))


def _page(settings: RegistryAddress, state: State, chosen: ReplicaFilter, width: int) -> Group:
    if state.overview is None:
        where = mask_redis_url(settings.redis_url)
        return Group(Text(f"Redis at {where} cannot be read for {since(state.age)}: {state.trouble}", "bold red"))
    page = overview_text(
        settings, state.overview, chosen, width=width, away_seconds=state.age if state.trouble else None
    )
    old = f"{duration(state.age)} old: {state.trouble}"
    return Group(page, Text(old, "red")) if state.trouble else Group(page)


def _json_lines(settings: RegistryAddress, chosen: ReplicaFilter) -> Show:
    def show(state: State) -> None:
        if state.trouble is None and state.overview is not None:
            print_json(overview_document(settings, state.overview, chosen), is_line=True)
        else:
            age = None if state.overview is None else round(state.age, 3)
            print_json({**address_document(settings), "error": str(state.trouble), "age_seconds": age}, is_line=True)

    return show


async def follow_events(observer: Observer, *, after: str, is_known: bool, show: Callable[[Event], None]) -> None:
    """Show each event after a revision until cancelled. Report gaps and outages on standard error.

    Args:
        observer: Reads the event stream.
        after: The revision.
        is_known: Whether the revision was read from the event stream. If so, the next event must name it as its
            previous one, or events are missing.
        show: Called with each event.
    """
    is_away, mark = False, ""
    while True:
        try:
            events = await observer.wait_events(after=after, seconds=1.0)
            head = None if events else await observer.head()
        except StoreError as error:
            if not is_away:
                _note(f"{error}; trying again until it answers")
            is_away = True
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        if is_away:
            _note("Redis is back")
        is_away = False
        for event in events:
            if is_known and not event.follows(after, mark):
                _note("events are missing here: the event stream was trimmed, or Redis lost its data")
            show(event)
            after, mark, is_known = event.id, event.mark, True
        if head is not None and is_known and is_later(after, head.revision):
            _note("the event stream starts again from its beginning: Redis lost its data")
            after, mark, is_known = ORIGIN, "", True


def _note(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")
    sys.stderr.flush()
