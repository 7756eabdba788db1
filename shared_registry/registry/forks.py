"""Protects a process's connections from the copies that a forked child process has of them.

Connections and event loops belong to the process that made them. A copy that reads, writes or closes them would take
replies that belong to the original process, or remove its sockets from its event loop. So a child process keeps its
copies untouched for as long as it lives.
"""

from __future__ import annotations

import os
import weakref
from typing import NoReturn, Protocol

from shared_registry.errors import UsageError


class Forkable(Protocol):
    """An object that is notified in the child process after a fork."""

    def disown(self, parent: int) -> None:
        """Stop using everything that belongs to the parent process, which has this id."""


class Inherited:
    """Takes the place of a part that belongs to another process, and refuses every use."""

    def __init__(self, parent: int) -> None:
        self.__dict__["parent"] = parent

    def __getattr__(self, name: str) -> NoReturn:
        raise refusal(self.__dict__["parent"])


def refusal(parent: int) -> UsageError:
    """Return the error of a copy that was not started in this process."""
    return UsageError(
        f"this registry was in use in process {parent} before this process was forked from it; "
        "await start() in this process, or build a registry here"
    )


def watch(one: Forkable) -> None:
    """Notify an object of forks for as long as it lives."""
    _watched.add(one)


def keep(*parts: object) -> None:
    """Keep these objects until this process ends, so that nothing closes them."""
    _kept.extend(parts)


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_kept: list[object] = []
_pid = os.getpid()


def _disown_all() -> None:
    global _pid
    parent, _pid = _pid, os.getpid()
    for one in list(_watched):
        one.disown(parent)


os.register_at_fork(after_in_child=_disown_all)
