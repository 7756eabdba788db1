"""Makes the images of docs/dashboard.md: `python -m tests.tools.dashboard_images`. It needs chromium-driver."""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from shared_registry.admin.operator import Operator
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState
from tests.support.shown_fleet import ShownFleet, shown_fleet
from tests.support.until import until
from tests.support.webdriver import browser

FOLDER = Path(__file__).parents[2] / "docs" / "images"
PICTURES = ((3, 900, 760, False), (60, 1100, 900, True), (2_000, 1100, 900, False))
"""Each with its number of replicas, its width and height, and whether it is dark."""
SECONDS = 600.0
SETTLE_SECONDS = 25.0
"""Long enough for a few points in the chart."""


async def main(counts: list[str]) -> None:
    """Make the images for these numbers of replicas, or all of them."""
    FOLDER.mkdir(exist_ok=True)
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as folder:
        async with browser(Path(folder)) as page:
            for count, width, height, is_dark in PICTURES:
                if counts and str(count) not in counts:
                    continue
                own = {"namespace": f"shown.{secrets.token_hex(4)}", "router_id": "router-1"}
                async with shown_fleet(server.url, count, is_awaited=False, **own) as fleet:
                    await until(fleet.are_healthy, "all replicas are healthy", SECONDS)
                    await _make_trouble(fleet, count)
                    await page.resize(width, height, is_dark=is_dark)
                    await page.open(fleet.router.admin_url + "/")
                    await asyncio.sleep(SETTLE_SECONDS)
                    _save(await page.screenshot(), FOLDER / f"dashboard-{count}.png")


async def _make_trouble(fleet: ShownFleet, count: int) -> None:
    fleet.replica(1).status = 503
    if count > 3:
        async with Operator(fleet.config, by="ann@desk") as operator:
            targets = await operator.find(["gpu-7", "gpu-8"])
            await operator.set_admin(targets[0], AdminState.DRAINING, reason="kernel update")
            await operator.set_admin(targets[1], AdminState.DISABLED, reason="fan is broken")


def _save(image: bytes, path: Path) -> None:
    path.write_bytes(image)
    print(path, len(image))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
