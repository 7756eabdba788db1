"""`shared-registry step-down`: asks the leader to let another router become the leader."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shared_registry.admin.operator import Deposition, Operator, user_at_host
from shared_registry.cli.access import address_document, operate
from shared_registry.cli.console import print_json, print_line
from shared_registry.cli.exit_codes import FOUND_WRONG, OK
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import (
    ByOption,
    ConfigOption,
    JsonOption,
    NamespaceOption,
    ReasonOption,
    RedisOption,
    given,
)
from shared_registry.model import Leader

LONGEST_SIT_OUT_SECONDS = 86_400.0
SUCCESSOR_SECONDS = 2.0
commands = typer.Typer()


def _sit_out(seconds: float | None) -> float | None:
    if seconds is not None and not 0 < seconds <= LONGEST_SIT_OUT_SECONDS:
        raise typer.BadParameter(f"must be a number of seconds above 0, at most {LONGEST_SIT_OUT_SECONDS:.0f}, a day")
    return seconds


@commands.command(
    "step-down",
    epilog="Examples: `shared-registry step-down --reason 'kernel upgrade'`; `shared-registry step-down --for 300`",
)
def step_down(
    context: typer.Context,
    *,
    sit_out: Annotated[
        float | None,
        typer.Option(
            "--for",
            metavar="SECONDS",
            help="How long it may not become the leader again; default: 3 x lease_seconds, 9 s by default.",
            callback=_sit_out,
            show_default=False,
        ),
    ] = None,
    reason: ReasonOption = None,
    by: ByOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the leader to step down. It stops probing at once and sits out, so that another router takes over.

    From that moment Redis refuses its writes as the leader, even if its process is paused or cut off. It continues to
    route sessions. If no other router campaigns, no replica is probed until this router is the leader again. Exits with
    1 if there is no leader.

    --json prints one object: redis, namespace, by, stepped_down {router, epoch, sit_out_seconds} or null, and leader
    {router, epoch}, the new leader, or null.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.load(config)
    name = by or user_at_host()

    async def work(operator: Operator) -> tuple[Deposition | None, Leader | None]:
        deposition = await operator.step_down(sit_out_seconds=sit_out, reason=reason or "")
        if deposition is None:
            return None, None
        within = min(SUCCESSOR_SECONDS, deposition.sit_out_seconds / 2)
        return deposition, await operator.leader_after(deposition.leader.epoch, within_seconds=within)

    deposition, successor = operate(settings, name, work)
    if options.as_json:
        print_json({**address_document(settings), "by": name, **_document(deposition, successor)})
    else:
        print_line(_line(deposition, successor))
    raise typer.Exit(OK if deposition is not None and deposition.is_deposed else FOUND_WRONG)


def _document(deposition: Deposition | None, successor: Leader | None) -> dict[str, Any]:
    stepped_down = None
    if deposition is not None and deposition.is_deposed:
        leader, seconds = deposition.leader, deposition.sit_out_seconds
        stepped_down = {"router": leader.router, "epoch": leader.epoch, "sit_out_seconds": seconds}
    return {
        "stepped_down": stepped_down,
        "leader": successor and {"router": successor.router, "epoch": successor.epoch},
    }


def _line(deposition: Deposition | None, successor: Leader | None) -> str:
    if deposition is None:
        return "there is no leader, so no router was asked; `shared-registry routers` lists the routers"
    then = f"{successor.router} leads in epoch {successor.epoch}" if successor else "no other router has taken over yet"
    router, epoch = deposition.leader.router, deposition.leader.epoch
    if not deposition.is_deposed:
        return f"epoch {epoch} of {router} ended just before, so no router was asked; {then}"
    return f"{router} steps down from epoch {epoch} and sits out {deposition.sit_out_seconds:g} s; {then}"
