"""`shared-registry join`: announces a replica, and runs its command."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from shared_registry.announcing.joining import Joining, join_replica
from shared_registry.cli.endpoint_options import (
    CapacityOption,
    HealthCheckPathOption,
    HealthCheckPortOption,
    LabelsOption,
    OrderOption,
    PrimaryOption,
    WeightOption,
    label_changes,
)
from shared_registry.cli.log_output import log_to_stderr
from shared_registry.cli.options import ConfigOption, JsonOption, NamespaceOption, RedisOption, given
from shared_registry.errors import UsageError
from shared_registry.model import ReplicaEndpoint

commands = typer.Typer()


@commands.command(
    "join",
    epilog="Examples: `shared-registry join --url http://127.0.0.1:8000 --capacity 1 -- vllm serve MODEL --port 8000`; "
    "`shared-registry join --url http://127.0.0.1:8000 --name gpu-7`",
)
def join_command(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="The replica's command.", show_default=False)
    ] = None,
    *,
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The url by which routers reach the replica.")],
    name: Annotated[
        str | None, typer.Option("--name", help="A name, to which drain and disable belong.", show_default=False)
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option("--owner", help="Who holds the replica; default: its name, or the host's.", show_default=False),
    ] = None,
    ttl: Annotated[
        float, typer.Option("--ttl", metavar="SECONDS", help="How long it stays in service without a heartbeat.")
    ] = 10.0,
    drain_seconds: Annotated[
        float, typer.Option("--drain-seconds", metavar="SECONDS", help="How long its sessions may go on after SIGTERM.")
    ] = 30.0,
    stop_seconds: Annotated[
        float, typer.Option("--stop-seconds", metavar="SECONDS", help="How long the command may take to end then.")
    ] = 30.0,
    primary: PrimaryOption = None,
    weight: WeightOption = None,
    capacity: CapacityOption = None,
    order: OrderOption = None,
    label: LabelsOption = None,
    health_check_path: HealthCheckPathOption = None,
    health_check_port: HealthCheckPortOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Announce a replica, and run its command: register it once it is healthy, and take it out when it ends.

    Without a command it announces a replica that runs elsewhere. SIGTERM lets the replica drain, deregisters it, and
    then ends the command; a second SIGTERM does it at once. Exits with the command's exit code. With
    --json each log line is a JSON object; --json prints one object a line to standard error and nothing else.
    """
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr(as_json=options.as_json, is_service=True)
    labels, removed_labels = label_changes(label or [])
    if removed_labels:
        raise UsageError(f"--label: {min(removed_labels)}- removes a label, and an announced replica begins with none")
    if name == "":
        raise UsageError("--name: is empty; give a name, or leave the option out")
    settings = options.load(config)
    endpoint = ReplicaEndpoint(
        url,
        name=name,
        primary=bool(primary),
        weight=1.0 if weight is None else weight,
        capacity=capacity or 0,
        order=order,
        labels=labels,
        health_check_path=health_check_path or None,
        health_check_port=health_check_port or None,
    )
    joining = Joining(settings, endpoint, owner or "", ttl, drain_seconds, stop_seconds)
    raise typer.Exit(asyncio.run(join_replica(joining, command or [])))
