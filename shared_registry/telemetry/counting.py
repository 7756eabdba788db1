"""What the metrics of one router have to count from its start, whether or not anybody reads them."""

from __future__ import annotations

from shared_registry.proxy.app import Router
from shared_registry.telemetry.happened import Happened


class Counting:
    """The counts of one router.

    Attributes:
        happened: What has happened in each pool, by its name.
    """

    def __init__(self, router: Router) -> None:
        """Count what happens from now on."""
        self.happened = {name: Happened() for name in router.pools}
        for name, pool in router.pools.items():
            pool.registry.subscribe(self.happened[name].listen, with_sessions=False)
