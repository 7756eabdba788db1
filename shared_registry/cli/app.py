"""The command `shared-registry`.

Exit codes: 0 all is well, 1 something is wrong with what was found, 2 something is wrong with what was asked (options,
settings, credentials), 3 Redis cannot be reached.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shared_registry._version import __version__
from shared_registry.cli import checking, key_list, leader, replicas, settings_commands, watching
from shared_registry.cli.console import new_console
from shared_registry.cli.exit_codes import FOUND_WRONG, INTERRUPTED, OK, exit_code
from shared_registry.cli.options import (
    GlobalOptions,
    JsonOption,
    NamespaceOption,
    RedisOption,
    given,
    log_to_stderr,
    print_json,
)
from shared_registry.cli.serve import SERVE_EXAMPLE, serve
from shared_registry.errors import RegistryError, UsageError

app = typer.Typer(
    name="shared-registry",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings: options win over the environment (`SHARED_REGISTRY_REDIS_URL`, `SHARED_REGISTRY_NAMESPACE`, "
    "...), and that over the file given with `--config`.\n\n"
    "Exit codes: 0 all is well, 1 something found is wrong, 2 wrong usage or settings, 3 Redis cannot be reached.",
)


def main() -> None:
    """Run the command and exit."""
    try:
        app()
    except RegistryError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(exit_code(error))


def _print_version(asked: bool) -> None:  # noqa: FBT001  typer passes it by position
    if asked:
        sys.stdout.write(f"shared-registry {__version__}\n")
        raise typer.Exit


@app.callback()
def _begin(
    context: typer.Context,
    *,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A replica registry that several routers share over Redis."""
    context.obj = GlobalOptions(redis, namespace, as_json)


app.command(epilog=SERVE_EXAMPLE)(serve)


@app.command(epilog="Examples: `shared-registry demo`; `shared-registry demo --keep`")
def demo(
    context: typer.Context,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Stay up afterwards, to be looked at with redis-cli, until Ctrl-C.")
    ] = False,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a cluster of routers survive: a Valkey, replicas and routers, all real processes on this machine.

    Kills a replica and the leading router, drains and adds replicas, and shows where sessions through every router go.
    Needs neither Docker nor root, reads no settings, and leaves nothing behind. Exits with 0 only if each step was
    really observed.

    --json prints one object at the end: observed, seconds, redis, namespace, settings, and steps [{number, title,
    observed, seconds, deadline_seconds, selected {router: replica}, leader, epoch, sessions, failed_sessions, detail}].
    """
    from shared_registry.demo.report import ConsoleAudience, JsonAudience  # noqa: PLC0415  an optional part
    from shared_registry.demo.story import run_demo  # noqa: PLC0415

    options = given(context, None, namespace, as_json=as_json)
    if options.redis is not None:
        raise UsageError("--redis: the demo starts a Redis of its own; leave it out")
    log_to_stderr()
    audience = JsonAudience(print_json) if options.as_json else ConsoleAudience(new_console())
    is_observed = run_demo(options.namespace or "demo", audience, keep=keep)
    raise typer.Exit(INTERRUPTED if is_observed is None else OK if is_observed else FOUND_WRONG)


for commands in (watching.commands, checking.commands, replicas.commands, leader.commands, key_list.commands):
    app.add_typer(commands)
app.add_typer(settings_commands.commands, name="config")
