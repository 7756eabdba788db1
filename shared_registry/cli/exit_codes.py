"""What the command's exit code says to a script that runs it."""

from __future__ import annotations

from shared_registry.errors import ConfigError, MissingExtra, RegistryError, StoreRefused, StoreUnavailable, UsageError

OK, FOUND_WRONG, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130


def exit_code(error: RegistryError) -> int:
    """Return what an error means to a script that runs the command."""
    if isinstance(error, StoreUnavailable):
        return UNREACHABLE
    return USAGE if isinstance(error, ConfigError | MissingExtra | UsageError | StoreRefused) else FOUND_WRONG
