"""The options that all commands share: the registry's address, and the form of the output."""

from __future__ import annotations

import json
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_registry.cli.completing import complete_replicas
from shared_registry.config import LoadedConfig, RouterConfig, load_config
from shared_registry.model import EVERY_REPLICA, LabelSelector

LONGEST_TEXT = 500

RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL",
        help="The Redis that holds the registry. If the url has a password, set SHARED_REGISTRY_REDIS_URL instead: "
        "other users of this machine can read a command line.",
        show_default=False,
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="The registry's name in that Redis.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="A router's YAML file.", show_default=False),
]


def _selector(texts: list[str] | None) -> list[str]:
    """Check the option's texts. Older versions of typer cannot use `None` that a callback returns."""
    for text in texts or []:
        try:
            LabelSelector.parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return texts or []


SelectorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--selector",
        "-l",
        metavar="LABELS",
        help="Only replicas with these labels, such as zone=a,gpu!=h100; NAME alone: that have it, !NAME: that do not.",
        callback=_selector,
        show_default=False,
    ),
]


def label_selector(texts: list[str] | None) -> LabelSelector:
    """Return the selector of all `-l` of a command, which must all hold."""
    return LabelSelector.parse(",".join(texts)) if texts else EVERY_REPLICA


TargetsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TARGET",
        help="Replicas, by name or by url.",
        autocompletion=complete_replicas,
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation, as in scripts.")]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Show the replicas, their sessions and what is left; change nothing."),
]


def seconds_above_zero(seconds: float | None) -> float | None:
    """Return the duration, or refuse one that is not above 0 or not finite. `None` means that none was given."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise typer.BadParameter("must be a number of seconds above 0")
    return seconds


def _one_line(text: str | None) -> str | None:
    if text is not None and (len(text) > LONGEST_TEXT or not text.isprintable()):
        raise typer.BadParameter(f"must be one line of at most {LONGEST_TEXT} printable characters")
    return text


ReasonOption = Annotated[
    str | None,
    typer.Option(
        "--reason", metavar="TEXT", help="The reason, recorded in the event.", callback=_one_line, show_default=False
    ),
]
ByOption = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="WHO",
        help="The author of the change, recorded in the event; default: user@host.",
        callback=_one_line,
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """The options that are accepted before and after the command's name."""

    redis: str | None = None
    namespace: str | None = None
    as_json: bool = False

    def load(self, path: Path | None = None, **overrides: Any) -> RouterConfig:
        """Return the settings in force. The command line overrides the environment, then the file, then the defaults.

        Args:
            path: The YAML file, if one is given.
            overrides: Settings from a command's own options; `None` for an option that was not given.

        Raises:
            ConfigError: The file cannot be read, or a setting is wrong.
        """
        return self.load_with_origins(path, **overrides).config

    def load_with_origins(self, path: Path | None = None, **overrides: Any) -> LoadedConfig:
        """Return the settings in force, and the source of each."""
        overrides |= {"redis_url": self.redis, "namespace": self.namespace}
        return load_config(path, overrides=overrides)


def given(context: typer.Context, redis: str | None, namespace: str | None, *, as_json: bool) -> GlobalOptions:
    """Combine the options before and after the command's name; those after it take precedence."""
    before = context.obj if isinstance(context.obj, GlobalOptions) else GlobalOptions()
    return GlobalOptions(redis or before.redis, namespace or before.namespace, as_json or before.as_json)


def print_json(document: object, *, is_line: bool = False) -> None:
    """Print one JSON document on standard output.

    Args:
        document: Anything that `json.dumps` accepts.
        is_line: Print it on one line, for a command that prints several documents.
    """
    sys.stdout.write(json.dumps(document, indent=None if is_line else 2) + "\n")
    sys.stdout.flush()


def log_to_stderr(*, as_json: bool = False, is_service: bool = False, worker: int | None = None) -> None:
    """Send the package's log to standard error.

    Args:
        as_json: Write one JSON object per line, if this is a service.
        is_service: The command runs until it is stopped: log from level info on, with the time. Other commands log
            only warnings and errors.
        worker: The number of this worker, if the service consists of several processes.
    """
    handler = logging.StreamHandler()
    if as_json and is_service:
        handler.setFormatter(_JsonFormatter(worker))
    elif is_service:
        name = "" if worker is None else f"worker {worker}: "
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {name}%(message)s"))
    else:
        handler.setFormatter(_PlainFormatter())
    package = logging.getLogger("shared_registry")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO if is_service else logging.WARNING)


def set_log_level(config: RouterConfig) -> None:
    """Log what `log_level` says, from now on."""
    logging.getLogger("shared_registry").setLevel(config.log_level.upper())


LOG_FIELDS = ("url", "admin_url", "pool", "replica", "router", "epoch", "request_id")
"""The attributes of log records that a line in JSON shows, so that programs need not parse messages."""


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


class _JsonFormatter(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            line["worker"] = self._worker
        line |= {name: value for name in LOG_FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
