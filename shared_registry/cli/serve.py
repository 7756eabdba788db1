"""The command `shared-registry serve`, as typer declares it."""

from __future__ import annotations

from typing import Annotated

import typer

from shared_registry.cli import serving
from shared_registry.cli.options import (
    ConfigOption,
    JsonOption,
    NamespaceOption,
    RedisOption,
    WaitRedisOption,
    given,
)

commands = typer.Typer()


@commands.command(
    epilog="Examples: `shared-registry serve --config router.yaml --wait-redis 30`; "
    "`SHARED_REGISTRY_REPLICAS=http://127.0.0.1:8000,http://127.0.0.1:8001 shared-registry serve --port 9000`"
)
def serve(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="Address to listen on.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", metavar="PORT", help="Port to listen on; 0 takes a free one.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Processes that serve clients on the port.", show_default=False),
    ] = None,
    never_lead: Annotated[
        bool,
        typer.Option("--never-lead", help="Never become the leader; others, such as `probe`, must. See may_lead."),
    ] = False,
    wait_redis: WaitRedisOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a router: accept WebSocket and HTTP sessions, and proxy each to a replica. Probe the replicas when elected.

    The router itself answers GET /status, /healthz and /readyz; all other requests go to replicas. It logs its address,
    changes of leader and changes of replicas on standard error. With --json each log line is a JSON object; the line
    with the address has a `url`.

    SIGTERM, SIGQUIT and Ctrl-C stop it cleanly: it resigns as leader, accepts no new session, lets live sessions finish
    for up to grace_seconds, and exits with 0. A second signal closes them at once. SIGHUP reads the settings again, and
    logs which of them took effect and which need a restart. SIGUSR1 and SIGUSR2 are ignored.
    """
    asked = serving.Serve(config, host, port, workers, never_lead=never_lead, wait_seconds=wait_redis)
    raise typer.Exit(serving.serve_until_told(given(context, redis, namespace, as_json=as_json), asked))
