"""A router of the demo, as a process: selects a replica all the time, and reports what it gets as JSON lines."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass

from shared_registry.config import RouterConfig
from shared_registry.model import ReplicaEndpoint
from shared_registry.registry import SharedReplicaRegistry

SELECT_SECONDS = 0.01
REPORT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Report:
    """What a router sees.

    Attributes:
        selected: Url of the replica that its last `select()` returned.
        leader: Key of the router that leads, as far as it knows.
        is_leader: Whether it leads itself, by its own clock.
        selections: How often it has selected so far.
        misses: How often it got no replica.
    """

    router: str
    selected: str | None
    leader: str | None
    epoch: int | None
    is_leader: bool
    selections: int
    misses: int

    @property
    def view(self) -> tuple[object, ...]:
        """What is worth a report as soon as it changes."""
        return self.selected, self.leader, self.epoch, self.is_leader


def main(settings: str) -> None:
    """Be a router with these settings, in JSON, until killed."""
    values = json.loads(settings)
    values["replicas"] = [ReplicaEndpoint(**replica) for replica in values["replicas"]]
    asyncio.run(_route(RouterConfig(**values)))


async def _route(config: RouterConfig) -> None:
    loop = asyncio.get_running_loop()
    selections = misses = 0
    reported: tuple[object, ...] | None = None
    report_at = 0.0
    async with SharedReplicaRegistry(config) as registry:
        while True:
            replica, leader = registry.select(), registry.leader
            selections += 1
            misses += replica is None
            report = Report(
                router=registry.router_key,
                selected=replica.url if replica else None,
                leader=leader.router if leader else None,
                epoch=leader.epoch if leader else None,
                is_leader=registry.is_leader,
                selections=selections,
                misses=misses,
            )
            if report.view != reported or loop.time() >= report_at:
                reported, report_at = report.view, loop.time() + REPORT_SECONDS
                sys.stdout.write(json.dumps(asdict(report)) + "\n")
                sys.stdout.flush()
            await asyncio.sleep(SELECT_SECONDS)
