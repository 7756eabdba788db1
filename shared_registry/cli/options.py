"""The options that all commands share, as typer declares them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from shared_registry.cli.completing import complete_replicas
from shared_registry.cli.global_options import GlobalOptions
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


WaitRedisOption = Annotated[
    float | None,
    typer.Option(
        "--wait-redis",
        metavar="SECONDS",
        help="Exit with 3 if Redis cannot be used within this time after the start; default: keep trying.",
        callback=seconds_above_zero,
        show_default=False,
    ),
]


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


def given(context: typer.Context, redis: str | None, namespace: str | None, *, as_json: bool) -> GlobalOptions:
    """Combine the options before and after the command's name; those after it take precedence."""
    before = context.obj if isinstance(context.obj, GlobalOptions) else GlobalOptions()
    return GlobalOptions(redis or before.redis, namespace or before.namespace, as_json or before.as_json)
