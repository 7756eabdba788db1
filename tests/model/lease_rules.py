"""What the commands on leases do, and what the end of a router does to those that it held."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tests.model.keyspace import ORIGIN, Keyspace
from tests.model.values import Anything


class LeaseRules(Keyspace):
    """The rules for leases.

    Attributes:
        granted: The url, and its replica's revision, that the last acquire found or gave; `None` where it was denied.
        restored: What the last restoration answered: how many, which urls are over capacity, which are not there.
    """

    granted: tuple[str, str] | None = None
    restored: tuple[int, set[str], set[str]] | None = None

    def acquire_lease(self, *, router: str, lease_id: str, avoided: Collection[str], excluded: Collection[str]) -> str:
        self.granted = None
        if router not in self.routers:
            return "not_registered"
        held = self.leases.get(router, {})
        if lease_id in held:
            self.granted = held[lease_id], str(self.hashes[held[lease_id]].get("revision", ORIGIN))
            return "held"
        url = self._choose(lease_id, avoided, excluded)
        if url is None:
            return "saturated" if self.ready().full else "no_healthy"
        self._record(router, lease_id, url)
        self.granted = url, str(self.hashes[url]["revision"])
        return "granted"

    def _choose(self, lease_id: str, avoided: Collection[str], excluded: Collection[str]) -> str | None:
        ready, bound = self.ready(), self.affinity.get(session_of(lease_id))
        for unwanted in ({*avoided, *excluded}, {*excluded}):
            if bound in ready.primary.keys() | ready.secondary.keys() and bound not in unwanted:
                return bound
            for tier in (ready.primary, ready.secondary):
                loads = {url: load for url, load in tier.items() if url not in unwanted}
                if loads:
                    tied = sorted(url for url, load in loads.items() if load == min(loads.values()))
                    return tied[int(lease_id[:8], 16) % len(tied)]
        return None

    def release_lease(self, *, router: str, lease_id: str, affinity_ms: int) -> str:
        self._tick()
        url = self.leases.get(router, {}).pop(lease_id, None)
        if url is None:
            return "not_found"
        self._unload(url, 1, router)
        self._keep_affinity(session_of(lease_id), [url], affinity_ms)
        return "released"

    def restore_leases(self, *, router: str, leases: Mapping[str, str]) -> str:
        self._tick()
        self.restored = None
        if router not in self.routers:
            return "not_registered"
        count, there, not_there = 0, set(), set()
        for lease_id, url in leases.items():
            elsewhere = self.leases.get(router, {}).get(lease_id)
            if url not in self.hashes:
                not_there.add(url)
                continue
            there.add(url)
            if elsewhere != url:
                self._record(router, lease_id, url)
                self.expiring.discard(url)
                if elsewhere:
                    self._unload(elsewhere, 1, router)
                count += 1
        over = {url for url in there if 0 < int(str(self.hashes[url]["capacity"])) < self.in_flight(url)}
        self.restored = count, over, not_there
        return "restored"

    def _record(self, router: str, lease_id: str, url: str) -> None:
        self.leases.setdefault(router, {})[lease_id] = url
        self.hashes[url]["in_flight"] = str(self.in_flight(url) + 1)
        if session := session_of(lease_id):
            self.affinity[session] = url
            self.fading.discard(session)

    def _unload(self, url: str, count: int, router: str) -> None:
        replica = self.hashes[url]
        left = self.in_flight(url) - count
        assert left >= 0
        replica["in_flight"] = str(left)
        if left == 0 and replica["admin"] == "removed":
            self.expiring.add(url)
        elif left == 0 and replica.get("removes_when_drained") == "1":
            reason = replica["admin_reason"]
            self._bury(url, reason)
            self._emit_replica(url, "replica_deregistered", router=router, by="last session ended", reason=reason)

    def _keep_affinity(self, session: str, urls: Sequence[str], affinity_ms: int) -> None:
        """Some leases of a session ended at once, on these replicas: where it is bound to one, it stays for a while."""
        bound = self.affinity.get(session) or self._found.get(f"affinity:{session}") or urls[0]
        if not session or bound not in urls:
            return
        if affinity_ms:
            self.affinity[session] = str(bound)
            self.fading.add(session)
        else:
            self.affinity.pop(session, None)
            self.fading.discard(session)

    def _end_some(self, router: str, by: str, affinity_ms: int) -> bool:
        """End as many of a router's leases as the server did, which is up to it; return whether all have ended."""
        held, left = self.leases.get(router, {}), self._found.get(f"leases:{router}", {})
        assert isinstance(left, dict)
        assert left.items() <= held.items(), f"{router} holds what it did not hold before"
        ended = {lease_id: url for lease_id, url in held.items() if lease_id not in left}
        self.leases[router] = dict(left)
        for session in {session_of(lease_id) for lease_id in ended}:
            self._keep_affinity(session, [ended[one] for one in ended if session_of(one) == session], affinity_ms)
        for url in self._as_they_appeared(set(ended.values())):
            self._unload(url, list(ended.values()).count(url), by)
        if left:
            self.router.setdefault(router, {}).update({"reap_cursor": Anything(), "line_cursor": "done"})
        return not left


def session_of(lease_id: str) -> str:
    """Return what stands for the session in a lease's id; empty where none was named."""
    return lease_id.partition(":")[2]
