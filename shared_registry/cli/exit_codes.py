"""The command's exit codes, for scripts."""

from __future__ import annotations

from shared_registry.errors import ConfigError, MissingExtra, RegistryError, StoreRefused, StoreUnavailable, UsageError

OK, FOUND_WRONG, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130


def exit_code(error: RegistryError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, StoreUnavailable):
        return UNREACHABLE
    return USAGE if isinstance(error, ConfigError | MissingExtra | UsageError | StoreRefused) else FOUND_WRONG
