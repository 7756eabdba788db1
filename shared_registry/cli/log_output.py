"""How the package's log is written to standard error."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared_registry.config import RouterConfig


def log_to_stderr(*, as_json: bool = False, is_service: bool = False, worker: int | None = None) -> None:
    """Send the package's log to standard error.

    Args:
        as_json: Write one JSON object per line, if this is a service.
        is_service: The command runs until it is stopped: log from level info on, with the time. Other commands log
            only warnings and errors.
        worker: The number of this worker, if the service consists of several processes.
    """
    handler = logging.StreamHandler()
    if as_json and is_service:
        handler.setFormatter(_JsonFormatter(worker))
    elif is_service:
        name = "" if worker is None else f"worker {worker}: "
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {name}%(message)s"))
    else:
        handler.setFormatter(_PlainFormatter())
    package = logging.getLogger("shared_registry")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO if is_service else logging.WARNING)


def set_log_level(config: RouterConfig) -> None:
    """Log what `log_level` says, from now on."""
    logging.getLogger("shared_registry").setLevel(config.log_level.upper())


LOG_FIELDS = ("url", "admin_url", "pool", "replica", "router", "epoch", "request_id")
"""The attributes of log records that a line in JSON shows, so that programs need not parse messages."""


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


class _JsonFormatter(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            line["worker"] = self._worker
        line |= {name: value for name in LOG_FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
