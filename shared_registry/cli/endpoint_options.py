"""The options by which `add` describes replicas. An option that is not given is `None`, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from shared_registry.errors import UsageError

UrlsArgument = Annotated[
    list[str], typer.Argument(metavar="URL", help="The replicas' http(s) urls, without a path.", show_default=False)
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="A name for people; only with a single url.", show_default=False)
]
PrimaryOption = Annotated[
    bool | None,
    typer.Option("--primary/--secondary", help="The tier; secondaries take sessions when no primary can."),
]
WeightOption = Annotated[
    float | None, typer.Option("--weight", help="The share of the load; default: 1.", show_default=False)
]
CapacityOption = Annotated[
    int | None,
    typer.Option("--capacity", help="The most sessions at once; 0, the default, means no limit.", show_default=False),
]
OrderOption = Annotated[
    int | None,
    typer.Option(
        "--order",
        help="The order among the replicas, lowest first; default: the end. Only with a single url.",
        show_default=False,
    ),
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME=VALUE",
        help="Set a label, such as zone=a; NAME- removes the label. Repeat for several labels.",
        show_default=False,
    ),
]
HealthCheckPathOption = Annotated[
    str | None,
    typer.Option(
        "--health-check-path",
        metavar="PATH",
        help="The path that its probes request; '' for the routers' own.",
        show_default=False,
    ),
]
HealthCheckPortOption = Annotated[
    int | None,
    typer.Option(
        "--health-check-port",
        metavar="PORT",
        help="The port that its probes connect to; 0 for the routers' own.",
        show_default=False,
    ),
]


def label_changes(asked: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """Return the labels to set, and the names of the labels to remove.

    Raises:
        UsageError: One has not the form of the option, or contradicts another one.
    """
    wanted: dict[str, str] = {}
    unwanted: set[str] = set()
    for text in asked:
        name, equals, value = text.partition("=")
        if equals:
            if wanted.setdefault(name, value) != value:
                raise UsageError(f"--label: {name!r} has two values")
        elif name.endswith("-"):
            unwanted.add(name.removesuffix("-"))
        else:
            raise UsageError(f"--label: {text!r} must be NAME=VALUE, such as zone=a, or NAME- to remove the label")
    if both := sorted(wanted.keys() & unwanted):
        raise UsageError(f"--label: {both[0]!r} is both set and removed")
    return wanted, unwanted
