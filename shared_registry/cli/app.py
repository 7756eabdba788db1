"""The command `shared-registry`.

Exit codes: 0 success; 1 the command found a problem; 2 the options, the settings or the credentials are wrong; 3 Redis
cannot be reached.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shared_registry._version import __version__
from shared_registry.cli.exit_codes import exit_code
from shared_registry.cli.global_options import GlobalOptions
from shared_registry.cli.lazy_group import LazyGroup
from shared_registry.cli.options import JsonOption, NamespaceOption, RedisOption
from shared_registry.errors import RegistryError

app = typer.Typer(
    name="shared-registry",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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
