"""Decides whether a leader is fit to probe for all, by how many probes fail because of its own trouble. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from shared_registry.probing.own_trouble import OwnTrouble

LEAST_PROBES = 4
"""How many replicas must have been probed for a decision; if fewer are registered, all of them."""


class LocalHealth:
    """Decides by the latest result of each replica in one term."""

    def __init__(self, *, failure_threshold: int) -> None:
        """Set up.

        Args:
            failure_threshold: How many failures in a row make a replica unhealthy. A healthy replica that could not be
                probed twice as many times in a row may have been dead all that time.
        """
        self._patience = 2 * failure_threshold
        self._probed: set[str] = set()
        self._unsure: dict[str, int] = {}
        self._unknown: set[str] = set()
        self._reason = ""

    def retain(self, keys: Iterable[str]) -> None:
        """Forget every replica but these."""
        for key in self._probed - set(keys):
            self._probed.discard(key)
            self._unsure.pop(key, None)
            self._unknown.discard(key)

    def note(self, key: str, trouble: OwnTrouble | None, *, is_healthy: bool) -> None:
        """Record the result of a probe.

        Args:
            key: The replica's canonical url.
            trouble: Why the probe could not be made; `None` if the probe reached out to the replica.
            is_healthy: Whether the replica counts as healthy.
        """
        self._probed.add(key)
        if trouble is None:
            self._unsure.pop(key, None)
            self._unknown.discard(key)
            return
        self._reason = str(trouble)
        self._unsure[key] = self._unsure.get(key, 0) + 1
        if is_healthy and self._unsure[key] >= self._patience:
            self._unknown.add(key)
        else:
            self._unknown.discard(key)

    def complaint(self, replicas: int) -> str | None:
        """Return why another router should be the leader; `None` if this one may stay.

        Args:
            replicas: How many replicas are probed.
        """
        probed, unsure = len(self._probed), len(self._unsure)
        if unsure and probed >= min(LEAST_PROBES, replicas) and 2 * unsure >= probed:
            return f"{unsure} of {probed} replicas could not be probed: {self._reason}"
        if self._unknown:
            return f"{min(self._unknown)} could not be probed {self._patience} times in a row: {self._reason}"
        return None
