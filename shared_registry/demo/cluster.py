"""The demo's cluster: replicas and routers as processes, sessions through all routers, and an operator's commands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from shared_registry.admin.observer import Observer
from shared_registry.config import RouterConfig
from shared_registry.config.yaml_file import HEALTH_CHECK_KEYS
from shared_registry.demo.process import HOST, Child, CommandProcess, ReplicaProcess, RouterProcess
from shared_registry.demo.watch import Refused, RouterWatch, Session
from shared_registry.model import EventKind

REPLICAS, ROUTERS = 4, 3
PRIMARY = "replica-1"
FAST_SETTINGS: dict[str, float] = {
    "lease_seconds": 1.5,
    "renew_interval_seconds": 0.4,
    "heartbeat_seconds": 0.5,
    "router_expiry_seconds": 2.5,
    "health_check_interval_seconds": 1.0,
    "health_check_timeout_seconds": 1.0,
    "fast_interval_seconds": 0.3,
    "redis_timeout_seconds": 0.8,
    "local_cooldown_seconds": 1.0,
}
"""Settings with which the cluster reacts within a few seconds. The defaults take up to ten seconds, and cost less."""
POLL_SECONDS = 0.01
EVENTS = 20


class StepFailed(Exception):
    """The expected state of a step was not observed; the message has the observed state or the error."""


class Cluster:
    """`async with Cluster(redis_url, namespace, directory)`: the primary replica-1, three more replicas, three routers.

    At the end of the context all started processes are killed.

    Attributes:
        config: The settings that all routers share.
        replicas: The replicas by name, including those that were killed.
        routers: The routers by name, including those that were killed.
        watches: The observations of each live router, by its name.
        observer: Reads the registry without joining it.
    """

    def __init__(self, redis_url: str, namespace: str, directory: Path) -> None:
        """Create the cluster. Nothing runs before `async with` and `start()`.

        Args:
            redis_url: The url of a running Redis.
            namespace: The registry's name in that Redis.
            directory: The directory for the routers' config files.
        """
        self.config = RouterConfig(
            redis_url=redis_url,
            namespace=namespace,
            **FAST_SETTINGS,  # type: ignore[arg-type]
        )
        self.replicas = {name: ReplicaProcess(name) for name in (f"replica-{n}" for n in range(1, REPLICAS + 1))}
        self.routers = {name: RouterProcess(name) for name in (f"router-{n}" for n in range(1, ROUTERS + 1))}
        self.watches: dict[str, RouterWatch] = {}
        self.observer = Observer(self.config)
        self._directory = directory
        self._retired: list[RouterWatch] = []
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._held: dict[str, Session] = {}
        self._command: CommandProcess | None = None

    async def __aenter__(self) -> Self:
        """Connect to Redis. `start` starts the processes."""
        await self.observer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill all processes. They need not leave the registry, because their Redis ends as well."""
        await _cancel(self._watching.values())
        for child in self._children():
            child.kill()
        await self._close_held()
        await self.observer.__aexit__(None, None, None)

    async def start(self) -> None:
        """Start all processes, and watch the routers. It takes some more moments until the routers select replicas."""
        for replica in self.replicas.values():
            await replica.start()
        await self.until(lambda: all(replica.port for replica in self.replicas.values()))
        for name, router in self.routers.items():
            path = self._directory / f"{name}.yaml"
            path.write_text(yaml.safe_dump({"router": self._router_block(name)}, sort_keys=False))
            await router.start(path)
        await self.until(lambda: all(router.url for router in self.routers.values()))
        for name, router in self.routers.items():
            watch = self.watches[name] = RouterWatch(name, router.url)
            self._watching[name] = asyncio.create_task(watch.run())

    async def kill_router(self, name: str) -> None:
        """Kill a router, and stop watching it."""
        self.routers[name].kill()
        self._retired.append(self.watches.pop(name))
        await _cancel([self._watching.pop(name)])

    async def add_replica(self, name: str) -> ReplicaProcess:
        """Start one more replica. It is not registered yet."""
        replica = self.replicas[name] = ReplicaProcess(name)
        await replica.start()
        await self.until(lambda: replica.port != 0)
        return replica

    async def operate(self, *arguments: str) -> CommandProcess:
        """Start a `shared-registry` command, as an operator does. `finish` waits for its end."""
        self._command = CommandProcess(*arguments)
        await self._command.start(self.config.redis_url, self.config.namespace)
        return self._command

    async def finish(self, command: CommandProcess) -> None:
        """Wait until a command has ended.

        Raises:
            StepFailed: The command did not exit with 0.
        """
        await self.until(lambda: command.exit_status is not None)
        command.kill()
        self._command = None

    async def seconds_since(self, kind: EventKind) -> float:
        """Return the time since the latest event of a kind, by the clock that this machine and its Redis share."""
        now = time.time()
        events = [event for event in await self.observer.last_events(EVENTS) if event.kind is kind]
        if not events:
            raise StepFailed(f"there is no event {kind.value}")
        return max(now - events[-1].at, 0.0)

    async def hold(self) -> dict[str, Session]:
        """Open a session through each live router, and read its frames until the next call. Return them by router."""
        await self._close_held()
        try:
            for name in self.watches:
                self._held[name] = await Session.open(self.routers[name].url, f"held-{name}")
                self._held[name].read_on()
        except Refused as error:
            raise StepFailed(f"no session through {name}: {error}") from error
        return dict(self._held)

    @property
    def sessions(self) -> int:
        """The number of sessions opened so far, one after the other through each router."""
        return sum(watch.sessions for watch in [*self.watches.values(), *self._retired])

    @property
    def failures(self) -> int:
        """The number of sessions that could not be opened so far."""
        return sum(watch.failures for watch in [*self.watches.values(), *self._retired])

    def selected(self) -> dict[str, str | None]:
        """Return the name of the replica that took the latest session through each live router."""
        return {name: watch.selected for name, watch in self.watches.items()}

    def leader(self) -> tuple[str, int] | None:
        """Return the leader's name and its epoch, if it reports to be the leader and all routers agree."""
        shown = [watch.status for watch in self.watches.values()]
        views = {(one["leader"]["router"], one["leader"]["epoch"]) if one.get("leader") else None for one in shown}
        view = views.pop() if len(views) == 1 else None
        if view is None:
            return None
        key, epoch = view
        leading = [name for name, watch in self.watches.items() if watch.status["router"] == key]
        return (leading[0], epoch) if leading and self.watches[leading[0]].status["is_leader"] else None

    async def until(self, condition: Callable[[], bool], *, since: float | None = None) -> float:
        """Wait until the condition holds. Return the seconds from `since`, by default now, until then.

        Raises:
            StepFailed: A process has ended by itself.
        """
        begun = time.monotonic() if since is None else since
        while not condition():
            self._expect_no_crash()
            await asyncio.sleep(POLL_SECONDS)
        return max(time.monotonic() - begun, 0.0)

    async def lasts(self, condition: Callable[[], bool], seconds: float) -> None:
        """Check that the condition holds for some time.

        Raises:
            StepFailed: The condition did not hold all the time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not condition():
                trouble = [f"{name}: {watch.trouble}" for name, watch in self.watches.items() if watch.trouble]
                raise StepFailed(f"it did not last {seconds:g} s: selected is {self.selected()} {'; '.join(trouble)}")
            self._expect_no_crash()
            await asyncio.sleep(POLL_SECONDS)

    def _router_block(self, name: str) -> dict[str, Any]:
        settings: dict[str, Any] = FAST_SETTINGS | {"health_check_path": "/readyz"}
        return {
            "host": HOST,
            "port": 0,
            "router_id": name,
            "redis_url": self.config.redis_url,
            "namespace": self.config.namespace,
            "replicas": [
                {"url": replica.url, "name": replica.name, "primary": replica.name == PRIMARY}
                for replica in self.replicas.values()
            ],
            "health_check": {
                key: settings.pop(setting) for key, setting in HEALTH_CHECK_KEYS.items() if setting in settings
            },
            **settings,
        }

    async def _close_held(self) -> None:
        held, self._held = self._held, {}
        await asyncio.gather(*(session.close() for session in held.values()))

    def _children(self) -> list[Child]:
        command = [self._command] if self._command else []
        return [*self.replicas.values(), *self.routers.values(), *command]

    def _expect_no_crash(self) -> None:
        for child in [*self.replicas.values(), *self.routers.values()]:
            if child.has_ended:
                raise StepFailed(f"{child.name} has ended by itself; it said:\n{child.log}")
        if self._command and self._command.exit_status:
            raise StepFailed(f"{self._command.name} exited with {self._command.exit_status}: {self._command.log}")
        for name, task in self._watching.items():
            if task.done():
                raise StepFailed(f"{name} is no longer watched: {task.exception()!r}")


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
