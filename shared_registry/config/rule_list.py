"""Reads settings that are lists of rules, from YAML or from a variable with JSON."""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.config.json_text import read_json
from shared_registry.config.problems import shorten
from shared_registry.errors import ConfigError


def read_rules(setting: str, value: object, *, example: str, most: int) -> Sequence[object]:
    """Return the rules of a setting, each as it was given.

    Args:
        setting: The setting's name.
        value: A list; or the same as JSON text.
        example: A short list for the message.
        most: The most rules.

    Raises:
        ConfigError: The value is not such a list.
    """
    if isinstance(value, str):
        try:
            value = read_json(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{setting}: {shorten(value)} is not JSON: {error}") from None
        except ConfigError as error:
            raise ConfigError(f"{setting}: {error}") from None
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise ConfigError(f"{setting}: must be a list such as {example}, got {shorten(value)}")
    if len(value) > most:
        raise ConfigError(f"{setting}: has {len(value)} rules; use at most {most}")
    return value
