"""Counts the calls of one registry to Redis."""

from __future__ import annotations

from collections import Counter, defaultdict

from shared_registry.errors import StoreError
from shared_registry.tallies import FAST_SECONDS, Distribution


class CallCounts:
    """How long commands took, and how calls failed.

    Attributes:
        seconds: How long each command took that was answered, with the wait for its turn, by the command's name.
        errors: How many calls and polls have failed, by the kind of the error.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, Distribution] = defaultdict(lambda: Distribution(FAST_SECONDS))
        self.errors: Counter[str] = Counter()

    def failed(self, error: StoreError) -> None:
        """Count a failure."""
        self.errors[type(error).__name__] += 1
