"""A router process with sessions, whose names a resolver of its own answers; it writes down what it shows to selects.

    python -m tests.support.chaos.routers
        '{"hosts": "…/hosts.json", "machine": "…/machine", "sessions": 4, "lasting_seconds": 0.3,
          "patience_seconds": 0.5, "seed": 1, "config": {…}}'

`hosts` is a JSON file: `mode` (`up`, `slow`, `hang`, `fail`) and `addresses`, from names to addresses. It is read for
each lookup, so that a test can break one router's resolver and no other's. `machine` names a file with this router's
boot id: each router counts as a machine of its own.

Beside the lines of `tests.support.lease_process`, each with `what` and `at`: `selects` with the url that a select
returned, or null, whenever one of both turns into the other; `view` with every replica's state whenever it changes;
`late` with when the event loop stood still.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from shared_registry import Replica, RouterConfig, SharedReplicaRegistry
from shared_registry.leases import Lease
from shared_registry.probing import prober_list
from shared_registry.store.commands import Store
from tests.support.lease_process import EventHandler, LeaseProcess, Sessions, restore_and_report, write_event

LOOK_SECONDS = 0.05
LATE_SECONDS = 0.15
SLOW_SECONDS, HANGING_SECONDS = 0.7, 5.0
CONNECT_SECONDS = 0.5


class Resolver:
    """Answers the names of replicas in place of the system's resolver; other names are left to that."""

    def __init__(self, hosts: Path) -> None:
        self._hosts = hosts
        self._getaddrinfo = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if not str(host).endswith(".test"):
            return self._getaddrinfo(host, port, *args, **options)
        deadline = time.monotonic() + HANGING_SECONDS
        while (zone := self._read())["mode"] == "hang" and time.monotonic() < deadline:
            time.sleep(0.05)
        if zone["mode"] in ("hang", "fail"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if zone["mode"] == "slow":
            time.sleep(SLOW_SECONDS)
        return self._getaddrinfo(zone["addresses"][host], port, *args, **options)

    def _read(self) -> Any:
        return json.loads(self._hosts.read_text())  # without a descriptor left it raises what the system's would


class Visits(Sessions):
    """Sessions that connect to their replica, and report how that went."""

    async def _acquire(self) -> Lease | None:
        lease = await super()._acquire()
        if lease is not None:
            await self._visit(lease.replica)
        return lease

    async def _visit(self, replica: Replica) -> None:
        parts = urlsplit(replica.url)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.transport.abort()
        except (OSError, TimeoutError) as error:
            await self.router.report_outcome(replica, False, error)
        else:
            await self.router.report_outcome(replica, True)


async def look(router: SharedReplicaRegistry) -> None:
    """Write down what changes, and when the loop stood still."""
    has_selected: bool | None = None
    shown: Mapping[str, str] = {}
    while True:
        before = time.time()
        await asyncio.sleep(LOOK_SECONDS)
        if time.time() - before > LOOK_SECONDS + LATE_SECONDS:
            write_event("late", since=before)
        selected = router.select()
        if (selected is not None) is not has_selected:
            has_selected = selected is not None
            write_event("selects", url=selected.key if selected else None)
        view = {one.key: f"{one.record.health.status.value} {one.record.admin.value}" for one in router.all()}
        if view != shown:
            shown = view
            write_event("view", view=view)


async def run(settings: dict[str, Any]) -> None:
    logging.getLogger("shared_registry").addHandler(EventHandler())
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    router = SharedReplicaRegistry(RouterConfig(**settings["config"]))
    sessions = Visits(
        router,
        lasting_seconds=settings["lasting_seconds"],
        patience_seconds=settings["patience_seconds"],
        rng=random.Random(settings["seed"]),
    )
    for number, event in ((signal.SIGUSR1, sessions.quiet), (signal.SIGUSR2, sessions.ending), (signal.SIGTERM, stop)):
        loop.add_signal_handler(number, event.set)
    async with router, asyncio.TaskGroup() as group:
        write_event("ready", router=router.router_key)
        tasks = [group.create_task(sessions.one_after_another()) for _ in range(settings["sessions"])]
        tasks += [group.create_task(sessions.report_when_quiet()), group.create_task(look(router))]
        await stop.wait()
        for lease_id in sessions.held:  # the router gives back what it holds when it leaves
            write_event("released", id=lease_id)
        for task in tasks:
            task.cancel()


class ChaosRouter(LeaseProcess):
    """Such a process, as its parent sees it."""

    program = "tests.support.chaos.routers"

    @property
    def view(self) -> Mapping[str, str]:
        """What it shows now."""
        written = self.output.read_bytes()
        begin = written.rfind(b'{"what": "view"')
        line = written[begin:].partition(b"\n")[0] if begin >= 0 else b""
        view: Mapping[str, str] = json.loads(line)["view"] if line.endswith(b"}") else {}
        return view


def main(settings: dict[str, Any]) -> None:
    with (
        mock.patch.object(socket, "getaddrinfo", Resolver(Path(settings["hosts"]))),
        mock.patch.object(prober_list, "BOOT_ID", Path(settings["machine"])),
        mock.patch.object(Store, "restore_leases", restore_and_report),
    ):
        asyncio.run(run(settings))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
