"""A router that places one session after another until SIGTERM, and then says how that went. Run by its path.

It imports `shared_registry` from PYTHONPATH, so that several versions can run side by side.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from shared_registry import RegistryError, RouterConfig, SharedReplicaRegistry


async def run(settings: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    placed, failures = 0, list[str]()
    async with SharedReplicaRegistry(RouterConfig(**settings)) as registry:
        while not stop.is_set():
            try:
                async with await registry.acquire(timeout=5):
                    placed += 1
                    if placed == 1:
                        say(router=registry.router_key)
                    await asyncio.sleep(0.01)
            except RegistryError as error:
                failures.append(repr(error))
                await asyncio.sleep(0.05)
    say(placed=placed, failures=failures)


def say(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
