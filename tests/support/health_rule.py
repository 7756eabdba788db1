"""What an outcome does to a replica, as FastVideo's router has it: written once for all tests, apart from ours."""

from __future__ import annotations

from typing import NamedTuple


class Counted(NamedTuple):
    """The status, and how many outcomes of a kind came in a row."""

    status: str = "unknown"
    failures: int = 0
    successes: int = 0

    def after(self, *, is_ok: bool, failure_threshold: int, recovery_threshold: int) -> Counted:
        """Return what one more outcome makes of it."""
        if not is_ok:
            failures = self.failures + 1
            return Counted("unhealthy" if failures >= failure_threshold else self.status, failures, 0)
        successes = self.successes + 1
        if self.status == "unknown" or (self.status == "unhealthy" and successes >= recovery_threshold):
            return Counted("healthy", 0, 0)
        return Counted(self.status, 0, successes)
