"""What the metrics of one router have to count and measure from its start, whether or not anybody reads them."""

from __future__ import annotations

from shared_registry.proxy.app import Router
from shared_registry.telemetry.happened import Happened
from shared_registry.telemetry.loop_lag import LoopLag


class Counting:
    """The counts of one router.

    Attributes:
        happened: What has happened in each pool, by its name.
        lag: How late the event loop is.
    """

    def __init__(self, router: Router) -> None:
        """Count what happens from now on."""
        self.lag = LoopLag()
        self.happened = {name: Happened() for name in router.pools}
        for name, pool in router.pools.items():
            pool.registry.subscribe(self.happened[name].listen, with_sessions=False)

    async def run(self) -> None:
        """Measure until cancelled."""
        await self.lag.run()
