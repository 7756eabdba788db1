"""IP addresses of host names, for those who take addresses only. An answer is kept, and an old one beats none."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

KEEP_SECONDS = 10.0
"""How long a resolved address is used before the name is resolved again."""
PATIENCE_SECONDS = 2.0
"""How long a request waits for the names that are new."""
MOST_AT_ONCE = 20


class Addresses:
    """Resolves host names, each to one address."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str | None, float]] = {}
        self._resolving = asyncio.Semaphore(MOST_AT_ONCE)

    async def of(self, hosts: Iterable[str]) -> dict[str, str]:
        """Return the address of each host. A name that cannot be resolved, and never could be, is left out."""
        found: dict[str, str] = {}
        now = asyncio.get_running_loop().time()
        names: list[str] = []
        for host in dict.fromkeys(hosts):
            if _is_address(host):
                found[host] = host
            else:
                names.append(host)
        for gone in self._known.keys() - set(names):
            del self._known[gone]
        due = [name for name in names if name not in self._known or now >= self._known[name][1]]
        if due:
            tasks = [asyncio.create_task(self._resolve(name)) for name in due]
            try:
                await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        return found | {name: known[0] for name in names if (known := self._known.get(name)) and known[0]}

    async def _resolve(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        address = self._known.get(name, (None, 0.0))[0]
        self._known[name] = address, loop.time() + KEEP_SECONDS  # also if this is cut short: a resolver that hangs
        async with self._resolving:
            try:
                answers = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                return
        found = min((str(answer[4][0]) for answer in answers), key=lambda one: (":" in one, one))  # at each router
        self._known[name] = found, loop.time() + KEEP_SECONDS


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
