"""The command `shared-registry`.

Exit codes: 0 all is well, 1 something is wrong with what was found, 2 something is wrong with what was asked (options,
settings, credentials), 3 Redis cannot be reached.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from shared_registry._version import __version__
from shared_registry.cli.options import (
    ConfigOption,
    GlobalOptions,
    JsonOption,
    NamespaceOption,
    RedisOption,
    given,
    log_to_stderr,
    print_json,
)
from shared_registry.cli.serve import SERVE_EXAMPLE, serve
from shared_registry.cli.status import check_document, check_lines, show_status, status_document
from shared_registry.config import RouterConfig
from shared_registry.demo.report import ConsoleAudience, JsonAudience
from shared_registry.demo.story import run_demo
from shared_registry.errors import ConfigError, RegistryError, StoreRefused, StoreUnavailable, UsageError
from shared_registry.observer import Observer
from shared_registry.redis_urls import mask_redis_url

T = TypeVar("T")
OK, FOUND_WRONG, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
TABLE_WIDTH = 250
"""Most columns of a table, also where the terminal has fewer: better a line that wraps than a url cut into pieces."""

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


def exit_code(error: RegistryError) -> int:
    """Return what an error means to a script that runs the command."""
    if isinstance(error, StoreUnavailable):
        return UNREACHABLE
    return USAGE if isinstance(error, ConfigError | UsageError | StoreRefused) else FOUND_WRONG


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


@app.command(
    epilog="Examples: `shared-registry status`; `shared-registry --redis redis://10.0.0.5:6379/0 -n pool status --json`"
)
def status(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show replicas, leader and routers, without joining them.

    --json prints one object: redis, namespace, at, birth, revision, epoch, leader {router, epoch, elected_at} or null,
    live_routers, and replicas [{url, name, primary, weight, capacity, in_flight, status, status_since, admin,
    admin_reason, last_ok_at, last_failure_at, last_latency_ms, last_error, consecutive_failures,
    consecutive_successes}]. Times are seconds since the epoch on the Redis server's clock. Capacity 0 is unlimited.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.load(config)
    overview = asyncio.run(_observe(settings, Observer.overview))
    if options.as_json:
        print_json(status_document(settings, overview))
    else:
        show_status(_console(), settings, overview)


@app.command(epilog="Example: `shared-registry check -n pool || alert`")
def check(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the registry's invariants in Redis while routers work on it; exit with 1 if one is violated.

    --json prints one object: redis, namespace, is_clean, and violations [{rule, key, message}].
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.load(config)
    violations = asyncio.run(_observe(settings, Observer.check))
    if options.as_json:
        print_json(check_document(settings, violations))
    else:
        sys.stdout.writelines(line + "\n" for line in check_lines(settings, violations))
    raise typer.Exit(FOUND_WRONG if violations else OK)


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

    Kills a replica and the leading router, drains and adds replicas, and shows what every router selects. Needs neither
    Docker nor root, reads no settings, and leaves nothing behind. Exits with 0 only if each step was really observed.

    --json prints one object at the end: observed, seconds, redis, namespace, settings, and steps [{number, title,
    observed, seconds, deadline_seconds, selected {router: replica}, leader, epoch, detail}].
    """
    options = given(context, None, namespace, as_json=as_json)
    if options.redis is not None:
        raise UsageError("--redis: the demo starts a Redis of its own; leave it out")
    log_to_stderr()
    audience = JsonAudience(print_json) if options.as_json else ConsoleAudience(_console())
    is_observed = run_demo(options.namespace or "demo", audience, keep=keep)
    raise typer.Exit(INTERRUPTED if is_observed is None else OK if is_observed else FOUND_WRONG)


async def _observe(settings: RouterConfig, look: Callable[[Observer], Awaitable[T]]) -> T:
    try:
        async with Observer(settings) as observer:
            return await look(observer)
    except StoreUnavailable as error:
        trouble, where = str(error).rstrip("."), mask_redis_url(settings.redis_url)
        raise StoreUnavailable(f"{trouble}; is redis_url {where} the right one? --redis gives another") from error


def _console() -> Console:
    return _Console(width=TABLE_WIDTH, markup=False, emoji=False, highlight=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Fail as any write to a closed pipe does, which typer takes for the end; rich would exit on the spot."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads on")
