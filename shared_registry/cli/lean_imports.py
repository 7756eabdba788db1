"""Imports this package, pydantic and redis-py without what these two import for parts that the command does not use."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

TELEMETRY = "opentelemetry"
METADATA = "importlib.metadata"
PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


@contextmanager
def lean_imports() -> Iterator[None]:
    """Leave out in this block what only costs time and memory.

    - OpenTelemetry's SDK, which redis-py imports if it is installed, appears to be missing. It would be needed for the
      metrics of redis-py, and takes 3 MB.
    - `importlib.metadata` is imported when it is first used, and not by its name alone. It takes 2 MB. redis-py asks it
      only for its own version.
    - pydantic looks for no plugins, which is all that it needs `importlib.metadata` for.

    Whoever imports the modules after the block gets them as usual.
    """
    hidden: dict[str, ModuleType] = {}
    if METADATA not in sys.modules:
        hidden[METADATA] = _Metadata(METADATA)
        setattr(importlib, "metadata", hidden[METADATA])  # noqa: B010  as an import does
    if TELEMETRY not in sys.modules:
        hidden[TELEMETRY] = cast("ModuleType", None)  # an import then fails as if it were missing
    sys.modules.update(hidden)
    has_plugins = PLUGINS not in os.environ
    os.environ.setdefault(PLUGINS, "__all__")
    try:
        yield
    finally:
        if has_plugins:
            del os.environ[PLUGINS]
        for name, module in hidden.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


class _Metadata(ModuleType):
    """Stands for `importlib.metadata` until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of any module
            raise AttributeError(name)
        return getattr(_real_metadata(), name)

    @staticmethod
    def entry_points(**chosen: str) -> Any:
        """Return the entry points of installed packages. pydantic imports this function and calls it for plugins."""
        return _real_metadata().entry_points(**chosen)


def _real_metadata() -> Any:
    if isinstance(sys.modules.get(METADATA), _Metadata):
        del sys.modules[METADATA]
    return importlib.import_module(METADATA)
