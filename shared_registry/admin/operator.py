"""Lets an operator change replicas and the leader from outside, without joining the routers."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import time
from dataclasses import dataclass

from shared_registry.admin.check import Violation
from shared_registry.admin.connection import Outsider
from shared_registry.admin.repair import repair
from shared_registry.admin.replica_changes import ReplicaChanges
from shared_registry.config import RouterConfig
from shared_registry.model import (
    Event,
    Leader,
)
from shared_registry.store.commands import Store
from shared_registry.store.replies import Upgrade

SIT_OUT_LEASES = 3.0
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Deposition:
    """The result of asking the leader to step down.

    Attributes:
        leader: The leader at the time of the request.
        is_deposed: Whether this request ended the term. False if the term ended in another way just before.
        sit_out_seconds: How long the leader was asked not to campaign again.
    """

    leader: Leader
    is_deposed: bool
    sit_out_seconds: float


class Operator(Outsider, ReplicaChanges):
    """`async with Operator(config, by="ann@desk") as operator: await operator.set_admin(...)`.

    Every change names `by` in its event.
    """

    def __init__(self, config: RouterConfig, *, by: str = "") -> None:
        """Set up; nothing connects before `async with`.

        Args:
            config: Names the registry. Its `lease_seconds` gives the default time for which a leader that stepped down
                does not campaign again.
            by: Who operates; by default the user of this process and the host.
        """
        Outsider.__init__(self, config)
        store = Store(self._clients, self._keys, router="", timeout_seconds=self._timeout_seconds)
        ReplicaChanges.__init__(self, self._reader, store, by=by or user_at_host())
        self._lease_seconds = config.lease_seconds

    async def revision(self) -> str:
        """Return the id of the last event."""
        return (await self._reader.head()).revision

    async def wait_events(self, *, after: str, seconds: float) -> list[Event]:
        """Return the events after a revision. Wait up to `seconds` for the first."""
        return await self._reader.wait_events(after=after, seconds=seconds)

    async def repair(self) -> list[Violation]:
        """Repair all data that can be derived from other data; return the violations that remain."""
        found = await self.check()
        if await repair(self._store, found, by=self.by):
            found = await self.check()
        return found

    async def upgrade(self, *, is_dry_run: bool = False) -> Upgrade:
        """Give the namespace the newest schema of this version, unless a router of an older version lives."""
        return await self._store.upgrade(by=self.by, is_dry_run=is_dry_run)

    async def step_down(self, *, sit_out_seconds: float | None = None, reason: str = "") -> Deposition | None:
        """End the term of the present leader; return `None` if there is no leader.

        Args:
            sit_out_seconds: How long that router is not to campaign again; by default three leases.
            reason: The reason, for the event.
        """
        leader = await self._reader.leader()
        if leader is None:
            return None
        seconds = SIT_OUT_LEASES * self._lease_seconds if sit_out_seconds is None else sit_out_seconds
        router = await self._store.step_down(leader.epoch, sit_out_seconds=seconds, by=self.by, reason=reason)
        return Deposition(leader, router is not None, seconds)

    async def leader_after(self, epoch: int, *, within_seconds: float) -> Leader | None:
        """Return the leader of a later epoch as soon as there is one; `None` if there is none in time."""
        deadline = time.monotonic() + within_seconds
        while True:
            leader = await self._reader.leader()
            if leader is not None and leader.epoch > epoch:
                return leader
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(POLL_SECONDS)


def user_at_host() -> str:
    """Return the user of this process and the host, for `by` in events."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
