"""`shared-registry upgrade`: gives the namespace the newest schema of this version."""

from __future__ import annotations

from typing import Annotated

import typer

from shared_registry.admin.operator import Operator, user_at_host
from shared_registry.cli.access import address_document, operate
from shared_registry.cli.console import print_json, print_line
from shared_registry.cli.exit_codes import FOUND_WRONG, OK
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import ByOption, ConfigOption, JsonOption, NamespaceOption, RedisOption, given
from shared_registry.store.replies import Upgrade, UpgradeOutcome

commands = typer.Typer()


@commands.command(epilog="Examples: `shared-registry upgrade --dry-run`; `shared-registry upgrade --by ann@desk`")
def upgrade(
    context: typer.Context,
    *,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give the namespace the newest schema that this version knows.

    During a roll-out routers of two versions use the namespace in the older form, and the older version can be
    installed again. This command ends that: afterwards older versions are refused. It does nothing while a router of an
    older version lives, and exits with 1. Without it, the leader upgrades once no such router has lived for 24 hours.

    --json prints one object: redis, namespace, by, outcome (upgraded, possible, current or older), schema {before, now}
    and older_routers.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.load(config)
    name = by or user_at_host()

    async def work(operator: Operator) -> Upgrade:
        return await operator.upgrade(is_dry_run=is_dry_run)

    done = operate(settings, name, work)
    if options.as_json:
        document = {
            "outcome": done.outcome.value,
            "schema": {"before": done.before, "now": done.now},
            "older_routers": list(done.older),
        }
        print_json({**address_document(settings), "by": name, **document})
    else:
        print_line(_line(done))
    raise typer.Exit(FOUND_WRONG if done.outcome is UpgradeOutcome.OLDER else OK)


def _line(done: Upgrade) -> str:
    match done.outcome:
        case UpgradeOutcome.CURRENT if done.before != done.now:
            return f"the namespace has schema {done.before}, which a newer version has given it; nothing to upgrade"
        case UpgradeOutcome.CURRENT:
            return f"the namespace has schema {done.now}, the newest of this version"
        case UpgradeOutcome.POSSIBLE:
            return f"would upgrade from schema {done.before} to {done.now}; no router of an older version lives"
        case UpgradeOutcome.UPGRADED:
            return f"upgraded from schema {done.before} to {done.now}"
        case _:
            return (
                f"not upgraded: these routers know schema {done.before} only, stop them first: {', '.join(done.older)}"
            )
