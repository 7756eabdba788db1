"""`shared-registry check`: verifies the invariants in Redis, and repairs data that can be derived from other data."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shared_registry.admin.observer import Observer
from shared_registry.cli.access import observe, operate
from shared_registry.cli.console import print_json
from shared_registry.cli.exit_codes import FOUND_WRONG, OK
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import ByOption, ConfigOption, JsonOption, NamespaceOption, RedisOption, given
from shared_registry.config.address import RegistryAddress

commands = typer.Typer()


@commands.command(
    epilog="Examples: `shared-registry check -n pool || alert`; `shared-registry check --repair --by ann@desk`"
)
def check(
    context: typer.Context,
    *,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Repair data that can be derived from other data (loads, ready sets, the queue, membership, the "
            "event stream), then check again.",
        ),
    ] = False,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the registry's invariants in Redis, while routers use it. Exit with 1 if an invariant is violated.

    With --repair it reports the violations that remain: it does not touch keys of a wrong type and values that cannot
    be parsed. If it changed anything, it records an event.

    --json prints one object: redis, namespace, is_clean, and violations [{rule, key, message}].
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings: RegistryAddress
    if repair:
        from shared_registry.admin.operator import Operator  # noqa: PLC0415  slow to import

        settings = whole = options.load(config)
        violations = operate(whole, by, Operator.repair)
    else:
        settings = options.address(config)
        violations = observe(settings, Observer.check)
    from shared_registry.cli.status import check_document, check_lines  # noqa: PLC0415

    if options.as_json:
        print_json(check_document(settings, violations))
    else:
        sys.stdout.writelines(line + "\n" for line in check_lines(settings, violations))
    raise typer.Exit(FOUND_WRONG if violations else OK)
