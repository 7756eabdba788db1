"""Whether a leader is fit to probe for all, by how many of its probes fail because of its own trouble. Pure."""

from __future__ import annotations

from collections.abc import Iterable

LEAST_PROBES = 4
"""Results that it takes, of different replicas; all where there are fewer replicas."""


class LocalHealth:
    """Goes by the latest result of each replica in this term."""

    def __init__(self, *, failure_threshold: int) -> None:
        """Set up.

        Args:
            failure_threshold: Failures in a row that make a replica unhealthy. A healthy replica of which the leader
                knows nothing for twice as many probes may be dead all the while.
        """
        self._patience = 2 * failure_threshold
        self._unsure_in_a_row: dict[str, int] = {}

    def retain(self, keys: Iterable[str]) -> None:
        """Forget every replica but these."""
        for key in self._unsure_in_a_row.keys() - set(keys):
            del self._unsure_in_a_row[key]

    def note(self, key: str, *, is_unsure: bool) -> None:
        """Take note of a probe's result."""
        self._unsure_in_a_row[key] = self._unsure_in_a_row.get(key, 0) + 1 if is_unsure else 0

    def complaint(self, replicas: int) -> str | None:
        """Return why this router should not lead; `None` where it may.

        Args:
            replicas: How many are probed.
        """
        probed = len(self._unsure_in_a_row)
        unsure = sum(1 for count in self._unsure_in_a_row.values() if count)
        if probed >= min(LEAST_PROBES, replicas) and 2 * unsure >= probed > 0:
            return f"{unsure} of the latest {probed} probes could not be made"
        return None

    def is_blind_to(self, key: str) -> bool:
        """Return whether it has known nothing of a replica for too long."""
        return self._unsure_in_a_row.get(key, 0) >= self._patience
