"""A real Prometheus with the very files of examples/monitoring, but for other targets and shorter times."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from shared_registry.embedded.bound_process import BoundProcess
from tests.support.command import ROOT
from tests.support.foreign import find_program
from tests.support.programs import free_port
from tests.support.until import until

EXAMPLES = ROOT / "examples" / "monitoring"
SCRAPE_SECONDS = 0.5
START_SECONDS = 60.0
ALERT_SECONDS = 120.0


def alert_rules() -> list[dict[str, Any]]:
    """Return the alerts of the example."""
    groups = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


class Prometheus:
    """A running one."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression at this moment."""
        answer = await self._http.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    async def firing(self) -> dict[str, dict[str, Any]]:
        """Return the alerts that fire, by name; the last one of each name."""
        alerts = (await self._http.get("/api/v1/alerts")).json()["data"]["alerts"]
        return {one["labels"]["alertname"]: one for one in alerts if one["state"] == "firing"}

    async def fires(self, *names: str) -> dict[str, dict[str, Any]]:
        """Wait until all of these alerts have fired, each at some time; return them as they did."""
        seen: dict[str, dict[str, Any]] = {}

        async def have_fired() -> bool:
            seen.update(await self.firing())
            return seen.keys() >= set(names)

        try:
            await until(have_fired, "alerts fire", ALERT_SECONDS)
        except AssertionError:
            raise AssertionError(f"not firing: {', '.join(set(names) - seen.keys())}") from None
        return {name: seen[name] for name in names}

    async def is_quiet(self, *names: str) -> None:
        """Wait until none of these alerts fires."""

        async def none_fires() -> bool:
            return not (await self.firing()).keys() & set(names)

        await until(none_fires, f"{', '.join(names)} end", ALERT_SECONDS)

    async def has_scraped(self, count: int) -> None:
        """Wait until so many routers have answered."""

        async def are_up() -> bool:
            return len(await self.query("up == 1")) == count

        await until(are_up, f"{count} routers are scraped", START_SECONDS)


@contextlib.asynccontextmanager
async def prometheus_of(targets: Sequence[str], folder: Path, *, hold: str = "1s") -> AsyncIterator[Prometheus]:
    """Run Prometheus with the example's rules. The expressions are unchanged.

    Args:
        targets: Host and port of each router's admin address.
        folder: For its files; of this test alone.
        hold: How long a condition has to hold, in place of each `for:` of the rules.
    """
    rules = (EXAMPLES / "alerts.yml").read_text()
    (folder / "alerts.yml").write_text(re.sub(r"(?m)^(\s+for:) \w+$", rf"\1 {hold}", rules))
    settings = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())
    short = f"{SCRAPE_SECONDS * 1000:.0f}ms"
    settings["global"] = {"scrape_interval": short, "evaluation_interval": short, "scrape_timeout": short}
    [job] = settings["scrape_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(settings))
    address, log = f"127.0.0.1:{free_port()}", folder / "prometheus.log"
    command = [
        find_program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    with log.open("wb") as errors:
        process = BoundProcess(command, cwd=folder, output=errors)
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=20) as http:

            async def is_ready() -> bool:
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(httpx.TransportError):
                    return (await http.get("/-/ready")).status_code == 200
                return False

            await until(is_ready, "Prometheus is ready", START_SECONDS)
            yield Prometheus(http)
    finally:
        await asyncio.to_thread(process.kill)
