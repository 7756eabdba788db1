"""`shared-registry serve`: runs a router with the proxy, and logs on standard error."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from shared_registry.aio.stop_signals import ReloadRequest, StopRequest, ignore_for_good
from shared_registry.aio.systemd import ServiceNotifier
from shared_registry.cli.log_output import log_to_stderr, set_log_level
from shared_registry.cli.options import (
    ConfigOption,
    JsonOption,
    NamespaceOption,
    RedisOption,
    WaitRedisOption,
    given,
)
from shared_registry.cli.serving_loop import serving_loop_factory
from shared_registry.config import RouterConfig

if TYPE_CHECKING:
    from shared_registry.proxy.app import Router

commands = typer.Typer()
logger = logging.getLogger(__name__)


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
    ignore_for_good()
    reload = ReloadRequest()
    reload.note_signals()
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr(as_json=options.as_json, is_service=True)
    may_lead = False if never_lead else None
    read = functools.partial(options.load, config, host=host, port=port, workers=workers, may_lead=may_lead)
    settings = read()
    set_log_level(settings)
    if settings.workers > 1:
        raise typer.Exit(_serve_by_workers(settings, wait_redis, reload, read, as_json=options.as_json))
    with asyncio.Runner(loop_factory=serving_loop_factory()) as runner:
        runner.run(_serve_until_stopped(settings, wait_redis, reload, read))


async def _serve_until_stopped(
    settings: RouterConfig, wait_seconds: float | None, reload: ReloadRequest, read: Callable[[], RouterConfig]
) -> None:
    from shared_registry.api.address import admin_address  # noqa: PLC0415  slow; only this command needs it
    from shared_registry.proxy import (  # noqa: PLC0415
        descriptors,
        reloading,
        server,
        service_notices,
    )
    from shared_registry.telemetry.works import telemetry_works  # noqa: PLC0415

    descriptors.raise_soft_limit()
    stop, notifier = StopRequest(), ServiceNotifier(os.environ)

    async def serve_reloads(router: Router) -> None:
        router.on_reload.append(set_log_level)
        await reloading.Reloading(reload, read, notifier).run(router.reload)

    async def inform(router: Router) -> None:
        await service_notices.inform(
            notifier,
            stop,
            url=router.url,
            config=lambda: router.config,
            opened=router.settled,
            joined=router.joined,
        )

    with stop.on_signals(reload), admin_address(settings) as admin:
        beside = [serve_reloads, inform, *admin.works, *telemetry_works(settings)]
        await server.serve_clients(settings, stop, wait_seconds=wait_seconds, on_listening=_log_url, beside=beside)
    logger.info("router: stopped")


def _serve_by_workers(
    settings: RouterConfig,
    wait_seconds: float | None,
    reload: ReloadRequest,
    read: Callable[[], RouterConfig],
    *,
    as_json: bool,
) -> int:
    """Serve by several processes. Return the worst of their exit codes."""
    from shared_registry.proxy import (  # noqa: PLC0415  slow; only this command needs it
        reloading,
        service_notices,
        supervisor,
    )

    notifier = ServiceNotifier(os.environ)

    async def supervise() -> int:
        stop = StopRequest()

        async def inform(workers: supervisor.Supervisor) -> None:
            await service_notices.inform(
                notifier,
                stop,
                url=workers.url,
                config=lambda: workers.config,
                opened=workers.opened.wait,
                joined=workers.joined,
            )

        async def watch(workers: supervisor.Supervisor) -> None:
            if notifier.watchdog_seconds is not None:
                await workers.end_silent_workers(notifier.watchdog_seconds)

        workers = supervisor.Supervisor(
            settings,
            stop,
            reloading.Reloading(reload, read, notifier),
            [sys.executable, "-m", "shared_registry.cli.worker"],
            wait_seconds=wait_seconds,
            as_json=as_json,
        )
        workers.on_reload.append(set_log_level)
        with stop.on_signals(reload):
            code = await workers.run(_log_url, beside=[inform, watch])
        logger.info("router: stopped")
        return code

    try:
        return asyncio.run(supervise())
    except supervisor.WorkersFailed as error:
        sys.stderr.write(f"error: {error}\n")
        return error.code


def _log_url(url: str) -> None:
    logger.info("router: serving on %s", url, extra={"url": url})
