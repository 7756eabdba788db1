"""Output that continues until Ctrl-C, also while Redis is away: `status --watch` and `events --follow`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

from rich.console import Group
from rich.live import Live
from rich.text import Text

from shared_registry.admin.observer import Observer, Overview
from shared_registry.cli.access import address_document
from shared_registry.cli.console import duration
from shared_registry.cli.options import print_json
from shared_registry.cli.status import overview_document, overview_text
from shared_registry.cli.tables import new_console
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreError
from shared_registry.model import ORIGIN, Event, is_later

PAUSE_SECONDS = 0.5
Show = Callable[[Overview, float, StoreError | None], None]
"""Shows an overview, its age in seconds, and the error that kept it from being read again, if there was one."""


async def watch_status(settings: RouterConfig, *, interval_seconds: float, as_json: bool) -> None:
    """Read and show the status every `interval_seconds` until cancelled.

    While Redis fails, it shows the last status with its age and the error.

    Raises:
        StoreError: The first status could not be read.
    """
    async with Observer(settings) as observer:
        first = await observer.overview()
        if as_json:
            await _renew(observer, first, interval_seconds, _json_lines(settings))
            return
        console = new_console(None if sys.stdout.isatty() else 250)
        if not console.is_terminal:
            await _renew(observer, first, interval_seconds, lambda *state: console.print(_page(settings, *state), ""))
            return
        with Live(console=console, auto_refresh=False) as live:
            await _renew(
                observer, first, interval_seconds, lambda *state: live.update(_page(settings, *state), refresh=True)
            )


async def _renew(observer: Observer, overview: Overview, interval_seconds: float, show: Show) -> None:
    read_at = time.monotonic()
    trouble: StoreError | None = None
    while True:
        show(overview, time.monotonic() - read_at, trouble)
        await asyncio.sleep(interval_seconds)
        try:
            overview, read_at, trouble = await observer.overview(), time.monotonic(), None
        except StoreError as error:
            trouble = error


def _page(settings: RouterConfig, overview: Overview, age: float, trouble: StoreError | None) -> Group:
    page = overview_text(settings, overview)
    return Group(page, Text(f"{duration(age)} old: {trouble}", "red")) if trouble else Group(page)


def _json_lines(settings: RouterConfig) -> Show:
    def show(overview: Overview, age: float, trouble: StoreError | None) -> None:
        if trouble is None:
            print_json(overview_document(settings, overview), is_line=True)
        else:
            print_json(
                {**address_document(settings), "error": str(trouble), "age_seconds": round(age, 3)}, is_line=True
            )

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
