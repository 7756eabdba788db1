"""FastVideo's in-process router registry under its own names, on top of the shared registry.

FastVideo's router changes one import:

    from shared_registry.fastvideo import ReplicaRegistry, run_health_check_loop

    registry = ReplicaRegistry(config.replicas)
    await run_health_check_loop(registry=registry, config=config, stop_event=stop_event)

`SHARED_REGISTRY_*` variables set the Redis url, the namespace, and everything else for which FastVideo's registry has
no setting. Configs and endpoints may be objects of FastVideo's own classes: only their attributes matter.

Differences from FastVideo's registry:

- The replicas of all routers add up, and an empty list is allowed.
- One router probes for all. Without Redis nothing is probed, and the last statuses stay.
- Between two changes of status, the times, latencies and counters of a replica are up to one health check interval old.
- A `ReplicaHealth` is a snapshot. Each access to a replica's health returns the latest one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterable

from shared_registry.config import RouterConfig, from_env
from shared_registry.config.yaml_file import BLOCKS
from shared_registry.errors import ConfigError, StoreError, UsageError
from shared_registry.model import Replica, ReplicaEndpoint, ReplicaHealth, ReplicaStatus
from shared_registry.probing import HttpProbe
from shared_registry.registry.facade import SharedReplicaRegistry

__all__ = [
    "HttpProbe",
    "Replica",
    "ReplicaEndpoint",
    "ReplicaHealth",
    "ReplicaRegistry",
    "ReplicaStatus",
    "RouterConfig",
    "run_health_check_loop",
]

HEALTH_SETTINGS = tuple(setting for keys in BLOCKS.values() for setting in keys.values())
"""The settings that `run_health_check_loop` takes from its config."""
ORIGINAL_SETTINGS = 5
"""So many of them, the first ones, are those of FastVideo's registry."""

logger = logging.getLogger(__name__)


class ReplicaRegistry(SharedReplicaRegistry):
    """A `SharedReplicaRegistry` with the constructor of FastVideo's registry. `run_health_check_loop` starts it.

    After `record_success` and `record_failure` the replica shows their effect, including counters, also once the
    registry is started.
    """

    def __init__(self, replicas: Iterable[object]) -> None:
        """Set up; nothing connects before the health check loop runs, and no event loop is needed.

        Args:
            replicas: `ReplicaEndpoint`s, or objects with the attributes of FastVideo's endpoints.

        Raises:
            ConfigError: A replica or a variable is wrong. The message lists all wrong values.
        """
        settings = from_env(os.environ)
        super().__init__(dataclasses.replace(settings, replicas=list(replicas)), health_checks=False)  # type: ignore[arg-type]  # `RouterConfig` checks them
        self._unread: set[str] = set()
        self._reading = asyncio.Lock()

    async def record_success(self, replica: Replica, *, recovery_threshold: int, latency_ms: float) -> None:
        """Count a success that this router experienced itself. Never raises; while Redis is away it is dropped."""
        await super().record_success(replica, recovery_threshold=recovery_threshold, latency_ms=latency_ms)
        await self._read_counters(replica.key)

    async def record_failure(self, replica: Replica, *, failure_threshold: int, reason: str | BaseException) -> None:
        """Count a failure that this router experienced itself. Never raises; while Redis is away it is dropped."""
        await super().record_failure(replica, failure_threshold=failure_threshold, reason=reason)
        await self._read_counters(replica.key)

    async def _read_counters(self, key: str) -> None:
        """Read the counters of a replica after an outcome. The event stream carries only changes of status.

        One read at a time serves all waiting callers. So no read overtakes a later one, and an outage costs one
        timeout.
        """
        self._unread.add(key)
        async with self._reading:
            keys, self._unread = self._unread, set()
            if not keys or not self.is_started:
                return
            generation = self._mirror.generation
            with contextlib.suppress(StoreError):
                records = await self._reader.records(sorted(keys))
                head = await self._reader.head()
                if generation == self._mirror.generation and head.history_id == self._mirror.history_id:
                    self._view.read(records.values())


async def run_health_check_loop(
    registry: SharedReplicaRegistry,
    config: object,
    *,
    stop_event: asyncio.Event,
    http_get: HttpProbe | None = None,
) -> None:
    """Take part in probing until `stop_event` is set: campaign for leader, and probe for all routers while leading.

    A registry that is not started is started first, and stopped at the end. The start waits as long as Redis is away.
    However the call ends, also by cancellation, it leaves nothing running. Probe results so far are reported, and a
    leader resigns.

    Args:
        registry: A registry without health checks of its own, such as a `ReplicaRegistry`.
        config: Any object with `HEALTH_SETTINGS` as attributes. Settings that it lacks, and the leader's lease, are
            taken from the registry; so are those beyond FastVideo's own that a `RouterConfig` leaves at their defaults.
        stop_event: Ends the call, including probes under way.
        http_get: Replaces the HTTP probe.

    Raises:
        ConfigError: A setting is wrong.
        UsageError: The registry checks health itself, or a loop already runs on it.
        StoreRefused: Redis refused the start of the registry: wrong credentials, or the server is too old.
        KeyConflict: A key of the namespace is of another type.
    """
    if registry.health_checks:
        raise UsageError(
            "this registry checks health itself; build it with health_checks=False to run a health check loop on it"
        )
    settings = _with_health_settings(registry.config, config)
    if stop_event.is_set():
        return
    work = asyncio.create_task(_check_health(registry, settings, http_get), name="health check loop")
    stop = asyncio.create_task(stop_event.wait(), name="health check loop: stop_event")
    try:
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
    finally:
        work.cancel()
        stop.cancel()
        await asyncio.gather(work, stop, return_exceptions=True)
    if not work.cancelled():
        work.result()


def _with_health_settings(base: RouterConfig, config: object) -> RouterConfig:
    found = {name: getattr(config, name) for name in HEALTH_SETTINGS if hasattr(config, name)}
    if not found:
        raise ConfigError(
            f"config: {type(config).__name__} has no setting such as {HEALTH_SETTINGS[1]}; pass a RouterConfig"
        )
    if isinstance(config, RouterConfig):
        unset = RouterConfig()
        for name in HEALTH_SETTINGS[ORIGINAL_SETTINGS:]:
            if found[name] == getattr(unset, name):
                del found[name]
    return dataclasses.replace(base, **found)


async def _check_health(registry: SharedReplicaRegistry, settings: RouterConfig, http_get: HttpProbe | None) -> None:
    """Run health checks until cancelled. A registry that is not started is started for that time."""
    was_started = registry.is_started
    try:
        if not was_started:
            await registry.start()
        refreshing = asyncio.create_task(_keep_fresh(registry, settings.health_check_interval_seconds))
        try:
            await registry.run_health_checks(settings, http_get=http_get)
        finally:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)
            with contextlib.suppress(StoreError):
                await registry.refresh(at_once=True)
    except Exception as error:
        # FastVideo's router reads the result of this task only at shutdown.
        logger.critical("the health check loop has ended, this router probes nothing any more: %s", error)
        raise
    finally:
        if not was_started:
            await registry.stop()


async def _keep_fresh(registry: SharedReplicaRegistry, interval_seconds: float) -> None:
    """Read once per interval the data that probes change without changing a status."""
    while True:
        await asyncio.sleep(interval_seconds)
        with contextlib.suppress(StoreError):
            await registry.refresh()
