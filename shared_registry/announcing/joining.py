"""The life of a replica that joins: healthy on this machine, announced, drained, deregistered, ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shared_registry.aio.stop_signals import SERVICE_STOP_SIGNALS, StopRequest, signals_held_back
from shared_registry.announcing.announcement import Announcement
from shared_registry.announcing.child import FORWARDED, ReplicaChild
from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.model import ReplicaEndpoint, ReplicaRecord
from shared_registry.probing import HttpProber
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.target import url_maker
from shared_registry.urls import canonical_url

logger = logging.getLogger(__name__)

PROBE_SECONDS = 0.5
HANDLED = (*SERVICE_STOP_SIGNALS, *FORWARDED)
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""The exit codes of shells for a command that cannot be started."""


@dataclass(frozen=True, slots=True)
class Joining:
    """What `join` is asked for.

    Attributes:
        config: Names the registry, and says what a probe asks and expects.
        endpoint: The replica.
        owner: The name of this instance for people; empty for the default of `Announcement`.
        ttl_seconds: How long the replica stays in service without a heartbeat.
        drain_seconds: How long its sessions may go on after a request to stop.
        stop_seconds: How long the command may take to end after its sessions.
    """

    config: RouterConfig
    endpoint: ReplicaEndpoint
    owner: str = ""
    ttl_seconds: float = 10.0
    drain_seconds: float = 30.0
    stop_seconds: float = 30.0


async def join_replica(joining: Joining, command: Sequence[str]) -> int:
    """Run the command and announce the replica that it is, from its first success of a probe to its end.

    A first SIGTERM, SIGINT or SIGQUIT lets the replica drain; a second one ends it at once. SIGHUP, SIGUSR1 and SIGUSR2
    are passed on; without a command, SIGHUP is a request to stop. If the command ends, the replica is deregistered at
    once, and the rest of its process group ends too.

    Args:
        joining: What to announce.
        command: The replica's command; empty if the replica runs elsewhere.

    Returns:
        The exit code of the command, as shells give it; 0 without a command.

    Raises:
        ConfigError: The replica or a setting is not valid. Nothing was started.
    """
    announcement = _announcement(joining)
    stop = StopRequest()
    child = None
    with contextlib.ExitStack() as stack:
        with signals_held_back(HANDLED) as mask:
            if command:
                try:
                    child = await ReplicaChild.start(command, mask=mask)
                except OSError as error:
                    logger.error("join: %s cannot be started: %s", command[0], error)  # noqa: TRY400  it says it all
                    return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
                stack.callback(child.kill)
            stack.enter_context(_signals(stop, child))
        return await _accompany(joining, announcement, child, stop)


async def _accompany(
    joining: Joining, announcement: Announcement, child: ReplicaChild | None, stop: StopRequest
) -> int:
    ended = asyncio.create_task(child.wait() if child else asyncio.Event().wait())
    try:
        if await _first(ended, stop.asked, _until_healthy(joining)):
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(announcement)
                try:
                    await _first(ended, stop.asked)
                    if not ended.done():
                        await _first(ended, stop.urgent, announcement.drain(joining.drain_seconds))
                finally:
                    await announcement.withdraw()
        else:
            await announcement.close()
        if child is None:
            return 0
        return await _end(child, joining.stop_seconds, stop)
    finally:
        ended.cancel()
        await asyncio.wait((ended,))


async def _end(child: ReplicaChild, stop_seconds: float, stop: StopRequest) -> int:
    """End the command, at once if that is urgent. Return its exit code."""
    ending, urgent = asyncio.create_task(child.end(stop_seconds)), asyncio.create_task(stop.urgent.wait())
    try:
        await asyncio.wait((ending, urgent), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            child.kill()
        return await ending
    finally:
        urgent.cancel()
        ending.cancel()
        await asyncio.wait((ending, urgent))


async def _first(ended: asyncio.Task[Any], asked: asyncio.Event, work: Coroutine[Any, Any, Any] | None = None) -> bool:
    """Wait until the child has ended, a stop is asked for, or the work is done. Return whether the work is done."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(asked.wait())]
    working = asyncio.create_task(work) if work else None
    if working:
        tasks.append(working)
    try:
        await asyncio.wait((ended, *tasks), return_when=asyncio.FIRST_COMPLETED)
        if working and working.done() and not working.cancelled():
            working.result()
            return True
        return False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _until_healthy(joining: Joining) -> None:
    """Probe the replica, as routers do, until a probe succeeds."""
    config, endpoint = joining.config, joining.endpoint
    record = ReplicaRecord(canonical_url(endpoint.url), endpoint)
    url = url_maker(config)(record)
    reported = ""
    async with HttpProber(config) as probe:
        while True:
            error: str | None
            try:
                _, error = await probe(url, timeout=config.health_check_timeout_seconds)
            except OwnTrouble as trouble:
                error = str(trouble)
            if error is None:
                logger.info("join: %s is healthy", endpoint.url, extra={"replica": record.key})
                return
            if error != reported:
                logger.info("join: waiting until %s is healthy: %s", endpoint.url, error, extra={"replica": record.key})
                reported = error
            await asyncio.sleep(PROBE_SECONDS)


def _announcement(joining: Joining) -> Announcement:
    for name, seconds in (("stop_seconds", joining.stop_seconds), ("drain_seconds", joining.drain_seconds)):
        if not 0 <= seconds <= 86_400:
            raise ConfigError(f"{name}: {seconds:g} must be from 0 to 86400")
    return Announcement(
        joining.config,
        joining.endpoint,
        owner=joining.owner,
        ttl_seconds=joining.ttl_seconds,
        drain_seconds=joining.drain_seconds,
    )


@contextlib.contextmanager
def _signals(stop: StopRequest, child: ReplicaChild | None) -> Iterator[None]:
    """Handle signals until the end of the block."""
    loop = asyncio.get_running_loop()

    def forward(number: signal.Signals) -> None:
        if child is not None:
            child.forward(number)
        elif number == signal.SIGHUP and not is_kept:
            stop.ask()

    is_kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup
    for number in SERVICE_STOP_SIGNALS:
        loop.add_signal_handler(number, stop.ask)
    for number in FORWARDED:
        loop.add_signal_handler(number, forward, number)
    try:
        yield
    finally:
        for number in HANDLED:
            loop.remove_signal_handler(number)
