"""What the command's options mean to all of its commands: which registry, and how to print."""

from __future__ import annotations

import json
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_registry.config import LoadedConfig, RouterConfig, load_config

LONGEST_TEXT = 500

RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL",
        help="The Redis that holds the registry. With a password rather in SHARED_REGISTRY_REDIS_URL: "
        "a command line is there for all to see.",
        show_default=False,
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="The registry within that Redis.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="A router's YAML file.", show_default=False),
]
TargetsArgument = Annotated[
    list[str], typer.Argument(metavar="TARGET", help="Replicas, by name or by url.", show_default=False)
]


def seconds_above_zero(seconds: float | None) -> float | None:
    """Refuse a duration that is none."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise typer.BadParameter("must be a number of seconds above 0")
    return seconds


def _one_line(text: str | None) -> str | None:
    if text is not None and (len(text) > LONGEST_TEXT or not text.isprintable()):
        raise typer.BadParameter(f"must be one line of at most {LONGEST_TEXT} printable characters")
    return text


ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Why, for the events.", callback=_one_line, show_default=False),
]
ByOption = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="WHO",
        help="Who asks for it, for the events; default: user@host.",
        callback=_one_line,
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """Options that may stand before or after the command's name."""

    redis: str | None = None
    namespace: str | None = None
    as_json: bool = False

    def load(self, path: Path | None = None, **overrides: Any) -> RouterConfig:
        """Return the settings in force: command line over environment over file over defaults.

        Args:
            path: The file.
            overrides: Settings that further options give; `None` where they were not given.

        Raises:
            ConfigError: Anything is wrong with them.
        """
        return self.load_with_origins(path, **overrides).config

    def load_with_origins(self, path: Path | None = None, **overrides: Any) -> LoadedConfig:
        """Return the settings in force, and where each came from."""
        overrides |= {"redis_url": self.redis, "namespace": self.namespace}
        return load_config(path, overrides=overrides)


def given(context: typer.Context, redis: str | None, namespace: str | None, *, as_json: bool) -> GlobalOptions:
    """Return what was given after the command's name, over what was given before it."""
    before = context.obj if isinstance(context.obj, GlobalOptions) else GlobalOptions()
    return GlobalOptions(redis or before.redis, namespace or before.namespace, as_json or before.as_json)


def print_json(document: object, *, is_line: bool = False) -> None:
    """Print one JSON document on standard output; in one line where another follows."""
    sys.stdout.write(json.dumps(document, indent=None if is_line else 2) + "\n")
    sys.stdout.flush()


def log_to_stderr(*, as_json: bool = False, is_service: bool = False) -> None:
    """Send the package's log to standard error.

    Args:
        as_json: One JSON object a line.
        is_service: Of a command that runs on: with the time, and from level info on. Otherwise only warnings.
    """
    handler = logging.StreamHandler()
    if as_json and is_service:
        handler.setFormatter(_JsonFormatter())
    elif is_service:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    else:
        handler.setFormatter(_PlainFormatter())
    package = logging.getLogger("shared_registry")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO if is_service else logging.WARNING)


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if url := getattr(record, "url", None):
            line["url"] = url
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
