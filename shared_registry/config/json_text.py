"""Reads JSON in settings. A key that is there twice is refused, as in a YAML file: one of the two would be lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shared_registry.errors import ConfigError


def read_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ConfigError: A key of an object is there twice. The message names the key.
        ValueError: The text is not JSON.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ConfigError(f"the key {key!r} is there twice; delete one of the two")
        values[key] = value
    return values
