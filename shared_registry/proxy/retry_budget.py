"""Limits how many requests are sent again, so that a busy fleet is not made busier by retries. Pure.

The rule is that of Finagle's retry budget: a part of all requests may be sent again, and some each second whatever the
number of requests.
"""

from __future__ import annotations

SHARE = 0.2
"""Retries allowed for each request."""
EACH_SECOND = 10.0
"""Retries allowed in each second besides."""
MOST_SAVED = 100.0
"""The most retries that are saved up."""


class RetryBudget:
    """The retries that one router may make."""

    def __init__(self) -> None:
        self._saved = EACH_SECOND
        self._counted_at = 0.0

    def request(self) -> None:
        """Count a request."""
        self._saved = min(MOST_SAVED, self._saved + SHARE)

    def take(self, now: float) -> bool:
        """Take one retry if there is one; return whether there was.

        Args:
            now: The time, on a clock that does not jump, in seconds.
        """
        earned = (now - self._counted_at) * EACH_SECOND
        self._saved = min(MOST_SAVED, max(self._saved, min(EACH_SECOND, self._saved + earned)))
        self._counted_at = now
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
