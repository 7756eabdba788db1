"""Limits the file descriptors that clients and their sessions may take of those that this process may open.

A session takes two descriptors: its client's connection, and a connection to its replica. The router keeps a reserve
for its own work, for any number of clients: Redis, the probes of the leader, DNS lookups, and requests for its health.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from shared_registry.config import RouterConfig

if sys.platform != "win32":
    import resource

GUESTS = 16
"""The most guests: clients accepted beyond the limit. They get the router's own pages, and 503 for all else."""
OTHERS = 64
"""The reserve for connections to Redis (two pools of 16), DNS lookups, files, and sockets that are being closed."""
UNLIMITED_SESSIONS = 1000
"""The expected number of sessions in the report of the limit, if a replica's capacity is unlimited."""
FALLBACK_LIMITS = (1 << 20, 10_240)
"""Limits to try if the hard limit is "unlimited" but the system accepts less. macOS accepts the second."""
REMEDY = "raise the hard limit (LimitNOFILE= in systemd, --ulimit nofile= in Docker, ulimit -Hn), or add routers"
logger = logging.getLogger(__name__)


class Descriptors:
    """Decides whether there are descriptors for more clients.

    Attributes:
        clients: Returns the number of client connections. `None` if the server does not provide it; then there is no
            limit.
        max_clients: The setting of that name.
        others: Each returns the number of connections of another kind, such as those to the admin address.
    """

    def __init__(
        self,
        *,
        replicas: Callable[[], int],
        idle: Callable[[], int],
        close_idle: Callable[[], None],
    ) -> None:
        """Start without a limit.

        Args:
            replicas: Returns the number of replicas. The leader keeps a connection to each.
            idle: Returns the number of idle connections to replicas.
            close_idle: Closes the idle connections.
        """
        self.clients: Callable[[], int] | None = None
        self._replicas = replicas
        self._idle = idle
        self._close_idle = close_idle
        self.max_clients: int | None = None
        self.others: list[Callable[[], int]] = []
        self._open_before = 0
        self._soft_limit = 0
        self._is_full = False
        self._is_over_setting = False

    def limit(self, clients: Callable[[], int]) -> None:
        """Apply this process's limit from now on. `clients` returns the number of client connections."""
        self.clients = clients
        self._open_before = _count_open()
        self._soft_limit = soft_limit()

    def have_room(self, *, more: int, sessions: int) -> bool:
        """Return whether there is room for more clients, each with a session.

        Args:
            more: The number of clients in addition to those that are connected.
            sessions: The number of sessions now. A session may end a moment after its client's connection.
        """
        if self.clients is None:
            return True
        clients = self.clients() + more
        if self.max_clients is not None and (clients > self.max_clients or self._is_over_setting):
            self._note_setting(clients, self.max_clients)
            if clients > self.max_clients:
                return False
        used = clients + max(clients, sessions)
        self._soft_limit = soft_limit()
        if used + self._other_count() <= self._soft_limit // 2 and not self._is_full:
            return True
        room = self.room()
        self._note(used, room)
        return used <= room

    def make_room(self, sessions: int) -> None:
        """Close the idle connections to replicas if a session that opens another one needs their descriptors.

        Args:
            sessions: The number of sessions under way, with this one.
        """
        if self.clients is None or not (idle := self._idle()):
            return
        used = self.clients() + sessions + idle
        if used > self._soft_limit // 2 and used > self.room():
            self._close_idle()

    def room(self) -> int:
        """Return the number of descriptors that clients and sessions may take."""
        limit = soft_limit()
        return limit - min(self._reserve(self._replicas()), limit // 2) - self._other_count()

    def report(self, config: RouterConfig) -> None:
        """Log the number of sessions that there is room for; as a warning if more are expected."""
        configs = list(config.pool_configs().values()) or [config]
        endpoints = [endpoint for one in configs for endpoint in one.replicas]
        limit, replicas = soft_limit(), len(endpoints)
        reserve = self._reserve(replicas)
        fitting = (limit - min(reserve, limit // 2)) // 2
        capacities = [endpoint.capacity for endpoint in endpoints]
        expected = sum(capacities) if all(capacities) and capacities else UNLIMITED_SESSIONS
        waiting = sum(one.max_queue for one in configs if one.queue_timeout_seconds)
        if expected + waiting <= fitting:
            logger.info("router: room for %d sessions, at %d open files", fitting, limit)
            return
        what = f"{expected} at the replicas" + (f" and {waiting} that wait" if waiting else "")
        logger.warning(
            "router: room for %d sessions only, at %d open files and %d replicas; there may be %s, which takes %d: %s",
            *(fitting, limit, replicas, what, reserve + 2 * (expected + waiting), REMEDY),
        )

    def _other_count(self) -> int:
        return sum(count() for count in self.others)

    def _reserve(self, replicas: int) -> int:
        return self._open_before + OTHERS + GUESTS + replicas

    def _note_setting(self, clients: int, most: int) -> None:
        if clients > most and not self._is_over_setting:
            self._is_over_setting = True
            logger.warning("router: full: max_clients is %d; refusing more", most)
        elif clients <= most * 0.9:
            self._is_over_setting = False
            logger.info("router: has room again")

    def _note(self, used: int, room: int) -> None:
        """Log once when the router becomes full, and once when it has room again."""
        if used > room and not self._is_full:
            self._is_full = True
            text = "router: full: %d clients are as many as %d open files have room for; refusing more; %s"
            logger.warning(text, room // 2, soft_limit(), REMEDY)
        elif self._is_full and used <= room * 0.9:
            self._is_full = False
            logger.info("router: has room again")


def within_limit(wanted: int, part: int) -> int:
    """Return a number of connections: what is wanted, but at most such a part of all descriptors."""
    return min(wanted, soft_limit() // part)


def soft_limit() -> int:
    """Return the number of files that this process may have open."""
    if sys.platform == "win32":
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_soft_limit() -> None:
    """Raise this process's limit of open files to the hard limit, or as far as the system accepts."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    for wanted in (hard, *FALLBACK_LIMITS):
        if soft != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > soft):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return


def _count_open() -> int:
    for directory in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(list(Path(directory).iterdir()))
    return OTHERS
