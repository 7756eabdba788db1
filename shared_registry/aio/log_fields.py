"""Fields that all log lines of a task and of the tasks that it starts have in common.

They are in no log record: a handler's formatter reads them while it formats, in the task that logs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType

_FIELDS: ContextVar[Mapping[str, str]] = ContextVar("shared_registry_log_fields", default=MappingProxyType({}))


def common_fields() -> Mapping[str, str]:
    """Return the fields of the present task."""
    return _FIELDS.get()


@contextlib.contextmanager
def logging_about(**fields: str) -> Iterator[None]:
    """Add fields for the block, also in tasks that are created in it."""
    token = _FIELDS.set({**_FIELDS.get(), **fields})
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a task that is deleted with its event loop ends in another context
            _FIELDS.reset(token)
