"""The commands that change replicas: add, remove, drain, enable, disable."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_registry.admin.operator import Operator, Target, user_at_host
from shared_registry.aio.stop_signals import until_stopped
from shared_registry.cli.access import explained, operate
from shared_registry.cli.changes import Results, change_each, result_lines, results_document
from shared_registry.cli.draining import wait_drained
from shared_registry.cli.exit_codes import FOUND_WRONG, INTERRUPTED, OK
from shared_registry.cli.options import (
    ByOption,
    ConfigOption,
    GlobalOptions,
    JsonOption,
    NamespaceOption,
    ReasonOption,
    RedisOption,
    TargetsArgument,
    given,
    log_to_stderr,
    print_json,
    seconds_above_zero,
)
from shared_registry.errors import UsageError
from shared_registry.model import AdminState, ReplicaEndpoint

commands = typer.Typer()


@commands.command(
    epilog="Examples: `shared-registry add http://127.0.0.1:8007 --name gpu-7 --capacity 4`; "
    "`shared-registry add http://127.0.0.1:8008 http://127.0.0.1:8009 --primary`"
)
def add(
    context: typer.Context,
    urls: Annotated[
        list[str], typer.Argument(metavar="URL", help="http(s) origins without a path.", show_default=False)
    ],
    *,
    name: Annotated[str | None, typer.Option(help="A label for people; of one replica.", show_default=False)] = None,
    primary: Annotated[
        bool | None, typer.Option("--primary/--secondary", help="The tier; secondaries serve when no primary can.")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Share of the load; default: 1.", show_default=False)] = None,
    capacity: Annotated[
        int | None, typer.Option(help="Most sessions at once; 0, the default, is unlimited.", show_default=False)
    ] = None,
    order: Annotated[
        int | None, typer.Option(help="Place in the list, lowest first; default: the end.", show_default=False)
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Such as zone=a; NAME- takes it away. Repeat for several.", show_default=False
        ),
    ] = None,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register replicas, or change the ones that are there: what is not given stays, and so do health and load.

    A new replica takes sessions after its first successful probe. The outcomes are registered, updated and unchanged.

    --json prints one object: redis, namespace, by, and results [{url, name, outcome}]. Where Redis fails midway, the
    replica concerned is `unknown` or `failed`, and those after it are `not_tried`.
    """
    asked = {"name": name, "primary": primary, "weight": weight, "capacity": capacity, "order": order}
    changes: dict[str, Any] = {field: value for field, value in asked.items() if value is not None}
    for field in ("name", "order"):
        if field in changes and len(urls) > 1:
            raise UsageError(f"--{field}: belongs to one replica; add several with one command each")
    set_labels, unset_labels = _label_changes(label or [])
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)

    def change(known: ReplicaEndpoint) -> dict[str, Any]:
        kept = {name: value for name, value in known.labels.items() if name not in unset_labels}
        return {**changes, "labels": {**kept, **set_labels}}

    async def work(operator: Operator) -> Results:
        return await change_each(await operator.plan(urls, change), operator.register)

    task.finish(operate(task.settings, task.by, work))


@commands.command(
    epilog="Examples: `shared-registry remove gpu-7 --reason 'broken fan'`; `shared-registry remove gpu-7 gpu-8 --yes`"
)
def remove(
    context: typer.Context,
    targets: TargetsArgument,
    *,
    reason: ReasonOption = None,
    when_drained: Annotated[
        bool, typer.Option("--when-drained", help="Drain first; the end of the last session removes it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where nobody can be asked.")] = False,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove replicas. Config files do not bring them back; `add` does.

    The outcomes are removed; draining for one that has sessions and is to be drained first, which `enable` calls off;
    and unchanged for one that is so already, or was removed within the last seven days.

    --json prints one object: redis, namespace, by, and results [{url, name, outcome}]. Where Redis fails midway, the
    replica concerned is `unknown` or `failed`, and those after it are `not_tried`.
    """
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)
    if not yes and not sys.stdin.isatty():
        raise UsageError("--yes: is needed to remove replicas where nobody can be asked; nothing was changed")
    found = operate(task.settings, task.by, lambda operator: operator.find(targets, also_removed=True))
    if not yes and not _is_confirmed([target for target in found if target.incarnation]):
        sys.stderr.write("nothing was changed\n")
        raise typer.Exit(FOUND_WRONG)

    async def work(operator: Operator) -> Results:
        return await change_each(
            found, lambda target: operator.remove(target, reason=reason or "", when_drained=when_drained)
        )

    task.finish(operate(task.settings, task.by, work))


@commands.command(
    epilog="Examples: `shared-registry drain gpu-7 --reason upgrade`; "
    "`shared-registry drain gpu-7 gpu-8 --wait --timeout 3600 && reboot`"
)
def drain(
    context: typer.Context,
    targets: TargetsArgument,
    *,
    reason: ReasonOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until no session is left, and show how many are.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="With --wait: give up after that, with exit code 1; default: never.",
            callback=seconds_above_zero,
            show_default=False,
        ),
    ] = None,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let replicas finish their sessions and take no new ones. They are still probed; `enable` undoes it.

    The outcomes are draining and unchanged. With --wait, progress is told on standard error.

    --json prints one object: redis, namespace, by, and results [{url, name, outcome}]. Where Redis fails midway, the
    replica concerned is `unknown` or `failed`, and those after it are `not_tried`.
    """
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)
    if timeout is not None and not wait:
        raise UsageError("--timeout: says how long --wait waits; add --wait")
    results = task.set_admin(targets, AdminState.DRAINING, reason)
    if wait and results.failure is None:
        task.tell(results)
        left = task.wait_drained(targets, timeout_seconds=timeout)
        raise typer.Exit(OK if left == 0 and results.are_as_asked else FOUND_WRONG)
    task.finish(results)


@commands.command(
    epilog="Examples: `shared-registry enable gpu-7`; `shared-registry enable http://127.0.0.1:8007 gpu-8`"
)
def enable(
    context: typer.Context,
    targets: TargetsArgument,
    *,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Undo `drain` and `disable`: the replicas take sessions again as soon as they are healthy.

    The outcomes are enabled and unchanged.

    --json prints one object: redis, namespace, by, and results [{url, name, outcome}]. Where Redis fails midway, the
    replica concerned is `unknown` or `failed`, and those after it are `not_tried`.
    """
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)
    task.finish(task.set_admin(targets, AdminState.ACTIVE, None))


@commands.command(epilog="Example: `shared-registry disable gpu-7 --reason 'under repair'`")
def disable(
    context: typer.Context,
    targets: TargetsArgument,
    *,
    reason: ReasonOption = None,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take replicas out: no new sessions and no probes. `enable` undoes it.

    The outcomes are disabled and unchanged.

    --json prints one object: redis, namespace, by, and results [{url, name, outcome}]. Where Redis fails midway, the
    replica concerned is `unknown` or `failed`, and those after it are `not_tried`.
    """
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)
    task.finish(task.set_admin(targets, AdminState.DISABLED, reason))


class _Task:
    """What these commands have in common: who asks for it, which registry it is about, and how the results are told."""

    def __init__(self, options: GlobalOptions, config: Path | None, by: str | None) -> None:
        log_to_stderr()
        self._options = options
        self.settings = options.load(config)
        self.by = by or user_at_host()

    def set_admin(self, names: Sequence[str], state: AdminState, reason: str | None) -> Results:
        """Find all replicas, then change each."""

        def change(operator: Operator) -> Callable[[Target], Awaitable[Any]]:
            return lambda target: operator.set_admin(target, state, reason=reason or "")

        async def work(operator: Operator) -> Results:
            return await change_each(await operator.find(names), change(operator))

        return operate(self.settings, self.by, work)

    def wait_drained(self, names: Sequence[str], *, timeout_seconds: float | None) -> int:
        """Wait until these replicas have no session, and return how many are left when the time is up."""
        with explained(self.settings):
            left = asyncio.run(until_stopped(wait_drained(self.settings, names, timeout_seconds=timeout_seconds)))
        if left is None:
            raise typer.Exit(INTERRUPTED)
        return left

    def finish(self, results: Results) -> None:
        """Tell what became of each replica, and exit."""
        self.tell(results)
        raise typer.Exit(OK if results.are_as_asked else FOUND_WRONG)

    def tell(self, results: Results) -> None:
        """Tell what became of each replica; raise what kept the rest from being changed."""
        if self._options.as_json:
            print_json(results_document(self.settings, self.by, results))
        else:
            sys.stdout.writelines(line + "\n" for line in result_lines(results))
        if results.failure is not None:
            with explained(self.settings):
                raise results.failure


def _label_changes(asked: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """Return the labels to set, and the names of those to take away."""
    wanted: dict[str, str] = {}
    unwanted: set[str] = set()
    for text in asked:
        name, equals, value = text.partition("=")
        if equals:
            wanted[name] = value
        elif name.endswith("-"):
            unwanted.add(name.removesuffix("-"))
        else:
            raise UsageError(f"--label: {text!r} must be NAME=VALUE, such as zone=a, or NAME- to take one away")
    if both := sorted(wanted.keys() & unwanted):
        raise UsageError(f"--label: {both[0]!r} is both set and taken away")
    return wanted, unwanted


def _is_confirmed(targets: Sequence[Target]) -> bool:
    if not targets:
        return True
    for target in targets:
        sys.stderr.write(f"{f'{target.name} {target.url}' if target.name else target.url}\n")
    what = "this replica" if len(targets) == 1 else f"these {len(targets)} replicas"
    sys.stderr.write(f"Remove {what}? [y/N] ")  # typer's own question writes to standard output, which is for results
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
