"""The commands that only read: status, routers, leases, queue, events, wait.

Each imports what draws its table when it runs: rich is slow to import, and other commands do not need it.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from shared_registry.admin.observer import Observer
from shared_registry.aio.stop_signals import until_stopped
from shared_registry.cli.access import address_document, explained, observe
from shared_registry.cli.console import print_json, print_line, printable
from shared_registry.cli.event_filter import EventFilter, parse_age, parse_kinds
from shared_registry.cli.event_lines import event_line
from shared_registry.cli.exit_codes import FOUND_WRONG, OK, UNREACHABLE
from shared_registry.cli.global_options import GlobalOptions
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import (
    ConfigOption,
    JsonOption,
    NamespaceOption,
    RedisOption,
    SelectorOption,
    given,
    label_selector,
    seconds_above_zero,
)
from shared_registry.cli.reading import WAITERS_SHOWN, show_leases, show_queue, show_removals, show_routers, show_status
from shared_registry.cli.replica_filter import ReplicaFilter, SortField
from shared_registry.cli.waiting import wait_ready
from shared_registry.config.address import RegistryAddress
from shared_registry.errors import UsageError
from shared_registry.model import Event, is_later
from shared_registry.store.event_document import event_document
from shared_registry.store.replica_fields import Document, documented
from shared_registry.urls import canonical_url

if TYPE_CHECKING:
    pass

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., None])
EVENTS_SHOWN = 20
EVENTS_AT_ONCE = 500
PAGE_SECONDS = 10.0
MOST_EVENTS = 10_000
commands = typer.Typer()


def _with_replica_fields(command: C) -> C:
    """Put the JSON names of a replica's fields into a command's help."""
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
        bool, typer.Option("--watch", "-w", help="Update the table until Ctrl-C, also while Redis is away.")
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            metavar="SECONDS",
            help="With --watch: the longest time between two updates; default: 1.",
            callback=seconds_above_zero,
            show_default=False,
        ),
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns, however long the lines become.")] = False,
    unhealthy: Annotated[
        bool, typer.Option("--unhealthy", help="Show only the replicas that are not well, and explain all of them.")
    ] = False,
    selector: SelectorOption = None,
    sort: Annotated[
        SortField,
        typer.Option("--sort", help="The order of the replicas: the worst, latest or fullest first."),
    ] = SortField.ORDER,
    router: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL", help="Show what this router knows, also while Redis is away.", show_default=False
        ),
    ] = None,
    removed: Annotated[
        bool, typer.Option("--removed", help="Show instead the replicas that operators removed: when, by whom and why.")
    ] = False,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say in one sentence whether the registry serves, and show its replicas. The command does not join as a router.

    For each replica that is not well it says why, since when, by whom, and how many sessions are on it. The table has
    the columns that fit.

    --json prints one object: redis, namespace, at, summary {level, text}, history_id, revision, epoch, leader {router,
    epoch, elected_at} or null, leaderless_since, leaderless_why, live_routers, last_heartbeat_at (of any router), queue
    {depth, first_since}, panic (the reason, or null), routers_in_trouble {router: why it cannot connect to replicas},
    and replicas [{STATUS} and trouble (what is not well, or null)]. Times are seconds since the epoch on the Redis
    server's clock. Capacity 0 means no limit.
    With --watch it prints one such object per line, or {redis, namespace, error, age_seconds} while Redis is away.
    With --from it prints the router's own /status, with from, summary and the trouble of each replica.
    With --removed it prints one object: redis, namespace, at, and removed [{url, name, removed_at, by, reason}]. A
    removal has no end: `add` brings the replica back.
    """
    options = given(context, redis, namespace, as_json=as_json)
    if interval is not None and not watch:
        raise UsageError("--interval: is the longest time between two updates of --watch; add --watch")
    chosen = ReplicaFilter(wide, unhealthy, label_selector(selector), sort)
    if router is not None:
        if watch or removed:
            raise UsageError("--from: shows what a router knows at this moment; leave --watch and --removed out")
        _show_page(options, router, chosen)
        return
    if removed:
        if watch:
            raise UsageError("--removed: is a list of this moment; leave --watch out")
        show_removals(options, config)
        return
    if watch:
        from shared_registry.cli.live import watch_status  # noqa: PLC0415

        log_to_stderr()
        settings = options.address(config)
        with explained(settings):
            asyncio.run(
                until_stopped(watch_status(settings, chosen, interval_seconds=interval or 1.0, as_json=options.as_json))
            )
        return

    show_status(options, config, chosen)


def _show_page(options: GlobalOptions, url: str, chosen: ReplicaFilter) -> None:
    """Show the status as one router knows it. Reads nothing from Redis."""
    from shared_registry.cli.router_page import (  # noqa: PLC0415
        PageUnreadable,
        in_known_form,
        overview_of,
        pool_of,
        read_page,
    )
    from shared_registry.cli.router_status import page_document, page_text  # noqa: PLC0415
    from shared_registry.cli.tables import output_width, print_shown  # noqa: PLC0415

    try:
        document = asyncio.run(read_page(url, timeout_seconds=PAGE_SECONDS))
        with in_known_form():
            page = pool_of(document, options.namespace)
            overview = overview_of(page)
            if options.as_json:
                print_json(page_document(url, page, overview, chosen))
            else:
                print_shown(page_text(url, page, overview, chosen, width=output_width()))
    except PageUnreadable as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        raise typer.Exit(UNREACHABLE) from error


@commands.command(epilog="Examples: `shared-registry routers`; `shared-registry routers --json -n pool`")
def routers(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the routers, with the leader, each router's uptime and last heartbeat, and differences in their settings.

    A router is marked "differs" if its shared settings (probing, lease, heartbeat) are not those of the leader.

    --json prints one object: redis, namespace, at, leader {router, epoch, elected_at} or null, and routers [{key, host,
    pid, version, url, started_at, last_heartbeat_at, expires_at, is_live, is_leader, config_fingerprint,
    agrees_with_leader, leases, probes, trouble, view_age_seconds, probe_age_seconds, probe_lag_seconds}].
    agrees_with_leader is null if there is no leader. leases counts the sessions that hold a slot. probes is `all`,
    `share`, `no` or `in trouble`. trouble says why a router cannot connect to replicas, if that is its own fault, such
    as too many open files; otherwise it is null. The last three are as of its last heartbeat, or null: how old its view
    was, how long ago it had finished a probe, and the longest delay of a scheduled probe since the heartbeat before.
    """
    options = given(context, redis, namespace, as_json=as_json)
    show_routers(options, config)


@commands.command(epilog="Examples: `shared-registry leases`; `shared-registry leases --json -n pool`")
def leases(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the leases: for each slot that a session holds, the router, the replica, the session and the age.

    A session is shown as the first digits of the SHA-256 of its name; the name itself is not in Redis. The age counts
    from when the session asked for the slot, by its router's clock.

    --json prints one object: redis, namespace, at, and leases [{id, router, url, name, session_digest, asked_at}].
    name is null for a replica without one, session_digest for a session without a name, and asked_at for a lease of a
    router whose version does not tell. Times are seconds since the epoch.
    """
    options = given(context, redis, namespace, as_json=as_json)
    show_leases(options, config)


@commands.command(epilog="Examples: `shared-registry queue`; `shared-registry queue --count 5 --json -n pool`")
def queue(
    context: typer.Context,
    *,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=0, help="How many waiters to show, from the first in the queue.")
    ] = WAITERS_SHOWN,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the sessions that wait for a slot: position, router, session, and the time waited so far.

    A session is shown as the first digits of the SHA-256 of its name; the name itself is not in Redis.

    --json prints one object: redis, namespace, at, depth, and waiters [{position, id, router, session_digest, since}].
    id is the id of the lease that the session will get. session_digest is null for a session without a name. Times are
    seconds since the epoch on the Redis server's clock.
    """
    options = given(context, redis, namespace, as_json=as_json)
    show_queue(options, config, count)


def _revision(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9]{1,18}(-[0-9]{1,18})?", text):
        raise typer.BadParameter("must be the id of an event, such as 1764032400123-0, or milliseconds since the epoch")
    return text


@commands.command(
    epilog="Examples: `shared-registry events --follow`; `shared-registry events --count 5`; "
    "`shared-registry events --since 10m --replica gpu-7 --kind replica_unhealthy`; "
    "`shared-registry events --after 1764032400123-0 --json`"
)
@_with_replica_fields
def events(
    context: typer.Context,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Also show new events, until Ctrl-C.")] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            metavar="N",
            min=0,
            max=10_000,
            help="How many events to show: the latest, or with --after the next ones; "
            f"default: {EVENTS_SHOWN}, with --after all.",
            show_default=False,
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="ID", help="Only events after this one.", callback=_revision, show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="AGE", help="Only events of the last 90s, 10m, 2h or 1d.", show_default=False),
    ] = None,
    replica: Annotated[
        list[str] | None,
        typer.Option("--replica", metavar="TARGET", help="Only events about this replica, by name or by url."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="Only events of this kind: leader_elected, or leader for all."),
    ] = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the events, oldest first: changes of replicas, leader and routers, each with its author and reason.

    --replica and --kind may be repeated: an event about any of these replicas, and of any of these kinds, is shown.

    --json prints one object: redis, namespace, and events [{id, kind, at, previous, router, epoch, by, reason,
    sit_out_seconds, replica, changes}], where replica is null or {EVENT}.
    changes is for several replicas whose status changed together: [{url, name, consecutive_failures, last_latency_ms,
    unreached_by, reason}].
    With --follow it prints one event per line.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.address(config)
    if follow and after and count is not None:
        raise UsageError("--count: --after with --follow shows all events; leave this option out")
    if since and after:
        raise UsageError("--since: and --after both say where to begin; leave one out")
    asked = _Asked(after, _age(since), count, _event_filter(replica, kind))

    def show(event: Event) -> None:
        if not asked.filter.shows(event):
            return
        if options.as_json:
            print_json(event_document(event), is_line=True)
        else:
            for one in asked.filter.lines_of(event):
                print_line(event_line(one))

    if follow:
        with explained(settings):
            asyncio.run(until_stopped(_follow(settings, asked, show)))
        return
    found = observe(settings, lambda observer: _read_events(observer, asked))
    if options.as_json:
        print_json({**address_document(settings), "events": [event_document(event) for event in found]})
    else:
        sys.stdout.writelines(event_line(one) + "\n" for event in found for one in asked.filter.lines_of(event))


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which events are asked for: those after an event, or of the last seconds, or else the latest."""

    after: str | None
    seconds: float | None
    count: int | None
    filter: EventFilter

    async def begin(self, observer: Observer) -> str | None:
        """Return the id after which the events begin; `None` if the latest are asked for."""
        if self.seconds is None:
            return self.after
        return f"{max(round((await observer.server_time() - self.seconds) * 1000), 0)}-0"


def _age(text: str | None) -> float | None:
    try:
        return None if text is None else parse_age(text)
    except ValueError as error:
        raise UsageError(f"--since: {error}") from error


def _event_filter(replicas: list[str] | None, kinds: list[str] | None) -> EventFilter:
    try:
        known = parse_kinds(kinds or [])
    except ValueError as error:
        raise UsageError(f"--kind: {error}") from error
    return EventFilter(frozenset(canonical_url(one) if "://" in one else one for one in replicas or []), known)


async def _read_events(observer: Observer, asked: _Asked) -> list[Event]:
    after, count = await asked.begin(observer), asked.count
    if after is None:
        shown = EVENTS_SHOWN if count is None else count
        read = shown if asked.filter.is_everything else MOST_EVENTS
        found = [event for event in await observer.last_events(read) if asked.filter.shows(event)] if shown else []
        return found[-shown:]
    found = []
    while count is None or len(found) < count:
        page = await observer.events(after=after, count=EVENTS_AT_ONCE)
        found += [event for event in page if asked.filter.shows(event)]
        if len(page) < EVENTS_AT_ONCE:
            break
        after = page[-1].id
    return found if count is None else found[:count]


async def _follow(settings: RegistryAddress, asked: _Asked, show: Callable[[Event], None]) -> None:
    from shared_registry.cli.live import follow_events  # noqa: PLC0415

    async with Observer(settings) as observer:
        after = await asked.begin(observer)
        if after is not None:
            await follow_events(observer, after=after, is_known=False, show=show)
        head = await observer.head()
        latest = await observer.last_events(1)
        end = latest[-1].id if latest else head.revision
        for event in await _read_events(observer, asked):
            if not is_later(event.id, end):
                show(event)
        await follow_events(observer, after=end, is_known=bool(latest), show=show)


@commands.command(
    epilog="Examples: `shared-registry wait --ready 2 --timeout 60 && start-traffic`; as a container's health check: "
    "`shared-registry wait --ready 1 --timeout 0`"
)
def wait(
    context: typer.Context,
    *,
    ready: Annotated[int, typer.Option("--ready", metavar="N", min=1, help="How many replicas must be ready.")],
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="The longest time to wait; 0 checks once.")
    ] = 30.0,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait until at least N replicas are ready for a session: healthy, active and below their capacity.

    Exits with 1 if the time is up before that, and with 3 if Redis cannot be reached at that moment. An outage of Redis
    before then does not end the wait.

    --json prints one object: redis, namespace, wanted, ready, is_ready, seconds.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.address(config)
    begun = time.monotonic()
    found = asyncio.run(wait_ready(settings, ready, timeout_seconds=timeout))
    seconds = time.monotonic() - begun
    if options.as_json:
        document = {"wanted": ready, "ready": found, "is_ready": found >= ready, "seconds": round(seconds, 3)}
        print_json({**address_document(settings), **document})
    else:
        verdict = "" if found >= ready else "; see `shared-registry status` for the others"
        print_line(f"{found} ready, {ready} wanted, after {seconds:.1f} s{verdict}")
    raise typer.Exit(OK if found >= ready else FOUND_WRONG)
