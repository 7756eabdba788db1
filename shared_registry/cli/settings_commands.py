"""`shared-registry config`: verifies a YAML file, and shows the settings in force."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_registry.admin.observer import Observer
from shared_registry.cli.console import print_json, print_line
from shared_registry.cli.exit_codes import FOUND_WRONG
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import ConfigOption, JsonOption, NamespaceOption, RedisOption, given
from shared_registry.cli.tables import Column, Table, print_shown
from shared_registry.config import InvalidSettings, LoadedConfig, RouterConfig, load_yaml
from shared_registry.errors import ConfigError, RegistryError
from shared_registry.store.redis_url import mask_redis_url

commands = typer.Typer(no_args_is_help=True, help="Verify a router's YAML file, or show the settings in force.")


@commands.command(epilog="Examples: `shared-registry config validate router.yaml`")
def validate(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A router's YAML file.", show_default=False)],
    *,
    connect: Annotated[
        bool, typer.Option("--connect", help="Also connect to its Redis, and read the namespace.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a router's YAML file alone: it ignores the environment, and connects to Redis only with --connect.

    It reports all problems at once. An unknown key is only a warning, which names the nearest known key. Exits with 1
    if there is a problem, and with 2 if the file cannot be read.

    --json prints one object: file, is_valid, problems [{message, settings}], and warnings [message].
    """
    options = given(context, None, None, as_json=as_json)
    log_to_stderr()
    if not os.access(file, os.R_OK) or file.is_dir():
        raise ConfigError(f"{file}: cannot be read; check the path and its permissions")
    warnings = _Warnings()
    replicas, problems = 0, []
    with warnings:
        try:
            config = load_yaml(file)
            replicas = len(config.replicas)
            if connect:
                asyncio.run(_connect(config))
        except InvalidSettings as error:
            problems = [{"message": str(one), "settings": list(one.fields)} for one in error.problems]
        except ConfigError as error:
            problems = [{"message": str(error), "settings": []}]
        except RegistryError as error:
            where = mask_redis_url(config.redis_url)
            problems = [{"message": f"redis_url: {where}: {error}", "settings": ["redis_url"]}]
    if options.as_json:
        verdict = {"file": str(file), "is_valid": not problems, "problems": problems, "warnings": warnings.messages}
        print_json(verdict)
    else:
        sys.stderr.writelines(f"warning: {message}\n" for message in warnings.messages)
        for problem in problems:
            print_line(str(problem["message"]))
        if not problems:
            where = f"; connected to {mask_redis_url(config.redis_url)}" if connect else ""
            print_line(f"{file}: valid; {replicas} {'replica' if replicas == 1 else 'replicas'}{where}")
    if problems:
        raise typer.Exit(FOUND_WRONG)


@commands.command(
    epilog="Examples: `shared-registry config show --config router.yaml`; "
    "`SHARED_REGISTRY_LEASE_SECONDS=5 shared-registry config show --json`"
)
def show(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every setting in force and its source: command line, environment, file or default.

    Passwords are masked. It connects to nothing.

    --json prints one object: fingerprint, and settings {name: {value, origin, place}}. The origin is `default`,
    `file`, `environment` or `command line`; the place is the key and the file, or the variable. `shared-registry
    routers` compares the fingerprints of the routers.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    loaded = options.load_with_origins(config)
    if options.as_json:
        print_json(_document(loaded))
    else:
        print_shown(_table(loaded))


async def _connect(config: RouterConfig) -> None:
    """Connect as a router would, and read the namespace."""
    async with Observer(config) as observer:
        await observer.head()


def _document(loaded: LoadedConfig) -> dict[str, Any]:
    settings = {
        name: {"value": value, "origin": loaded.origins[name].kind.value, "place": loaded.origins[name].place}
        for name, value in loaded.config.shown().items()
    }
    return {"fingerprint": loaded.config.fingerprint(), "settings": settings}


def _table(loaded: LoadedConfig) -> Table:
    shown = loaded.config.shown()
    values = ["\n".join(map(_replica, value)) if name == "replicas" else _text(value) for name, value in shown.items()]
    return Table(
        [
            Column("setting", [*shown]),
            Column("value", [value or "none" for value in values]),
            Column("from", [str(loaded.origins[name]) for name in shown]),
        ]
    )


def _replica(endpoint: dict[str, Any]) -> str:
    others = [f"{name} {_text(value)}" for name, value in endpoint.items() if name != "url" and value is not None]
    return ", ".join([endpoint["url"], *others])


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(_text(one) for one in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


class _Warnings(logging.Handler):
    """Collects the package's warnings while its block runs, instead of printing them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._package = logging.getLogger("shared_registry")
        self._others: list[logging.Handler] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> None:
        self._others, self._package.handlers = self._package.handlers, [self]

    def __exit__(self, *error: object) -> None:
        self._package.handlers = self._others
