"""The commands that change replicas: add, remove, drain, enable, disable."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_registry.admin.operator import Operator, user_at_host
from shared_registry.admin.replica_changes import Change, Target
from shared_registry.aio.stop_signals import until_stopped
from shared_registry.cli.access import explained, operate
from shared_registry.cli.changes import Results, change_each, result_lines, results_document
from shared_registry.cli.confirming import PlannedChange, confirm, look_up, with_cost, would
from shared_registry.cli.console import print_json
from shared_registry.cli.endpoint_options import (
    CapacityOption,
    HealthCheckPathOption,
    HealthCheckPortOption,
    LabelsOption,
    NameOption,
    OrderOption,
    PrimaryOption,
    UrlsArgument,
    WeightOption,
    label_changes,
)
from shared_registry.cli.exit_codes import FOUND_WRONG, INTERRUPTED, OK
from shared_registry.cli.global_options import GlobalOptions
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import (
    ByOption,
    ConfigOption,
    DryRunOption,
    JsonOption,
    NamespaceOption,
    ReasonOption,
    RedisOption,
    SelectorOption,
    TargetsArgument,
    YesOption,
    given,
    label_selector,
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
    urls: UrlsArgument,
    *,
    name: NameOption = None,
    primary: PrimaryOption = None,
    weight: WeightOption = None,
    capacity: CapacityOption = None,
    order: OrderOption = None,
    label: LabelsOption = None,
    health_check_path: HealthCheckPathOption = None,
    health_check_port: HealthCheckPortOption = None,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register new replicas, or change registered ones. Options that are not given change nothing.

    A change keeps the replica's health and load. A new replica takes sessions after its first successful probe. The
    outcomes are registered, updated and unchanged.

    --json prints one object: redis, namespace, by, and results [{url, name, outcome}]. If Redis fails midway, the
    outcome is `unknown` or `failed` for the replica at which it failed, and `not_tried` for those after it.
    """
    asked = {"name": name, "primary": primary, "weight": weight, "capacity": capacity, "order": order}
    changes: dict[str, Any] = {field: value for field, value in asked.items() if value is not None}
    if health_check_path is not None:
        changes["health_check_path"] = health_check_path or None
    if health_check_port is not None:
        changes["health_check_port"] = health_check_port or None
    change = _spec_change(changes, label or [], urls)
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)

    async def work(operator: Operator) -> Results:
        return await change_each(await operator.plan(urls, change), operator.register)

    task.finish(operate(task.settings, task.by, work))


@commands.command(
    epilog="Examples: `shared-registry remove gpu-7 --reason 'broken fan'`; `shared-registry remove gpu-7 gpu-8 --yes`"
)
def remove(
    context: typer.Context,
    targets: TargetsArgument = None,
    *,
    reason: ReasonOption = None,
    when_drained: Annotated[
        bool, typer.Option("--when-drained", help="Drain first, and remove at the end of the last session.")
    ] = False,
    selector: SelectorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove replicas. Config files do not bring them back; `add` does.

    The outcomes are removed, draining and unchanged. With --when-drained, a replica that has sessions is draining, or
    unchanged if it was draining for its removal already; `enable` cancels the removal. A replica that was removed
    before is unchanged. `status --removed` lists them.

    Before a change after which no session would find a slot, the command asks on a terminal, and otherwise requires
    --yes. Its last line says what is left.

    --json prints one object: redis, namespace, by, results [{url, name, outcome, sessions}], left {replicas,
    free_slots (null: no limit)}, and is_dry_run. If Redis fails midway, the
    outcome is `unknown` or `failed` for the replica at which it failed, and `not_tried` for those after it.
    """
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)
    plan = task.plan(targets, selector, also_removed=True)
    if dry_run:
        task.finish(would(plan, "would_remove"))
    task.confirm(plan, "Remove", is_sure=yes, always=True)

    def change(operator: Operator) -> Callable[[Target], Awaitable[Change]]:
        return lambda target: operator.remove(target, reason=reason or "", when_drained=when_drained)

    task.finish(task.carry_out(plan, change))


@commands.command(
    epilog="Examples: `shared-registry drain gpu-7 --reason upgrade`; "
    "`shared-registry drain gpu-7 gpu-8 --wait --timeout 3600 && reboot`"
)
def drain(
    context: typer.Context,
    targets: TargetsArgument = None,
    *,
    reason: ReasonOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until no session is left, and show the number of those left.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="With --wait: exit with 1 after this time; default: no limit.",
            callback=seconds_above_zero,
            show_default=False,
        ),
    ] = None,
    selector: SelectorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let replicas finish their sessions and take no new ones. They are still probed; `enable` reverses it.

    The outcomes are draining and unchanged. With --wait, progress is reported on standard error.

    Before a change after which no session would find a slot, the command asks on a terminal, and otherwise requires
    --yes. Its last line says what is left.

    --json prints one object: redis, namespace, by, results [{url, name, outcome, sessions}], left {replicas,
    free_slots (null: no limit)}, and is_dry_run. If Redis fails midway, the
    outcome is `unknown` or `failed` for the replica at which it failed, and `not_tried` for those after it.
    """
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)
    if timeout is not None and not wait:
        raise UsageError("--timeout: limits --wait; add --wait")
    if dry_run and wait:
        raise UsageError("--dry-run: changes nothing that --wait could wait for; leave one out")
    plan = task.plan(targets, selector)
    if dry_run:
        task.finish(would(plan, "would_drain"))
    task.confirm(plan, "Drain", is_sure=yes)
    results = task.set_admin(plan, AdminState.DRAINING, reason)
    if wait and results.failure is None:
        task.report(results)
        left = task.wait_drained([target.url for target in plan.targets], timeout_seconds=timeout)
        raise typer.Exit(OK if left == 0 and results.are_as_asked else FOUND_WRONG)
    task.finish(results)


@commands.command(
    epilog="Examples: `shared-registry enable gpu-7`; `shared-registry enable http://127.0.0.1:8007 gpu-8`"
)
def enable(
    context: typer.Context,
    targets: TargetsArgument = None,
    *,
    selector: SelectorOption = None,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reverse `drain` and `disable`: the replicas take sessions again as soon as they are healthy.

    The outcomes are enabled and unchanged.

    --json prints one object: redis, namespace, by, and results [{url, name, outcome}]. If Redis fails midway, the
    outcome is `unknown` or `failed` for the replica at which it failed, and `not_tried` for those after it.
    """
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)
    plan = task.plan(targets, selector)
    results = task.set_admin(plan, AdminState.ACTIVE, None)
    task.finish(dataclasses.replace(results, left=None))


@commands.command(epilog="Example: `shared-registry disable gpu-7 --reason 'under repair'`")
def disable(
    context: typer.Context,
    targets: TargetsArgument = None,
    *,
    reason: ReasonOption = None,
    selector: SelectorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take replicas out of service: they get no new sessions and no probes. `enable` reverses it.

    The outcomes are disabled and unchanged.

    Before a change after which no session would find a slot, the command asks on a terminal, and otherwise requires
    --yes. Its last line says what is left.

    --json prints one object: redis, namespace, by, results [{url, name, outcome, sessions}], left {replicas,
    free_slots (null: no limit)}, and is_dry_run. If Redis fails midway, the
    outcome is `unknown` or `failed` for the replica at which it failed, and `not_tried` for those after it.
    """
    task = _Task(given(context, redis, namespace, as_json=as_json), config, by)
    plan = task.plan(targets, selector)
    if dry_run:
        task.finish(would(plan, "would_disable"))
    task.confirm(plan, "Disable", is_sure=yes)
    task.finish(task.set_admin(plan, AdminState.DISABLED, reason))


class _Task:
    """The common part of these commands: the author of the change, the registry, and the output of the results."""

    def __init__(self, options: GlobalOptions, config: Path | None, by: str | None) -> None:
        log_to_stderr()
        self._options = options
        self.settings = options.load(config)
        self.by = by or user_at_host()

    def plan(
        self, names: Sequence[str] | None, selector: list[str] | None, *, also_removed: bool = False
    ) -> PlannedChange:
        """Find all replicas, so that a typo changes nothing, and what it costs if they take no new sessions."""

        async def work(operator: Operator) -> PlannedChange:
            found = await look_up(operator, names or (), label_selector(selector), also_removed=also_removed)
            return PlannedChange(found, await operator.blast_radius(found))

        return operate(self.settings, self.by, work)

    def confirm(self, plan: PlannedChange, verb: str, *, is_sure: bool, always: bool = False) -> None:
        """Ask before a change that leaves nothing; end the command if the answer is no."""
        if not is_sure and not confirm(plan, verb, always=always):
            sys.stderr.write("nothing was changed\n")
            raise typer.Exit(FOUND_WRONG)

    def carry_out(
        self, plan: PlannedChange, change: Callable[[Operator], Callable[[Target], Awaitable[Change]]]
    ) -> Results:
        """Change each of the replicas."""

        async def work(operator: Operator) -> Results:
            return await change_each(plan.targets, change(operator))

        return with_cost(plan, operate(self.settings, self.by, work))

    def set_admin(self, plan: PlannedChange, state: AdminState, reason: str | None) -> Results:
        """Set the admin state of each of the replicas."""
        return self.carry_out(
            plan, lambda operator: lambda target: operator.set_admin(target, state, reason=reason or "")
        )

    def wait_drained(self, names: Sequence[str], *, timeout_seconds: float | None) -> int:
        """Wait until these replicas have no session, or until the timeout, and return the number of sessions left."""
        from shared_registry.cli.draining import wait_drained  # noqa: PLC0415

        with explained(self.settings):
            left = asyncio.run(until_stopped(wait_drained(self.settings, names, timeout_seconds=timeout_seconds)))
        if left is None:
            raise typer.Exit(INTERRUPTED)
        return left

    def finish(self, results: Results) -> None:
        """Print the outcome for each replica, and exit."""
        self.report(results)
        raise typer.Exit(OK if results.are_as_asked else FOUND_WRONG)

    def report(self, results: Results) -> None:
        """Print the outcome for each replica, and raise the failure if there was one."""
        if self._options.as_json:
            print_json(results_document(self.settings, self.by, results))
        else:
            sys.stdout.writelines(line + "\n" for line in result_lines(results))
        if results.failure is not None:
            with explained(self.settings):
                raise results.failure


def _spec_change(
    changes: Mapping[str, Any], labels: Sequence[str], urls: Sequence[str]
) -> Callable[[ReplicaEndpoint], dict[str, Any]]:
    """Return a function that returns the changes to one replica's spec."""
    for field in ("name", "order"):
        if field in changes and len(urls) > 1:
            raise UsageError(f"--{field}: belongs to a single replica; use one command for each replica")
    set_labels, unset_labels = label_changes(labels)

    def change(known: ReplicaEndpoint) -> dict[str, Any]:
        kept = {name: value for name, value in known.labels.items() if name not in unset_labels}
        return {**changes, "labels": {**kept, **set_labels}}

    return change
