"""What the autoscalers of the Helm chart count, asked of a real Prometheus that scrapes real routers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import yaml

from shared_registry.model import ReplicaEndpoint
from tests.api.conftest import start_with_admin  # noqa: F401  fixtures of another room
from tests.proxy.conftest import StartRouter, pytest_asyncio_loop_factories, start_router  # noqa: F401
from tests.support.backend import Backend
from tests.support.helm import EXAMPLES
from tests.support.prometheus import Prometheus, prometheus_of
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
RULES = yaml.safe_load((EXAMPLES / "prometheus-adapter.yaml").read_text())["rules"]
SECONDS = 60.0


def query_of(rule: dict[str, str], group: str = "") -> str:
    """Return what prometheus-adapter makes of a rule, with the labels that targets have here."""
    text = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'job="shared-registry"').replace("<<.GroupBy>>", group)
    assert "<<" not in text
    return text


async def shows(prometheus: Prometheus, query: str, *wanted: float) -> None:
    async def does() -> bool:
        return sorted(float(one["value"][1]) for one in await prometheus.query(query)) == sorted(wanted)

    await until(does, f"{query} is {wanted}", SECONDS)


async def test_slots_taken_and_wanted_are_counted_once(start_with_admin: StartRouter, tmp_path: Path) -> None:  # noqa: F811
    demanded = query_of(RULES["external"][0])
    async with Backend() as backend:
        replicas = [ReplicaEndpoint(backend.url, capacity=2), ReplicaEndpoint("http://127.0.0.9:1", capacity=2)]
        routers = [
            await start_with_admin(replicas=replicas, is_awaited=False, queue_timeout_seconds=60.0) for _ in range(2)
        ]
        registries = [router.router.pools[""].registry for router in routers]
        for registry in registries:
            await until(registry.select, "a replica is healthy")
        targets = [re.sub("^https?://", "", router.admin_url).rstrip("/") for router in routers]
        async with prometheus_of(targets, tmp_path) as prometheus:
            await prometheus.has_scraped(2)
            await shows(prometheus, demanded, 0)
            async with await registries[0].acquire("a"):
                await shows(prometheus, demanded, 1)
                async with await registries[1].acquire("b"):
                    waiting = [asyncio.create_task(registry.acquire(timeout=60)) for registry in registries]
                    await shows(prometheus, demanded, 4)
                    for one in waiting:
                        one.cancel()
                    await asyncio.gather(*waiting, return_exceptions=True)
            await shows(prometheus, demanded, 0)
            await shows(prometheus, query_of(RULES["custom"][0], "instance"), 0, 0)


async def test_without_a_capacity_nothing_is_said(start_with_admin: StartRouter, tmp_path: Path) -> None:  # noqa: F811
    async with Backend() as backend:
        router = await start_with_admin(backend.url)
        async with prometheus_of([re.sub("^https?://", "", router.admin_url).rstrip("/")], tmp_path) as prometheus:
            await prometheus.has_scraped(1)

            async def are_shown() -> bool:
                found = await prometheus.query('sr_slots{job="shared-registry"}')
                return "+Inf" in {one["value"][1] for one in found}

            await until(are_shown, "slots without a limit are shown", SECONDS)
            assert await prometheus.query(query_of(RULES["external"][0])) == []
