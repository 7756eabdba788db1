"""The names of FastVideo's in-process router registry, on the shared one.

Its router changes one import:

    from shared_registry.fastvideo import ReplicaRegistry, run_health_check_loop

    registry = ReplicaRegistry(config.replicas)
    await run_health_check_loop(registry=registry, config=config, stop_event=stop_event)

Which Redis and which namespace, and all else that the original has no setting for, comes from `SHARED_REGISTRY_*`
variables. Configs and endpoints may be the original's own: what counts is their attributes.

What differs from the original: the replicas of all routers add up, and an empty list is fine; one router of all probes,
so that without Redis nothing is probed and the last statuses stand; between two changes of status the times, latencies
and counters that a replica shows are up to a health check interval old; a `ReplicaHealth` is a snapshot, read anew from
the replica each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterable

from shared_registry.config import RouterConfig, from_env
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

HEALTH_SETTINGS = (
    "health_check_path",
    "health_check_interval_seconds",
    "health_check_timeout_seconds",
    "failure_threshold",
    "recovery_threshold",
    "health_check_expect",
    "fast_interval_seconds",
    "probe_concurrency",
)
"""What `run_health_check_loop` takes from its config; the first five are the original's."""

logger = logging.getLogger(__name__)


class ReplicaRegistry(SharedReplicaRegistry):
    """A `SharedReplicaRegistry` built like the original's, and joined to the others by `run_health_check_loop`.

    After `record_success` and `record_failure` the replica shows their effect, counters included, also while shared.
    """

    def __init__(self, replicas: Iterable[object]) -> None:
        """Set up; nothing connects before the health check loop runs, and no event loop is needed.

        Args:
            replicas: `ReplicaEndpoint`s, or objects with the attributes of the original's.

        Raises:
            ConfigError: A replica or a variable is wrong; the message lists everything that is.
        """
        settings = from_env(os.environ)
        super().__init__(dataclasses.replace(settings, replicas=list(replicas)), health_checks=False)  # type: ignore[arg-type]  # checked there
        self._unread: set[str] = set()
        self._reading = asyncio.Lock()

    async def record_success(self, replica: Replica, *, recovery_threshold: int, latency_ms: float) -> None:
        """Count a success that this router saw itself. Never raises; while Redis is away it is dropped."""
        await super().record_success(replica, recovery_threshold=recovery_threshold, latency_ms=latency_ms)
        await self._read_counters(replica.key)

    async def record_failure(self, replica: Replica, *, failure_threshold: int, reason: str | BaseException) -> None:
        """Count a failure that this router saw itself. Never raises; while Redis is away it is dropped."""
        await super().record_failure(replica, failure_threshold=failure_threshold, reason=reason)
        await self._read_counters(replica.key)

    async def _read_counters(self, key: str) -> None:
        """Show what an outcome left: the event stream tells only changes of status.

        One read at a time, for all who wait, so that no read overtakes a later one and an outage costs one timeout.
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
    """Take part in probing until `stop_event` is set: this router stands for leader, and probes for all while it leads.

    A registry that is not started is started, for which it waits as long as Redis is away, and stopped at the end. An
    end, be it by cancelling, leaves nothing running; what was probed until then counts, and a leader resigns.

    Args:
        registry: One without health checks of its own, as a `ReplicaRegistry` is.
        config: Any object with `HEALTH_SETTINGS` as attributes; those that it lacks, and the lease, are the registry's.
        stop_event: Ends it, probes under way included.
        http_get: Replaces the HTTP probe.

    Raises:
        ConfigError: A setting is wrong.
        UsageError: The registry checks health itself, or a loop runs on it already.
        StoreRefused: Redis refused when the registry was started: wrong credentials, or too old.
        KeyConflict: A key of the namespace holds something else.
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
    return dataclasses.replace(base, **found)


async def _check_health(registry: SharedReplicaRegistry, settings: RouterConfig, http_get: HttpProbe | None) -> None:
    """Run health checks until cancelled, on a registry that is started for as long where it was not."""
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
        # The original's router looks at the outcome of this task at shutdown only.
        logger.critical("the health check loop has ended, nothing is probed by this router: %s", error)
        raise
    finally:
        if not was_started:
            await registry.stop()


async def _keep_fresh(registry: SharedReplicaRegistry, interval_seconds: float) -> None:
    """Read again, once an interval, what probes change without changing a status."""
    while True:
        await asyncio.sleep(interval_seconds)
        with contextlib.suppress(StoreError):
            await registry.refresh()
