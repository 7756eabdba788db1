"""`shared-registry probe`: runs a router that only probes, and logs on standard error."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
from shared_registry.errors import RegistryError

if TYPE_CHECKING:
    from shared_registry.config.reload_rules import Reloaded
    from shared_registry.registry.facade import SharedReplicaRegistry

END_SECONDS = 10.0
"""How long leaving may take where Redis is slow."""
commands = typer.Typer()
logger = logging.getLogger(__name__)


@commands.command(
    epilog="Examples: `shared-registry probe --config router.yaml`; `shared-registry probe -n llm --wait-redis 30`"
)
def probe(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    wait_redis: WaitRedisOption = None,
    redis: RedisOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a router that only probes: it takes part in elections and health verdicts, and serves no clients.

    In a large fleet, run two or more of these, and the routers that serve clients with --never-lead. Then no session
    waits behind probes. It listens on no port. `shared-registry routers` shows it like any other router.

    SIGTERM, SIGQUIT and Ctrl-C stop it cleanly: it resigns as leader, and exits with 0. SIGHUP reads the settings
    again.
    """
    ignore_for_good()
    reload = ReloadRequest()
    reload.note_signals()
    options = given(context, redis, namespace, as_json=as_json)
    log_to_stderr(as_json=options.as_json, is_service=True)
    read = functools.partial(options.load, config)
    settings = read()
    set_log_level(settings)
    with asyncio.Runner(loop_factory=serving_loop_factory()) as runner:
        runner.run(_probe_until_stopped(settings, wait_redis, reload, read))


async def _probe_until_stopped(
    settings: RouterConfig, wait_seconds: float | None, reload: ReloadRequest, read: Callable[[], RouterConfig]
) -> None:
    from shared_registry.aio.garbage import rare_collections  # noqa: PLC0415  slow; only this command needs these
    from shared_registry.proxy import descriptors, reloading, service_notices  # noqa: PLC0415
    from shared_registry.registry.facade import SharedReplicaRegistry  # noqa: PLC0415

    descriptors.raise_soft_limit()
    stop, notifier = StopRequest(), ServiceNotifier(os.environ)
    registries = {name: SharedReplicaRegistry(one) for name, one in (settings.pool_configs() or {"": settings}).items()}

    def apply(changed: RouterConfig) -> Sequence[tuple[str, Reloaded]]:
        set_log_level(changed)
        configs = changed.pool_configs() or {"": changed}
        return [(name, registries[name].reload(one)) for name, one in configs.items() if name in registries]

    async def inform(joined: Sequence[asyncio.Event]) -> None:
        for event in joined:
            await event.wait()
        notifier.ready("probing")

    try:
        with stop.on_signals(reload), rare_collections():
            async with asyncio.TaskGroup() as tasks:
                joined = [asyncio.Event() for _ in registries]
                works = [
                    tasks.create_task(_take_part(registry, name, wait_seconds, event))
                    for (name, registry), event in zip(registries.items(), joined, strict=True)
                ]
                works.append(tasks.create_task(reloading.Reloading(reload, read, notifier).run(apply)))
                works.append(tasks.create_task(inform(joined)))
                works.append(tasks.create_task(service_notices.show_life(notifier)))
                await stop.asked.wait()
                notifier.stopping("stopping", seconds=END_SECONDS)
                for work in works:
                    work.cancel()
    except* RegistryError as failures:
        raise failures.exceptions[0] from None
    logger.info("router: stopped")


async def _take_part(
    registry: SharedReplicaRegistry, pool: str, wait_seconds: float | None, joined: asyncio.Event
) -> None:
    """Take part in the health checks of one namespace until cancelled."""
    from shared_registry.proxy.narrator import Narrator  # noqa: PLC0415
    from shared_registry.store.redis_url import mask_redis_url  # noqa: PLC0415

    try:
        await registry.start(timeout_seconds=wait_seconds)
        key, namespace = registry.router_key, registry.config.namespace
        where = mask_redis_url(registry.config.redis_url)
        logger.info("router: %s probes for namespace %s at %s", key, namespace, where, extra={"router": key})
        joined.set()
        with Narrator(registry, pool=pool).narrating():
            await asyncio.get_running_loop().create_future()
    finally:
        await registry.stop()
