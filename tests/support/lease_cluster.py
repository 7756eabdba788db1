"""Processes that take leases, some behind proxies of their own; they are killed, paused and replaced."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
from pathlib import Path
from typing import Any

from tests.support.faulty_proxy import FaultyProxy
from tests.support.lease_process import LeaseProcess
from tests.support.until import until

HEARTBEAT, EXPIRY, TIMEOUT = 0.25, 1.0, 0.4
PATIENCE = 25.0
"""Seconds to wait for what ought to take one or two: this machine may be busy."""


def settings(redis_url: str, namespace: str, **changes: Any) -> dict[str, Any]:
    return {
        "redis_url": redis_url,
        "namespace": namespace,
        "lease_seconds": 1.5,
        "renew_interval_seconds": 0.5,
        "health_check_interval_seconds": 0.4,
        "health_check_timeout_seconds": 1.0,
        "fast_interval_seconds": 0.1,
        "failure_threshold": 2,
        "recovery_threshold": 1,
        "heartbeat_seconds": HEARTBEAT,
        "router_expiry_seconds": EXPIRY,
        "refresh_seconds": 0.25,
        "redis_timeout_seconds": TIMEOUT,
        "affinity_seconds": 1.0,
    } | changes


def operator_settings(redis_url: str, namespace: str) -> dict[str, Any]:
    """Return settings for the test itself, whose commands must not fail because the machine is busy."""
    return settings(redis_url, namespace, redis_timeout_seconds=PATIENCE)


class Cluster:
    """Lease processes in numbered places.

    Attributes:
        processes: Those that are meant to run now; the first ones behind a proxy each, as far as there are proxies.
        all: Also those that were killed.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        *,
        sessions: int,
        lasting_seconds: float,
        patience_seconds: float = 0.0,
        rng: random.Random,
        proxies: list[FaultyProxy] | None = None,
    ) -> None:
        self.processes: list[LeaseProcess] = []
        self.all: list[LeaseProcess] = []
        self.proxies = proxies or []
        self._directory = directory
        self._config = config
        self._settings = {
            "sessions": sessions,
            "lasting_seconds": lasting_seconds,
            "patience_seconds": patience_seconds,
        }
        self._rng = rng

    def _start(self, place: int) -> LeaseProcess:
        config = self._config | ({"redis_url": self.proxies[place].url} if place < len(self.proxies) else {})
        output = self._directory / f"{len(self.all)}.jsonl"
        seed = self._rng.randrange(10**9)
        process = LeaseProcess(output, {**self._settings, "seed": seed, "config": config})
        self.all.append(process)
        return process

    async def start(self, processes: int) -> None:
        self.processes = [self._start(place) for place in range(processes)]
        await self.all_report("ready")

    async def all_report(self, what: str) -> None:
        await until(lambda: all(process.lines_of(what) for process in self.processes), seconds=PATIENCE)

    def signal_all(self, number: int) -> None:
        for process in self.processes:
            os.kill(process.pid, number)

    async def hold(self) -> dict[str, str]:
        """Let sessions keep what they have; return these leases, as id to url."""
        self.signal_all(signal.SIGUSR1)
        await self.all_report("holding")
        return {lease: url for process in self.processes for lease, url in held_by(process).items()}

    async def end(self) -> None:
        """Let the sessions end that were kept."""
        self.signal_all(signal.SIGUSR2)
        await self.all_report("empty")

    async def kill_and_replace(self) -> None:
        place = self._rng.randrange(len(self.processes))
        process = self.processes[place]
        if process.is_busy:
            return
        process.kill()
        self.processes[place] = process = self._start(place)
        process.is_busy = True
        await until(lambda: bool(process.lines_of("ready")), seconds=PATIENCE)
        process.is_busy = False

    async def pause_briefly(self) -> None:
        await self._pause(EXPIRY / 3)

    async def pause_past_expiry(self) -> None:
        await self._pause(EXPIRY * 2.2)

    async def _pause(self, seconds: float) -> None:
        process = self._rng.choice(self.processes)
        if process.is_busy:
            return
        process.is_busy = True
        os.kill(process.pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(process.pid, signal.SIGCONT)
        process.is_busy = False

    async def run_out_of_descriptors(self) -> None:
        """Let a process open nothing more for a while: what it cannot probe or connect says nothing of replicas."""
        process = self._rng.choice(self.processes)
        if process.is_busy or not process.is_running:
            return
        process.is_busy = True
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (0, hard))
        await asyncio.sleep(0.6)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        process.is_busy = False

    def close(self) -> None:
        for process in self.all:
            process.kill()


def held_by(process: LeaseProcess) -> dict[str, str]:
    """Return what it said that it holds, as lease id to url."""
    (line,) = process.lines_of("holding")
    held: dict[str, str] = line["leases"]
    return held
