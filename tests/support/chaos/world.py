"""Routers as processes, replicas behind a path for each, Redis behind a proxy for each; and what was done to them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import time
from pathlib import Path as File
from typing import Any

from shared_registry.embedded import EmbeddedServer
from tests.support.chaos.paths import Path, Paths
from tests.support.chaos.routers import ChaosRouter
from tests.support.chaos.samples import Sampler
from tests.support.chaos.spans import Spans
from tests.support.faulty_proxy import FaultyProxy
from tests.support.until import until

PLACES, REPLICAS, CAPACITY = 4, 8, 4
INTERVAL, FAST, TIMEOUT, LEASE, EXPIRY, THRESHOLD, RECOVERY = 0.6, 0.2, 0.5, 2.0, 4.0, 3, 2
WORD = 2 * INTERVAL + TIMEOUT
"""For how long the word of a router counts to which a replica was handed over."""
SETTINGS: dict[str, Any] = {
    "health_check_interval_seconds": INTERVAL,
    "fast_interval_seconds": FAST,
    "health_check_timeout_seconds": TIMEOUT,
    "failure_threshold": THRESHOLD,
    "recovery_threshold": RECOVERY,
    "lease_seconds": LEASE,
    "renew_interval_seconds": 0.5,
    "heartbeat_seconds": 0.4,
    "router_expiry_seconds": EXPIRY,
    "refresh_seconds": 0.3,
    "redis_timeout_seconds": 0.5,
    "slow_start_seconds": 0.5,
}
SESSIONS = 4
START_SECONDS = 30.0
SETTLING_SECONDS = 1.0
"""How long a router that was started, or got back what it lacked, needs until it does its work."""


class Place:
    """A router that is replaced when it ends, with its paths to Redis and to replicas.

    Attributes:
        gone: When no process ran here, or none that was ready.
        stopped: When it was stopped.
        squeezed: When it could open no descriptor.
        nameless: When its resolver was slow or did not respond.
        cut_off: When it did not reach Redis, although Redis was there.
        all: Every process that ran here.
    """

    def __init__(self, number: int, world: World, proxy: FaultyProxy) -> None:
        self.number = number
        self.proxy = proxy
        self.is_busy = False
        self.gone, self.stopped, self.squeezed, self.nameless, self.cut_off = (Spans() for _ in range(5))
        self.all: list[ChaosRouter] = []
        self._world = world
        self._hosts = world.directory / f"hosts-{number}.json"
        self._machine = world.directory / f"machine-{number}"
        self._machine.write_text(f"machine {number}\n")
        self.set_resolver("up")

    @property
    def process(self) -> ChaosRouter:
        return self.all[-1]

    @property
    def router(self) -> str:
        """The key of the router that runs here now."""
        ready = self.process.lines_of("ready")
        return str(ready[0]["router"]) if ready else ""

    def set_resolver(self, mode: str) -> None:
        written = self._hosts.with_suffix(".new")
        written.write_text(json.dumps({"mode": mode, "addresses": self._world.paths.addresses(self.number)}))
        written.replace(self._hosts)

    async def start(self) -> None:
        self.gone.open(time.time())
        settings = {
            "hosts": str(self._hosts),
            "machine": str(self._machine),
            "sessions": SESSIONS,
            "lasting_seconds": 0.3,
            "patience_seconds": 0.5,
            "seed": self.number,
            "config": SETTINGS
            | {"redis_url": self.proxy.url, "namespace": self._world.namespace, "router_id": f"r{self.number}"}
            | {"probing": self._world.probing},
        }
        output = self._world.directory / f"router-{self.number}-{len(self.all)}.jsonl"
        self.all.append(ChaosRouter(output, settings))
        process = self.process
        await until(lambda: process.lines_of("ready"), f"{output} is ready", seconds=START_SECONDS)
        self.gone.close(time.time() + SETTLING_SECONDS)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def squeeze(self) -> None:
        """Let it open nothing more; what is open stays open."""
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (0, hard))
        self.squeezed.open(time.time())

    def release(self) -> None:
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        self.squeezed.close(time.time())


class World:
    """Everything of one run.

    Attributes:
        probing: The setting of all routers.
        steps: What was done, as lines, with times since the begin.
        redis_away: When Redis did not answer anybody.
    """

    def __init__(
        self,
        directory: File,
        server: EmbeddedServer,
        namespace: str,
        paths: Paths,
        sampler: Sampler,
        rng: random.Random,
        *,
        probing: str = "leader",
    ) -> None:
        self.probing = probing
        self.directory = directory
        self.server = server
        self.namespace = namespace
        self.paths = paths
        self.sampler = sampler
        self.rng = rng
        self.places: list[Place] = []
        self.redis_away = Spans()
        self.began_at = time.time()
        self.steps: list[str] = []

    def note(self, what: str, at: float | None = None) -> None:
        self.steps.append(f"{(at or time.time()) - self.began_at:7.2f} {what}")

    @property
    def urls(self) -> list[str]:
        return self.paths.urls

    def place_of(self, router: str) -> Place | None:
        """Return the place whose router that is or was."""
        for place in self.places:
            if router.partition("~")[0] == f"r{place.number}":
                return place
        return None

    @property
    def leading_place(self) -> Place | None:
        return self.place_of(self.sampler.last.leader)

    def probing_place(self, url: str) -> Place:
        """Return the place whose router probes a replica that was not handed over; any if there is none."""
        return self.place_of(self.sampler.last.planned(url)) or self.places[0]

    async def start(self, proxies: list[FaultyProxy]) -> None:
        self.places += [Place(number, self, proxy) for number, proxy in enumerate(proxies)]
        async with asyncio.TaskGroup() as group:
            for place in self.places:
                group.create_task(place.start())

    def paths_of(self, place: Place) -> list[Path]:
        return self.paths.some([place.number], self.urls)

    def close(self) -> None:
        for place in self.places:
            for process in place.all:
                process.kill()
