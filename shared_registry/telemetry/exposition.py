"""Writes metrics of which there are thousands as text, in pieces. Pure.

`prometheus_client` writes a page in one piece, which takes half a second for 10,000 replicas. It writes the rest of the
page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from shared_registry.telemetry.families import Family


def head_lines(family: Family) -> str:
    """Return the lines that come before a metric's samples."""
    return f"# HELP {family.name} {_escaped(family.help)}\n# TYPE {family.name} {family.kind}\n"


def labels(**values: str) -> str:
    """Return labels as the text between the braces."""
    return ",".join([f'{name}="{label_value(value)}"' for name, value in values.items() if value])


def label_value(value: str) -> str:
    """Return a label's value as it stands between the quotes."""
    return _escaped(value).replace('"', '\\"')


def sample_lines(family: Family, samples: Iterable[tuple[str, float]]) -> str:
    """Return the lines of samples, each given by its labels as text, and its value."""
    name = family.name
    return "".join([f"{name}{{{text}}} {number(value)}\n" for text, value in samples])


def number(value: float) -> str:
    """Return a value as Prometheus reads it."""
    if value == math.inf:
        return "+Inf"
    return repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
