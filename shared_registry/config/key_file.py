"""Reads the lines of a file of keys or tokens."""

from __future__ import annotations

from pathlib import Path

from shared_registry.errors import ConfigError

LONGEST_FILE = 1 << 20


def lines_of_key_file(setting: str, file: str) -> list[str]:
    """Return the lines of the file that a setting names.

    Raises:
        ConfigError: It cannot be read, or it is too large to be such a file.
    """
    try:
        with Path(file).open(encoding="utf-8-sig") as opened:
            text = opened.read(LONGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"{setting}: cannot read {file} ({reason}); check the path and its permissions") from None
    if len(text) > LONGEST_FILE:
        raise ConfigError(f"{setting}: {file} is larger than 1 MiB; is it the right file?")
    return text.splitlines()
