"""The command `shared-registry`.

Exit codes: 0 success; 1 the command found a problem; 2 the options, the settings or the credentials are wrong; 3 Redis
cannot be reached.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shared_registry._version import __version__
from shared_registry.cli import (
    api_key,
    checking,
    key_list,
    leader,
    replicas,
    rights,
    settings_commands,
    upgrading,
    watching,
)
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
    epilog="Settings: options override the environment (`SHARED_REGISTRY_REDIS_URL`, `SHARED_REGISTRY_NAMESPACE`, "
    "...), and the environment overrides the file given with `--config`.\n\n"
    "Exit codes: 0 success, 1 a problem was found, 2 wrong usage or settings, 3 Redis cannot be reached.",
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
    from shared_registry.cli.tables import new_console  # noqa: PLC0415  rich
    from shared_registry.demo.report import ConsoleAudience, JsonAudience  # noqa: PLC0415  an optional part
    from shared_registry.demo.story import run_demo  # noqa: PLC0415

    options = given(context, None, namespace, as_json=as_json)
    if options.redis is not None:
        raise UsageError("--redis: the demo starts its own Redis; leave this option out")
    log_to_stderr()
    audience = JsonAudience(print_json) if options.as_json else ConsoleAudience(new_console())
    is_observed = run_demo(options.namespace or "demo", audience, keep=keep)
    raise typer.Exit(INTERRUPTED if is_observed is None else OK if is_observed else FOUND_WRONG)


for module in (watching, checking, replicas, leader, upgrading, key_list, rights):
    app.add_typer(module.commands)
app.add_typer(settings_commands.commands, name="config")
app.add_typer(api_key.commands, name="api-key")
