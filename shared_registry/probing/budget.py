"""How many connections probes may keep open: few enough that sessions and Redis have file descriptors too."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    import resource

RESERVED = 128
"""What else the probing half of the descriptors is for: probes under way on new connections, Redis, and lookups."""


class KeptBudget:
    """Counts the kept connections of one prober.

    Attributes:
        kept: How many there are.
    """

    def __init__(self) -> None:
        self.kept = 0

    @property
    def has_room(self) -> bool:
        """Whether one more may be kept. What is beyond is closed after its probe, and opened anew for the next."""
        return self.kept < most_kept()


def most_kept() -> int:
    """Return how many connections one prober may keep: nearly half of the files that this process may have open."""
    if sys.platform == "win32":
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(soft // 2 - RESERVED, soft // 8)
