"""`shared-registry step-down`: another router is to lead."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shared_registry.admin.operator import Deposition, Operator, user_at_host
from shared_registry.cli.access import operate, place
from shared_registry.cli.console import print_line
from shared_registry.cli.exit_codes import FOUND_WRONG, OK
from shared_registry.cli.options import (
    ByOption,
    ConfigOption,
    JsonOption,
    NamespaceOption,
    ReasonOption,
    RedisOption,
    given,
    log_to_stderr,
    print_json,
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
            help="How long it is not to lead again; default: three leases, 9 s where the lease is the default.",
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
    """Ask the leader to step down: it stops probing at once and sits out for some leases, so that another takes over.

    Its writes are refused from that moment on, also while it is paused or cut off. It goes on routing. Where no other
    router stands, nobody probes until it leads again. Exits with 1 where nobody leads.

    --json prints one object: redis, namespace, by, stepped_down {router, epoch, sit_out_seconds} or null, and leader
    {router, epoch} or null, who leads now.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr()
    settings = options.load(config)
    who = by or user_at_host()

    async def work(operator: Operator) -> tuple[Deposition | None, Leader | None]:
        deposition = await operator.step_down(sit_out_seconds=sit_out, reason=reason or "")
        if deposition is None:
            return None, None
        within = min(SUCCESSOR_SECONDS, deposition.sit_out_seconds / 2)
        return deposition, await operator.leader_after(deposition.leader.epoch, within_seconds=within)

    deposition, successor = operate(settings, who, work)
    if options.as_json:
        print_json({**place(settings), "by": who, **_document(deposition, successor)})
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
        return "nobody leads, so that nobody was asked; `shared-registry routers` shows who could"
    then = f"{successor.router} leads in epoch {successor.epoch}" if successor else "nobody else has taken over yet"
    router, epoch = deposition.leader.router, deposition.leader.epoch
    if not deposition.is_deposed:
        return f"epoch {epoch} of {router} ended by itself just before, so that nobody was asked; {then}"
    return f"{router} steps down from epoch {epoch} and sits out {deposition.sit_out_seconds:g} s; {then}"
