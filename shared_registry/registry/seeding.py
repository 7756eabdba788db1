"""Registers the configured replicas: when a router starts, and when its config was read again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from shared_registry.admin.inspector import Inspector
from shared_registry.aio.backoff import Backoff
from shared_registry.aio.breath import Breath
from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.errors import KeyConflict, ReplicaClaimed, StoreError
from shared_registry.model import ReplicaEndpoint, ReplicaRecord, Source
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.reader import Tombstone
from shared_registry.urls import canonical_url

logger = logging.getLogger(__name__)


class Seeding:
    """Registers the replicas of a config. Only one `run` at a time."""

    def __init__(self, store: Store, reader: Inspector, keys: Keys, *, clock: Clock, rng: random.Random) -> None:
        self._store = store
        self._reader = reader
        self._keys = keys
        self._clock = clock
        self._rng = rng
        self._settings: RouterConfig | None = None
        self._is_changed = asyncio.Event()

    def ask(self, settings: RouterConfig) -> None:
        """Let `run` register the replicas of a new config. Of several configs, the last one counts."""
        self._settings = settings
        self._is_changed.set()

    async def run(self) -> None:
        """Register the replicas of each new config, as soon as Redis accepts that, until cancelled."""
        while True:
            await self._is_changed.wait()
            self._is_changed.clear()
            if self._settings is not None:
                await self._register_soon(self._settings)

    async def _register_soon(self, settings: RouterConfig) -> None:
        backoff, is_in_trouble = Backoff(rng=self._rng), False
        while not self._is_changed.is_set():
            try:
                log(await self.register(settings))
            except StoreError as error:
                if not is_in_trouble:
                    is_in_trouble = True
                    logger.warning("config: the replicas cannot be registered yet: %s", error)
                await self._clock.sleep(backoff.next_seconds())
            else:
                return

    async def register(
        self, settings: RouterConfig, registered: Mapping[str, ReplicaRecord] | None = None
    ) -> list[str]:
        """Register the configured replicas that are not registered as configured.

        Args:
            settings: The settings of this router.
            registered: The replicas that were registered a moment ago, by canonical url. By default they are read.

        Returns:
            What the config asks for and does not get.

        Raises:
            StoreError: Redis did not accept it. The call may be repeated.
        """
        breath = Breath()
        configured: dict[str, ReplicaEndpoint] = {}
        for endpoint in settings.replicas:
            configured[canonical_url(endpoint.url)] = endpoint
            await breath.pause()
        if registered is None:
            registered = await self._reader.records(list(configured))
        removed = {
            one.key: one for one in await self._reader.tombstones([key for key in configured if key not in registered])
        }
        differences: dict[str, list[str]] = {}
        for key, endpoint in configured.items():
            known = registered.get(key)
            if known is None:
                differences[key] = []
            elif not _is_as_configured(known.endpoint, endpoint):
                differences[key] = _differences(known.endpoint, endpoint)
            await breath.pause()
        changes = {key: configured[key] for key in differences}
        notices = []
        async with contextlib.aclosing(self._store.register_all(changes, mode=Source.SEED, by="config")) as answers:
            async for one in answers:
                key, error = one.key, one.error
                if error is not None:
                    notices.append(_refused_text(key, error))
                elif one.is_tombstone and key in removed:
                    notices.append(_removed_text(removed[key]))
                elif key in registered:
                    notices.append(_differing_text(registered[key], configured[key], differences[key]))
        return notices


def log(notices: Sequence[str]) -> None:
    """Log what the config asks for and does not get."""
    for notice in notices:
        logger.warning("config: %s", notice)


def departed(before: RouterConfig, after: RouterConfig) -> list[str]:
    """Return a notice for each replica that only the former config has: it stays registered, as after a restart."""
    kept = {canonical_url(endpoint.url) for endpoint in after.replicas}
    gone = [endpoint for endpoint in before.replicas if canonical_url(endpoint.url) not in kept]
    return [
        f"replica {endpoint.url} is not in the config any more, and stays registered; "
        "remove it with `shared-registry remove`"
        for endpoint in gone
    ]


def _is_as_configured(known: ReplicaEndpoint, configured: ReplicaEndpoint) -> bool:
    return known == _wanted(known, configured)


def _wanted(known: ReplicaEndpoint, configured: ReplicaEndpoint) -> ReplicaEndpoint:
    """Return the configured spec. Where it leaves the order open, the order stays."""
    return dataclasses.replace(configured, order=known.order) if configured.order is None else configured


def _differences(known: ReplicaEndpoint, configured: ReplicaEndpoint) -> list[str]:
    """Return the attributes that differ, with both values."""
    wanted = _wanted(known, configured)
    names = [field.name for field in dataclasses.fields(ReplicaEndpoint)]
    pairs = ((name, getattr(known, name), getattr(wanted, name)) for name in names)
    return [f"{name} {old!r} is registered, {new!r} configured" for name, old, new in pairs if old != new]


def _refused_text(key: str, error: Exception) -> str:
    if isinstance(error, ReplicaClaimed):
        return f"replica {key} is not as configured: {error}"
    if isinstance(error, KeyConflict):
        return f"replica {key} cannot be registered: {error}"
    return f"{error}; until then it is not registered as this config says"


def _removed_text(removed: Tombstone) -> str:
    when = "" if removed.at is None else f" at {datetime.fromtimestamp(removed.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    by = f" by {removed.by}" if removed.by else ""
    reason = f" ({removed.reason})" if removed.reason else ""
    name = f" {removed.name}" if removed.name else ""
    return (
        f"replica{name} {removed.url} was removed{when}{by}{reason} and stays removed; "
        "delete it from the config, or bring it back with `shared-registry add`"
    )


def _differing_text(known: ReplicaRecord, configured: ReplicaEndpoint, differences: Sequence[str]) -> str:
    which = f"{configured.name} {configured.url}" if configured.name else configured.url
    facts = "; ".join(differences)
    if known.source is Source.EXPLICIT:
        return f"replica {which} stays as an operator has set it: {facts}; change it with `shared-registry add`"
    return (
        f"replica {which} was registered from another config, and now has the values of this one for all routers: "
        f"{facts}; give all routers the same list"
    )
