"""V13: where a session is placed, and when one that would be refused gets a replica that is not healthy."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.model.verdicts.keyspace import Keyspace, Replica
from tests.support.model.verdicts.settings import Rules, Settings


class Placement:
    """The slots of the namespace."""

    def __init__(self, keys: Keyspace, settings: Settings, rules: Rules) -> None:
        self.keys = keys
        self.settings = settings
        self.rules = rules

    def acquire(self, excluded: Sequence[str], spares: int) -> list[str]:
        """Take a slot: `ready` or `spare` with a url, or `full`, for a session that has tried so many spare ones."""
        here = [one for one in self.keys.replicas.values() if one.admin == "active" and one.in_flight < one.capacity]
        here = [one for one in here if one.url not in excluded]
        now = self.keys.now
        ready = [one for one in here if one.status == "healthy" and one.ejected_until <= now]
        may_spare = spares < 2 or not self.rules.has("two tries")
        spare = [one for one in here if one.status != "healthy" and self._has_answered(one)]
        if not (self._is_panic() and may_spare):
            spare = []
        if not self.rules.has("healthy ones first"):
            ready = ready + spare
        for kind, those in (("ready", ready), ("spare", spare)):
            if those:
                chosen = min(those, key=lambda one: (one.in_flight, one.url))
                chosen.in_flight += 1
                return [kind if chosen.status == "healthy" else "spare", chosen.url]
        return ["full"]

    def release(self, url: str) -> list[str]:
        self.keys.replicas[url].in_flight -= 1
        return ["released"]

    def _has_answered(self, replica: Replica) -> bool:
        is_lately = 0 <= self.keys.now - replica.last_ok_at <= self.settings.answered_within
        return is_lately or not self.rules.has("answered lately")

    def _is_panic(self) -> bool:
        counted = [one for one in self.keys.replicas.values() if one.admin == "active" and self._has_answered(one)]
        healthy = [one for one in counted if one.status == "healthy"]
        if not self.rules.has("panic is for few"):
            return True
        return len(healthy) * 100 < self.settings.panic_percent * len(counted)
