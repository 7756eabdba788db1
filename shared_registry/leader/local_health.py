"""Decides whether a leader is fit to probe for all. Pure.

It is not if many probes fail because of its own trouble, or if other routers reach many replicas that it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.probing.own_trouble import OwnTrouble

LEAST_PROBES = 4
"""How many replicas must have been probed for a decision; if fewer are registered, all of them."""
UNSURE_IN_A_ROW = 2
"""After so many probes in a row that could not be made, other routers are asked about the replica."""
REFUTED_SHARE = 0.25
"""The share of the replicas about which a leader has to be wrong."""


class LocalHealth:
    """Decides by the latest result of each replica in one term."""

    def __init__(self, *, failure_threshold: int, interval_seconds: float) -> None:
        """Set up.

        Args:
            failure_threshold: How many failures in a row make a replica unhealthy. A healthy replica that could not be
                probed twice as many times in a row may have been dead all that time.
            interval_seconds: Seconds between two probes of a settled replica.
        """
        self._patience = 2 * failure_threshold
        self._memory_seconds = interval_seconds * failure_threshold
        self._refuted: dict[str, float] = {}
        self._probed: set[str] = set()
        self._unsure: dict[str, int] = {}
        self._unknown: set[str] = set()
        self._reason = ""

    def forget(self, key: str) -> None:
        """Forget a replica that is no longer probed."""
        self._probed.discard(key)
        self._unsure.pop(key, None)
        self._unknown.discard(key)
        self._refuted.pop(key, None)

    def refuted(self, key: str, *, now: float) -> None:
        """Record that another router reached a replica that this leader does not reach.

        Args:
            key: The replica's canonical url.
            now: The monotonic clock.
        """
        self._refuted[key] = now

    def is_lasting(self, key: str) -> bool:
        """Return whether a replica could not be probed several times in a row, so that others must be asked."""
        return self._unsure.get(key, 0) >= UNSURE_IN_A_ROW

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

    def note_well(self, keys: Sequence[str]) -> None:
        """Record that replicas were reached; see `note`."""
        self._probed.update(keys)
        if self._unsure:
            self._unknown.difference_update(keys)
            for key in keys:
                self._unsure.pop(key, None)

    def share(self, *, now: float) -> float | None:
        """Return the share of the probed replicas that this router can judge; `None` if it has probed none.

        Not judged are those that its last probe could not try, and those that others have lately reached and it has
        not.

        Args:
            now: The monotonic clock.
        """
        if not self._probed:
            return None
        wrong = {key for key, at in self._refuted.items() if now - at <= self._memory_seconds}
        return 1 - len(self._probed & (wrong | self._unsure.keys())) / len(self._probed)

    @property
    def may_complain(self) -> bool:
        """Whether there is any reason to ask for a complaint."""
        return bool(self._refuted or self._unsure)

    def complaint(self, replicas: int, *, now: float) -> str | None:
        """Return why another router should be the leader; `None` if this one may stay.

        Args:
            replicas: How many replicas are probed.
            now: The monotonic clock.
        """
        if not self.may_complain:
            return None
        if self.is_contradicted(replicas, now=now):
            return (
                f"{self._refuted_lately(now)} of {replicas} replicas are reached by other routers and not by this one"
            )
        probed, unsure = len(self._probed), len(self._unsure)
        if unsure and probed >= min(LEAST_PROBES, replicas) and 2 * unsure >= probed:
            return f"{unsure} of {probed} replicas could not be probed: {self._reason}"
        if self._unknown:
            return f"{min(self._unknown)} could not be probed {self._patience} times in a row: {self._reason}"
        return None

    def is_contradicted(self, replicas: int, *, now: float) -> bool:
        """Return whether other routers reach so many replicas that this one does not that it must not lead.

        Args:
            replicas: How many replicas are probed.
            now: The monotonic clock.
        """
        lately = self._refuted_lately(now)
        return bool(lately) and lately >= REFUTED_SHARE * replicas

    def _refuted_lately(self, now: float) -> int:
        return sum(now - at <= self._memory_seconds for at in self._refuted.values())
