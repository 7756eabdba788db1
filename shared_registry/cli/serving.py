"""Runs a router with the proxy until it is stopped, and logs on standard error."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared_registry.aio.garbage import no_collections
from shared_registry.aio.stop_signals import ReloadRequest, StopRequest, ignore_for_good
from shared_registry.aio.systemd import ServiceNotifier
from shared_registry.cli.exit_codes import OK
from shared_registry.cli.lean_imports import lean_imports
from shared_registry.cli.log_output import log_to_stderr, set_log_level
from shared_registry.cli.serving_loop import serving_loop_factory

if TYPE_CHECKING:
    from pathlib import Path

    from shared_registry.cli.global_options import GlobalOptions
    from shared_registry.config import RouterConfig
    from shared_registry.proxy.app import Router

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serve:
    """What the options of `serve` say; `None` is an option that was not given.

    Attributes:
        path: The YAML file.
        host: The address to listen on.
        port: The port to listen on.
        workers: The number of processes.
        never_lead: Whether the router never becomes the leader.
        wait_seconds: How long to try to reach Redis at the start; `None` has no limit.
    """

    path: Path | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    never_lead: bool = False
    wait_seconds: float | None = None


def serve_until_told(options: GlobalOptions, asked: Serve) -> int:
    """Run a router, by one process or several, until a signal stops it. Return the exit code.

    Raises:
        RegistryError: The settings are wrong, or the router could not start.
    """
    ignore_for_good()
    reload = ReloadRequest()
    reload.note_signals()
    log_to_stderr(as_json=options.as_json, is_service=True)
    read = functools.partial(
        options.load,
        asked.path,
        host=asked.host,
        port=asked.port,
        workers=asked.workers,
        may_lead=False if asked.never_lead else None,
    )
    with no_collections(), lean_imports():
        settings = read()
    set_log_level(settings)
    if settings.workers > 1:
        return _serve_by_workers(settings, asked.wait_seconds, reload, read, as_json=options.as_json)
    with asyncio.Runner(loop_factory=serving_loop_factory()) as runner:
        runner.run(_serve_until_stopped(settings, asked.wait_seconds, reload, read))
    return OK


async def _serve_until_stopped(
    settings: RouterConfig, wait_seconds: float | None, reload: ReloadRequest, read: Callable[[], RouterConfig]
) -> None:
    with no_collections(), lean_imports():
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
    with no_collections(), lean_imports():
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
