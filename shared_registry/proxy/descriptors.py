"""How many files this process may have open, and how many of them clients and their sessions may take.

A session takes two: its client's connection and one to its replica. What keeps a router in the cluster needs some too,
however many clients come: Redis, the probes of the leader, names that are looked up, and those who ask for its health.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from starlette.types import Scope

from shared_registry.config import RouterConfig

if sys.platform != "win32":
    import resource

GUESTS = 16
"""Connections beyond what fits, whose requests for the router's own pages are answered, and others with 503."""
OTHERS = 64
"""For connections to Redis (two pools of 16), lookups of names, files, and sockets that are just being closed."""
UNLIMITED_SESSIONS = 1000
"""What is expected of replicas whose capacity has no limit, when the router says whether its sessions fit."""
FALLBACK_LIMITS = (1 << 20, 10_240)
"""Where the hard limit says "unlimited" and the system means less: what macOS takes is the latter."""
_GUEST = "shared_registry.guest"
REMEDY = "raise the hard limit (LimitNOFILE= in systemd, --ulimit nofile= in Docker, ulimit -Hn), or add routers"
logger = logging.getLogger(__name__)


class Descriptors:
    """Whether there is room for more clients.

    Attributes:
        clients: Returns how many client connections there are; `None` where the server in front does not tell, so that
            there is no limit.
    """

    def __init__(self, *, replicas: Callable[[], int], idle: Callable[[], int], close_idle: Callable[[], None]) -> None:
        """Set up, without a limit.

        Args:
            replicas: Returns how many replicas there are, each of which the leader keeps a connection to.
            idle: Returns how many connections to replicas idle.
            close_idle: Closes these.
        """
        self.clients: Callable[[], int] | None = None
        self._replicas = replicas
        self._idle = idle
        self._close_idle = close_idle
        self._open_before = 0
        self._is_full = False

    def limit(self, clients: Callable[[], int]) -> None:
        """Keep to the limit of this process from now on."""
        self.clients = clients
        self._open_before = _count_open()

    def have_room(self, *, more: int, sessions: int) -> bool:
        """Return whether more clients fit, with a session each.

        Args:
            more: How many come besides those that are connected.
            sessions: How many there are; some outlive their clients by moments.
        """
        if self.clients is None:
            return True
        clients = self.clients() + more
        used = clients + max(clients, sessions)
        if used <= soft_limit() // 2 and not self._is_full:
            return True
        room = self.room()
        self._note(used, room)
        return used <= room

    def begin_session(self, sessions: int) -> None:
        """Let connections to replicas that idle make way for one of these sessions, where that is needed."""
        if self.clients is None or not (idle := self._idle()):
            return
        used = self.clients() + sessions + idle
        if used > soft_limit() // 2 and used > self.room():
            self._close_idle()

    def room(self) -> int:
        """Return how many descriptors clients and sessions may take."""
        limit = soft_limit()
        return limit - min(self._reserve(self._replicas()), limit // 2)

    def report(self, config: RouterConfig) -> None:
        """Log how many sessions fit, as a warning where more may come."""
        limit, replicas = soft_limit(), len(config.replicas)
        reserve = self._reserve(replicas)
        fitting = (limit - min(reserve, limit // 2)) // 2
        capacities = [endpoint.capacity for endpoint in config.replicas]
        expected = sum(capacities) if all(capacities) and capacities else UNLIMITED_SESSIONS
        waiting = config.max_queue if config.queue_timeout_seconds else 0
        if expected + waiting <= fitting:
            logger.info("router: room for %d sessions, at %d open files", fitting, limit)
            return
        what = f"{expected} at the replicas" + (f" and {waiting} that wait" if waiting else "")
        logger.warning(
            "router: room for %d sessions only, at %d open files and %d replicas; there may be %s, which takes %d: %s",
            *(fitting, limit, replicas, what, reserve + 2 * (expected + waiting), REMEDY),
        )

    def _reserve(self, replicas: int) -> int:
        return self._open_before + OTHERS + GUESTS + replicas

    def _note(self, used: int, room: int) -> None:
        """Log once that it is full, and once that it has been so."""
        if used > room and not self._is_full:
            self._is_full = True
            text = "router: full: %d clients are as many as %d open files have room for; refusing more; %s"
            logger.warning(text, room // 2, soft_limit(), REMEDY)
        elif self._is_full and used <= room * 0.9:
            self._is_full = False
            logger.info("router: has room again")


def soft_limit() -> int:
    """Return how many files this process may have open."""
    if sys.platform == "win32":
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_soft_limit() -> None:
    """Let this process have as many files open as its hard limit allows."""
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


def mark_guest(scope: Scope) -> None:
    """Put into a request's scope that there is no room for its client."""
    scope.setdefault("extensions", {})[_GUEST] = {}


def is_of_guest(scope: Scope) -> bool:
    """Return whether a request comes from a client that there is no room for."""
    return _GUEST in scope.get("extensions", {})


def _count_open() -> int:
    for directory in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(list(Path(directory).iterdir()))
    return OTHERS
