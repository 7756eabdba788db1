"""A process whose sessions take leases and give them back at random, and write down what they did, as JSON lines.

    python -m tests.support.lease_process
        '{"sessions": 50, "lasting_seconds": 0.2, "patience_seconds": 1.0, "seed": 1, "config": {…}}'

Half of the sessions wait for a slot, for as long as their patience lasts at the most.
Every line has `what` and `at`, on the clock of this machine. A lease is ours for certain from its `acquired` line to
its `released` line: the first is written after the reply, the second before the command. SIGUSR1 lets sessions keep
what they hold (`holding` tells what that is), SIGUSR2 lets them end (`empty`), SIGTERM stops the router cleanly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from shared_registry.config import RouterConfig
from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.errors import NoHealthyReplica, Saturated, StoreUnavailable
from shared_registry.leases import Lease
from shared_registry.registry.facade import SharedReplicaRegistry
from shared_registry.store.commands import Store
from shared_registry.store.replies import Restored
from tests.support.until import until

THINKING_SECONDS = 0.3
"""On average, between two sessions."""
IMPATIENT = 0.05
"""How many of the acquires are cancelled after a moment."""
_ROOT = Path(__file__).parents[2]


def write_event(what: str, **more: object) -> None:
    sys.stdout.write(json.dumps({"what": what, "at": time.time(), **more}) + "\n")
    sys.stdout.flush()


class EventHandler(logging.Handler):
    """Writes log lines among the others."""

    def emit(self, record: logging.LogRecord) -> None:
        write_event("log", text=record.getMessage())


_restore_leases = Store.restore_leases


async def restore_and_report(store: Store, leases: Mapping[str, str], **options: bool) -> Restored | None:
    write_event("restoring", leases=dict(leases))
    restored = await _restore_leases(store, leases, **options)
    write_event("restored")
    return restored


class Sessions:
    """What goes on in this process."""

    def __init__(
        self, router: SharedReplicaRegistry, *, lasting_seconds: float, patience_seconds: float, rng: random.Random
    ) -> None:
        self.router = router
        self.lasting_seconds = lasting_seconds
        self.patience_seconds = patience_seconds
        self.held: dict[str, Lease] = {}
        self.quiet = asyncio.Event()
        self.ending = asyncio.Event()
        self._rng = rng
        self._moving = 0

    async def one_after_another(self) -> None:
        while not self.quiet.is_set():
            await asyncio.sleep(self._rng.expovariate(1 / THINKING_SECONDS))
            if self.quiet.is_set():
                break
            self._moving += 1
            try:
                lease = await self._acquire()
            finally:
                self._moving -= 1
            if lease is not None:
                await self._last()
                await self._release(lease)

    async def _last(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rng.expovariate(1 / self.lasting_seconds)):
                await self.quiet.wait()
        if self.quiet.is_set():  # also where both came at once: what is held by then has been told
            await self.ending.wait()

    async def report_when_quiet(self) -> None:
        await self.quiet.wait()
        await until(lambda: not self._moving)
        write_event("holding", leases={lease.id: lease.replica.key for lease in self.held.values()})
        await self.ending.wait()
        await until(lambda: not self.held and not self._moving)
        write_event("empty")

    async def _acquire(self) -> Lease | None:
        timeout = self.patience_seconds * self._rng.random() if self._rng.random() < 0.5 else 0.0
        patience = self._rng.random() * (timeout or 0.004) if self._rng.random() < IMPATIENT else None
        name = f"user {self._rng.randrange(100)}" if self._rng.random() < 0.5 else None
        asked_at = time.time()
        try:
            async with asyncio.timeout(patience):
                lease = await self.router.acquire(name, timeout=timeout)
        except (NoHealthyReplica, Saturated, StoreUnavailable, TimeoutError) as error:
            write_event("denied", why=type(error).__name__, asked_at=asked_at, timeout=timeout)
            return None
        self.held[lease.id] = lease
        write_event(
            "acquired",
            id=lease.id,
            url=lease.replica.key,
            asked_at=asked_at,
            timeout=timeout,
            is_degraded=lease.is_degraded,
        )
        return lease

    async def _release(self, lease: Lease) -> None:
        self._moving += 1
        try:
            write_event("released", id=lease.id)
            del self.held[lease.id]
            await lease.release()
        finally:
            self._moving -= 1


async def run(settings: dict[str, Any]) -> None:
    logging.getLogger("shared_registry").addHandler(EventHandler())
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    router = SharedReplicaRegistry(RouterConfig(**settings["config"]))
    sessions = Sessions(
        router,
        lasting_seconds=settings["lasting_seconds"],
        patience_seconds=settings["patience_seconds"],
        rng=random.Random(settings["seed"]),
    )
    for number, event in ((signal.SIGUSR1, sessions.quiet), (signal.SIGUSR2, sessions.ending), (signal.SIGTERM, stop)):
        loop.add_signal_handler(number, event.set)
    with mock.patch.object(Store, "restore_leases", restore_and_report):
        async with router, asyncio.TaskGroup() as group:
            write_event("ready", router=router.router_key)
            for _ in range(settings["sessions"]):
                group.create_task(sessions.one_after_another())
            group.create_task(sessions.report_when_quiet())
            await stop.wait()


class LeaseProcess:
    """Such a process, as its parent sees it. It ends with the parent, whatever happens."""

    program = "tests.support.lease_process"

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        self.output = output
        self.is_busy = False
        command = [sys.executable, "-m", self.program, json.dumps(settings)]
        with output.open("wb") as file:
            self._process = BoundProcess(command, cwd=_ROOT, output=file)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def lines_of(self, what: str) -> list[dict[str, Any]]:
        """Return the lines that say this, oldest first. A process that died by itself fails the test."""
        if self._process.poll() not in (None, 0, -signal.SIGKILL):
            raise AssertionError(f"the process ended: {self.output.read_text()[-3000:]}")
        return [line for line in self.lines() if line["what"] == what]

    def lines(self) -> Iterator[dict[str, Any]]:
        for line in self.output.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                yield json.loads(line)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        """End it cleanly."""
        self._process.stop(grace_seconds=15.0)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
