"""The routers that can probe, as this router knows them from its heartbeats, and how it presents itself among them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared_registry.model import ProberInfo

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """Return a short id of this machine since its start.

    A container's host name is new with each start, and the workers of a machine share its network. The kernel's boot id
    tells machines apart; where there is none, the host name has to do.
    """
    try:
        seed = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        seed = socket.gethostname()
    return hashlib.blake2b(seed.encode(), digest_size=6).hexdigest()


class ProberList:
    """The list of probers. One writer, the heartbeat; many readers, all of one event loop.

    Attributes:
        router: This router's key.
        machine: This router's machine.
        probe_print: A digest of the settings of this router's probes; empty while it does not probe.
        version: The version of the list that is known.
        alive_until: Until then, on the monotonic clock, the others do not take this router for dead.
        is_changed: Set when a heartbeat should be sent soon, because this router begins or ends to probe.
    """

    def __init__(self, *, router: str, machine: str | None = None) -> None:
        self.machine = machine_id() if machine is None else machine
        self.probe_print = ""
        self.version = ""
        self.alive_until = -math.inf
        self.is_changed = asyncio.Event()
        self.router = router
        self._others: Sequence[ProberInfo] = ()

    @contextlib.contextmanager
    def taking_part(self, probe_print: str) -> Iterator[None]:
        """Within the block, heartbeats list this router among the probers."""
        self.probe_print = probe_print
        self.is_changed.set()
        try:
            yield
        finally:
            self.probe_print = ""
            self.is_changed.set()

    def update(self, version: str, probers: Sequence[ProberInfo]) -> None:
        """Replace the list."""
        self.version = version
        self._others = [prober for prober in probers if prober.router != self.router]

    @property
    def has_others(self) -> bool:
        """Whether any other router probes, with whatever settings."""
        return bool(self._others)

    @property
    def others(self) -> list[str]:
        """The keys of the other routers that probe, with whatever settings."""
        return [prober.router for prober in self._others]

    def peers(self) -> list[str]:
        """Return the keys of the routers that could answer the same questions as this one, without this one, sorted."""
        return sorted(prober.router for prober in self._others if prober.probe_print == self.probe_print)
