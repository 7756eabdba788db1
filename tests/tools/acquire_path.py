"""Which files of the package one `acquire()` enters: down to the call of the script, and from the reply to its return.

python -m tests.tools.acquire_path
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import redis

import shared_registry
from shared_registry import Lease, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer

T = TypeVar("T")
URL = "http://10.0.0.1:8000"
_PACKAGE = str(Path(shared_registry.__file__).parent) + os.sep
_CLIENT = str(Path(redis.__file__).parent) + os.sep
_is_followed = contextvars.ContextVar("is_followed", default=False)


@dataclass
class CallPath:
    """Files, in the order in which they were first entered. What redis-py calls is not among them.

    Attributes:
        down: Before the script was called for the first time.
        back: From then on.
    """

    down: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)


async def followed(work: Coroutine[Any, Any, T]) -> tuple[T, CallPath]:
    """Run this to its end; return its result, and what was entered on its behalf, in tasks of its own too."""
    path = CallPath()
    entered = path.down

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal entered
        if event != "call" or not _is_followed.get():
            return
        file = frame.f_code.co_filename
        if frame.f_code.co_name == "call_script":
            entered = path.back
        if file.startswith(_PACKAGE) and not _is_below_client(frame):
            name = file.removeprefix(_PACKAGE)
            if name not in entered:
                entered.append(name)

    _is_followed.set(True)
    sys.setprofile(note)
    try:
        return await work, path
    finally:
        sys.setprofile(None)
        _is_followed.set(False)


def _is_below_client(frame: FrameType) -> bool:
    above = frame.f_back
    while above is not None:
        if above.f_code.co_filename.startswith(_CLIENT):
            return True
        above = above.f_back
    return False


async def measure(redis_url: str, namespace: str) -> dict[str, CallPath]:
    """Return the paths of a session that gets a slot at once, and of one that waits for it in the queue."""
    config = RouterConfig(redis_url=redis_url, namespace=namespace, replicas=[ReplicaEndpoint(URL, capacity=1)])
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        (replica,) = registry.all()
        await registry.record_success(replica, recovery_threshold=1, latency_ms=1.0)
        warm = await registry.acquire()  # so that the server knows the script
        await warm.release()
        first, at_once = await followed(registry.acquire())
        is_waiting = asyncio.Event()

        async def release_slot() -> None:
            await is_waiting.wait()
            await first.release()

        release = asyncio.create_task(release_slot())
        second, waiting = await followed(_wait(registry, is_waiting))
        await release
        await second.release()
    return {"at once": at_once, "waiting": waiting}


def _wait(registry: SharedReplicaRegistry, is_waiting: asyncio.Event) -> Coroutine[Any, Any, Lease]:
    return registry.acquire(timeout=30.0, on_position=lambda _position, _depth: is_waiting.set())


async def main() -> None:
    """Print the paths."""
    with EmbeddedServer() as server:
        for name, path in (await measure(server.url, "path")).items():
            for direction, files in (("down", path.down), ("back", path.back)):
                print(f"{name}, {direction}: {len(files)}\n  " + "\n  ".join(files))


if __name__ == "__main__":
    asyncio.run(main())
