"""The commands that look: status, routers, leases, queue, events, wait."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import RenderableType

from shared_registry.admin.observer import Observer
from shared_registry.aio.stop_signals import until_stopped
from shared_registry.cli.access import explained, observe, place
from shared_registry.cli.console import new_console, print_line
from shared_registry.cli.event_lines import event_document, event_line
from shared_registry.cli.exit_codes import FOUND_WRONG, OK
from shared_registry.cli.lease_list import leases_document, leases_text
from shared_registry.cli.live import follow_events, watch_status
from shared_registry.cli.options import (
    ConfigOption,
    GlobalOptions,
    JsonOption,
    NamespaceOption,
    RedisOption,
    given,
    log_to_stderr,
    print_json,
    seconds_above_zero,
)
from shared_registry.cli.queue_list import queue_document, queue_text
from shared_registry.cli.router_list import routers_document, routers_text
from shared_registry.cli.status import overview_document, overview_text
from shared_registry.cli.waiting import wait_ready
from shared_registry.config import RouterConfig
from shared_registry.errors import UsageError
from shared_registry.model import Event
from shared_registry.store.replica_fields import Document, documented

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., None])
EVENTS_SHOWN = 20
WAITERS_SHOWN = 20
EVENTS_AT_ONCE = 500
commands = typer.Typer()


def _with_replica_fields(command: C) -> C:
    """Put in the help the names that JSON documents have for a replica's fields."""
    text = command.__doc__ or ""
    for which in (Document.STATUS, Document.EVENT):
        text = text.replace(f"{{{which.name}}}", f"{{{', '.join(documented(which))}}}")
    command.__doc__ = text
    return command


@commands.command(
    epilog="Examples: `shared-registry status --watch --interval 0.5`; "
    "`shared-registry --redis redis://127.0.0.1:6379/0 -n pool status --json`"
)
@_with_replica_fields
def status(
    context: typer.Context,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Renew it until Ctrl-C, also while Redis is away.")
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            metavar="SECONDS",
            help="How often to renew it; default: 1.",
            callback=seconds_above_zero,
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show replicas, leader and routers, without joining them.

    --json prints one object: redis, namespace, at, history_id, revision, epoch, leader {router, epoch, elected_at} or
    null, live_routers, last_heartbeat_at (of any router), queue {depth}, panic (why, or null), and replicas [{STATUS}].
    Times are seconds since the epoch on the Redis server's clock. Capacity 0 is unlimited.
    With --watch it is one such object a line, or {redis, namespace, error, age_seconds} while Redis is away.
    """
    options = given(context, redis, namespace, as_json=as_json)
    if interval is not None and not watch:
        raise UsageError("--interval: says how often --watch renews the table; add --watch")
    if watch:
        log_to_stderr()
        settings = options.load(config)
        with explained(settings):
            asyncio.run(
                until_stopped(watch_status(settings, interval_seconds=interval or 1.0, as_json=options.as_json))
            )
        return
    _show(options, config, Observer.overview, overview_document, overview_text)


def _show(
    options: GlobalOptions,
    config: Path | None,
    look: Callable[[Observer], Awaitable[T]],
    document: Callable[[RouterConfig, T], object],
    text: Callable[[RouterConfig, T], RenderableType],
) -> None:
    """Look once, and print what was found, for people or as JSON."""
    log_to_stderr()
    settings = options.load(config)
    found = observe(settings, look)
    if options.as_json:
        print_json(document(settings, found))
    else:
        new_console().print(text(settings, found))


@commands.command(epilog="Examples: `shared-registry routers`; `shared-registry routers --json -n pool`")
def routers(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the routers: who leads, how long each is up, its last heartbeat, and whose settings differ.

    A router whose shared settings (probing, lease, heartbeat) are not the leader's is marked "differs".

    --json prints one object: redis, namespace, at, leader {router, epoch, elected_at} or null, and routers [{key, host,
    pid, version, url, started_at, last_beat_at, expires_at, is_live, is_leader, config_fingerprint,
    agrees_with_leader}], the last of them null where nobody leads.
    """
    options = given(context, redis, namespace, as_json=as_json)
    _show(options, config, Observer.routers, routers_document, routers_text)


@commands.command(epilog="Examples: `shared-registry leases`; `shared-registry leases --json -n pool`")
def leases(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the leases: which router holds a slot on which replica, and for which session.

    Sessions are shown by the beginning of their name's SHA-256; the names themselves are not in Redis.

    --json prints one object: redis, namespace, and leases [{id, router, url, session_digest}], the last of them null
    for a session without a name.
    """
    options = given(context, redis, namespace, as_json=as_json)
    _show(options, config, Observer.leases, leases_document, leases_text)


@commands.command(epilog="Examples: `shared-registry queue`; `shared-registry queue --count 5 --json -n pool`")
def queue(
    context: typer.Context,
    *,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=0, help="How many to show, from the first in the queue on.")
    ] = WAITERS_SHOWN,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who waits for a slot: in which order, at which router, for which session, and how long already.

    Sessions are shown by the beginning of their name's SHA-256; the names themselves are not in Redis.

    --json prints one object: redis, namespace, at, depth, and waiters [{position, id, router, session_digest, since}],
    where id is that of the lease to come, and session_digest null for a session without a name. Times are seconds since
    the epoch on the Redis server's clock.
    """
    options = given(context, redis, namespace, as_json=as_json)
    _show(options, config, lambda observer: observer.queue(count), queue_document, queue_text)


def _revision(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9]{1,18}(-[0-9]{1,18})?", text):
        raise typer.BadParameter("must be the id of an event, such as 1764032400123-0, or milliseconds since the epoch")
    return text


@commands.command(
    epilog="Examples: `shared-registry events --follow`; `shared-registry events --count 5`; "
    "`shared-registry events --after 1764032400123-0 --json`"
)
@_with_replica_fields
def events(
    context: typer.Context,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those to come, until Ctrl-C.")] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            metavar="N",
            min=0,
            max=10_000,
            help=f"How many of the latest, or with --after of the next; default: {EVENTS_SHOWN}, with --after all.",
            show_default=False,
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="ID", help="Only those that follow this one.", callback=_revision, show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened: every change of replicas, leader and routers, oldest first, with who asked for it and why.

    --json prints one object: redis, namespace, and events [{id, kind, at, previous, router, epoch, by, reason,
    sit_out_seconds, replica}], where replica is null or {EVENT}.
    With --follow it is one event a line.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.load(config)
    if follow and after and count is not None:
        raise UsageError("--count: with --after and --follow all that follow are shown; leave it out")

    def show(event: Event) -> None:
        if options.as_json:
            print_json(event_document(event), is_line=True)
        else:
            print_line(event_line(event))

    if follow:
        with explained(settings):
            asyncio.run(until_stopped(_follow(settings, after, EVENTS_SHOWN if count is None else count, show)))
        return
    found = observe(settings, lambda observer: _read_events(observer, after, count))
    if options.as_json:
        print_json({**place(settings), "events": [event_document(event) for event in found]})
    else:
        sys.stdout.writelines(event_line(event) + "\n" for event in found)


async def _read_events(observer: Observer, after: str | None, count: int | None) -> list[Event]:
    if after is None:
        shown = EVENTS_SHOWN if count is None else count
        return await observer.last_events(shown) if shown else []
    found: list[Event] = []
    while count is None or len(found) < count:
        at_once = EVENTS_AT_ONCE if count is None else min(EVENTS_AT_ONCE, count - len(found))
        page = await observer.events(after=found[-1].id if found else after, count=at_once)
        found += page
        if len(page) < at_once:
            break
    return found


async def _follow(settings: RouterConfig, after: str | None, count: int, show: Callable[[Event], None]) -> None:
    async with Observer(settings) as observer:
        if after is not None:
            await follow_events(observer, after=after, is_known=False, show=show)
        head = await observer.head()
        latest = await observer.last_events(max(count, 1))
        for event in latest if count else []:
            show(event)
        await follow_events(
            observer, after=latest[-1].id if latest else head.revision, is_known=bool(latest), show=show
        )


@commands.command(
    epilog="Examples: `shared-registry wait --ready 2 --timeout 60 && start-traffic`; as a container's health check: "
    "`shared-registry wait --ready 1 --timeout 0`"
)
def wait(
    context: typer.Context,
    *,
    ready: Annotated[int, typer.Option("--ready", metavar="N", min=1, help="How many replicas have to be ready.")],
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Give up after that; 0 looks once.")
    ] = 30.0,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait until at least N replicas may take a session now: healthy, active and below their capacity.

    Exits with 1 when the time is up before, with 3 if Redis could not be reached then. Until then it keeps trying.

    --json prints one object: redis, namespace, wanted, ready, is_ready, seconds.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.load(config)
    begun = time.monotonic()
    found = asyncio.run(wait_ready(settings, ready, timeout_seconds=timeout))
    seconds = time.monotonic() - begun
    if options.as_json:
        document = {"wanted": ready, "ready": found, "is_ready": found >= ready, "seconds": round(seconds, 3)}
        print_json({**place(settings), **document})
    else:
        verdict = "" if found >= ready else "; `shared-registry status` shows what keeps the others"
        print_line(f"{found} ready, {ready} wanted, after {seconds:.1f} s{verdict}")
    raise typer.Exit(OK if found >= ready else FOUND_WRONG)
