"""`shared-registry demo`: a cluster on this machine that survives failures."""

from __future__ import annotations

from typing import Annotated

import typer

from shared_registry.cli.console import print_json
from shared_registry.cli.exit_codes import FOUND_WRONG, INTERRUPTED, OK
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import JsonOption, NamespaceOption, given
from shared_registry.errors import UsageError

commands = typer.Typer()


@commands.command(epilog="Examples: `shared-registry demo`; `shared-registry demo --keep`")
def demo(
    context: typer.Context,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the cluster running afterwards, for redis-cli, until Ctrl-C.")
    ] = False,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a cluster on this machine and watch it survive failures. Valkey, replicas and routers are real processes.

    The demo kills a replica and the leader, drains a replica and adds one. After each step it shows which replica each
    router selects. It needs neither Docker nor root, reads no settings, and leaves nothing behind. It exits with 0 only
    if it observed the expected result of every step.

    --json prints one object at the end: observed, seconds, redis, namespace, settings, and steps [{number, title,
    observed, seconds, deadline_seconds, selected {router: replica}, leader, epoch, sessions, failed_sessions, detail}].
    """
    from shared_registry.cli.drawing import new_console  # noqa: PLC0415  rich
    from shared_registry.demo.report import ConsoleAudience, JsonAudience  # noqa: PLC0415  an optional part
    from shared_registry.demo.story import run_demo  # noqa: PLC0415

    options = given(context, None, namespace, as_json=as_json)
    if options.redis is not None:
        raise UsageError("--redis: the demo starts its own Redis; leave this option out")
    log_to_stderr()
    audience = JsonAudience(print_json) if options.as_json else ConsoleAudience(new_console())
    is_observed = run_demo(options.namespace or "demo", audience, keep=keep)
    raise typer.Exit(INTERRUPTED if is_observed is None else OK if is_observed else FOUND_WRONG)
