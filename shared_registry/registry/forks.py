"""What a process does with objects that it has from the process it was forked from.

Connections and event loops belong to the process that made them: a copy that reads, writes or closes them takes the
answers of the original, or takes its sockets out of its event loop. So a copy keeps them, untouched, for as long as it
lives.
"""

from __future__ import annotations

import os
import weakref
from typing import NoReturn, Protocol

from shared_registry.errors import UsageError


class Forkable(Protocol):
    """An object that is told in a process that was forked."""

    def disown(self, parent: int) -> None:
        """Leave alone what belongs to the process with this id, of which this one is a copy."""


class Inherited:
    """Stands for a part that belongs to another process: whatever is asked of it is refused."""

    def __init__(self, parent: int) -> None:
        self.__dict__["parent"] = parent

    def __getattr__(self, name: str) -> NoReturn:
        raise refusal(self.__dict__["parent"])


def refusal(parent: int) -> UsageError:
    """Return what a copy says that was not started here."""
    return UsageError(
        f"this registry was in use in process {parent} before this process was forked from it; "
        "await start() in this process, or build a registry here"
    )


def watch(one: Forkable) -> None:
    """Have it told of forks for as long as it lives."""
    _watched.add(one)


def keep(*parts: object) -> None:
    """Keep these until this process ends, so that nothing closes them."""
    _kept.extend(parts)


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_kept: list[object] = []
_pid = os.getpid()


def _tell_all() -> None:
    global _pid
    parent, _pid = _pid, os.getpid()
    for one in list(_watched):
        one.disown(parent)


os.register_at_fork(after_in_child=_tell_all)
