"""The version, in the one place that both the build and the running package read."""

from __future__ import annotations

__version__ = "0.1.0"
