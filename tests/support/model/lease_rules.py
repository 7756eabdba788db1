"""What the commands on leases do, and what the end of a router does to those that it held or waited for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tests.support.model.keyspace import ORIGIN
from tests.support.model.queue_rules import CHECKED_AT_ONCE, QueueRules, lease_id_of, router_of
from tests.support.model.values import Anything, Value, agree, session_of


class LeaseRules(QueueRules):
    """The rules for leases.

    Attributes:
        granted: The url, and its replica's revision, that the last acquire found or gave; `None` where it was denied.
        is_spare: Whether that replica is not healthy.
        sequence: With which the session would have waited instead, as the last acquire must have said.
        depth: How many wait, as the last acquire must have said.
        restored: What the last restoration answered: how many, which urls are over capacity, which are not there.
    """

    granted: tuple[str, str] | None = None
    is_spare: bool = False
    sequence: Value = ""
    depth: int = 0
    restored: tuple[int, set[str], set[str]] | None = None

    def acquire_lease(  # noqa: C901  one command, one rule
        self,
        *,
        router: str,
        lease_id: str,
        avoided: Collection[str],
        excluded: Collection[str],
        max_queue: int = 0,
        sequence: str = "",
        takes_spare: bool = True,
    ) -> str:
        self._tick()
        self.granted, self.depth = None, 0
        self.is_spare, self.sequence = False, ""
        if router not in self.routers:
            return "not_registered"
        is_behind = is_behind_for_spares = False
        if lease_id not in self.leases.get(router, {}):
            is_behind, _, is_behind_for_spares = self._serve()
        held = self.leases.get(router, {}).get(lease_id)
        url = held or (None if is_behind else self._choose(lease_id, avoided, excluded))
        waiter, session = f"{router}/{lease_id}", session_of(lease_id)
        if held:
            self.is_spare = self.hashes[held]["status"] != "healthy"
        elif url is None and takes_spare and not is_behind_for_spares:
            url = self._choose_spare(lease_id, avoided, excluded)
            self.is_spare = url is not None
            if url and max_queue:
                self.sequence = self._sequence_of(waiter, sequence)
        was_here = bool(session) and self.affinity.get(session) == url
        if url and not held:
            self.queue.pop(waiter, None)
            self.places.pop(session, None)
            self._record(router, lease_id, url)
        if url:
            self.granted = url, str(self.hashes[url].get("revision", ORIGIN))
            return "spare" if self.is_spare else "held" if held else "returned" if was_here else "granted"
        has_room = bool(self.ready().primary or self.ready().secondary)
        if not max_queue:
            self.queue.pop(waiter, None)
        elif waiter not in self.queue and has_room and not is_behind:
            self.depth = len(self.queue)
            return "excluded"
        elif waiter not in self.queue and (
            sequence or session_of(waiter) in self.places or len(self.queue) < max_queue
        ):
            self._join(waiter, sequence)
        self.depth = len(self.queue)
        if waiter in self.queue:
            return "waiting"
        return "saturated" if self.ready().full or (is_behind and has_room) else "no_healthy"

    def release_lease(self, *, router: str, lease_id: str, affinity_ms: int) -> str:
        self._tick()
        url = self.leases.get(router, {}).pop(lease_id, None)
        if url is None:
            return "abandoned" if self.queue.pop(f"{router}/{lease_id}", None) else "not_found"
        self._unload(url, 1, router)
        self._end_affinity(session_of(lease_id), [url], affinity_ms)
        self._serve()
        return "released"

    def take_over_lease(self, *, router: str, lease_id: str) -> str:
        """Move a lease; at most one router that lives has it."""
        self._tick()
        self.granted = None
        if router not in self.routers:
            return "not_registered"
        here, status = self.leases.get(router, {}), "held"
        if lease_id not in here:
            former = next((other for other in self.routers if lease_id in self.leases.get(other, {})), None)
            if former is None:
                return "ended" if f"{router}/{lease_id}" in self.moved else "not_found"
            self.moved.add(f"{former}/{lease_id}")
            # The replica's load and the session's affinity stay what they were.
            self.leases.setdefault(router, {})[lease_id] = self.leases[former].pop(lease_id)
            status = "moved"
        self.moved.discard(f"{router}/{lease_id}")
        url = self.leases[router][lease_id]
        self.granted = url, str(self.hashes.get(url, {}).get("revision", ORIGIN))
        return status

    def restore_leases(self, *, router: str, leases: Mapping[str, str]) -> str:
        self._tick()
        self.restored = None
        if router not in self.routers:
            return "not_registered"
        count, there, not_there = 0, set(), set()
        for lease_id, url in leases.items():
            self.queue.pop(f"{router}/{lease_id}", None)
            elsewhere = self.leases.get(router, {}).get(lease_id)
            if url not in self.hashes:
                not_there.add(url)
                continue
            there.add(url)
            if elsewhere != url:
                self._record(router, lease_id, url)
                if elsewhere:
                    self._unload(elsewhere, 1, router)
                count += 1
        over = {url for url in there if 0 < int(str(self.hashes[url]["capacity"])) < self.in_flight(url)}
        self.restored = count, over, not_there
        self._serve()
        return "restored"

    def _unload(self, url: str, count: int, router: str) -> None:
        replica = self.hashes[url]
        left = self.in_flight(url) - count
        assert left >= 0
        replica["in_flight"] = str(left)
        if left:
            return
        if replica["admin"] != "removed" and replica.get("removes_when_drained") == "1":
            reason = replica["admin_reason"]
            self._put_tombstone(url, reason)
            self._emit_replica(url, "replica_deregistered", router=router, by="last session ended", reason=reason)
        elif replica["admin"] != "active":
            self._emit("replica_emptied", router=router, reported=url)

    def _end_affinity(self, session: str, urls: Sequence[str], affinity_ms: int) -> None:
        """Some leases of a session ended at once, on these replicas, in an order that is up to the server.

        While other leases of it last it is bound to one of them; afterwards it stays bound for a while.
        """
        if not session:
            return
        left = self.urls_of(session)
        bound, found = self.affinity.get(session), str(self._found.get(f"affinity:{session}"))
        if left:
            if bound not in left:
                most = max(left.values())
                likely = min(url for url, count in left.items() if count == most)
                self.affinity[session] = found if found in left and len(urls) > 1 else likely
            return
        if bound not in urls or len(urls) > 1:  # it was bound to the one that ended last
            self.affinity[session] = found if found in urls else urls[0]
        if affinity_ms:
            self.fading.add(session)
        else:
            self.affinity.pop(session, None)

    # --- the end of a router ---

    def _end_some(self, router: str, by: str, affinity_ms: int) -> bool:
        """End as much of what a router has as the server did, which is up to it; return whether all has ended.

        Waiters first: no lease may end before the line was searched to its end.
        """
        is_done = router not in self._found_under("routers")
        record = self.router.setdefault(router, {})
        may_miss = is_done and "queue_cursor" in record
        gone = self._end_waiting(router, affinity_ms, is_done=is_done, may_miss=may_miss)
        held, left = self.leases.get(router, {}), self._found_under(f"leases:{router}")
        ended = {lease_id: url for lease_id, url in held.items() if lease_id not in left}
        self.leases[router] = {lease_id: url for lease_id, url in held.items() if lease_id in left}
        for session in {session_of(lease_id) for lease_id in ended}:
            self._end_affinity(session, [ended[one] for one in ended if session_of(one) == session], affinity_ms)
        for url in self._as_they_appeared(set(ended.values())):
            self._unload(url, list(ended.values()).count(url), by)
        if is_done:
            assert not self.leases[router], f"{router} is gone, and its leases are not"
            for parts in (self.routers, self.router, self.leases, self.inboxes):
                parts.pop(router, None)
        else:
            is_searched = self._found_under(f"router:{router}").get("queue_cursor") == "done"
            assert is_searched or not ended, f"{router} waits, and its leases end"
            assert not is_searched or self.leases[router], f"{router} has nothing left, and is still there"
            record.update({"reap_cursor": Anything(), "queue_cursor": Anything()})
        self._serve(checked=self._checks_of_missed(router, len(gone)) if may_miss else 0)
        return is_done

    def _checks_of_missed(self, router: str, most: int) -> int:
        """Return how many of those who are gone were dropped as unlisted: who is left was not looked at any more."""
        left = self._found_under("queue")
        waiters = self.waiters()
        for place, waiter in enumerate(waiters[:CHECKED_AT_ONCE]):
            if router_of(waiter) == router and waiter in left and place + most >= CHECKED_AT_ONCE:
                return CHECKED_AT_ONCE - place
        return 0

    def _end_waiting(self, router: str, affinity_ms: int, *, is_done: bool, may_miss: bool) -> list[str]:
        """Take those out of the line whom the server took out, and keep the places of their sessions; return them.

        Who joined while the router was ended in several pieces may have been missed, and stay without a router.
        """
        left, granted = self._found_under("queue"), self._found_under(f"leases:{router}")
        own = [waiter for waiter in self.waiters() if router_of(waiter) == router]
        gone = [waiter for waiter in own if waiter not in left and lease_id_of(waiter) not in granted]
        assert may_miss or not is_done or gone == own, f"{router} is gone, and still waits"
        for session in {session_of(waiter) for waiter in gone} - {""}:
            place = self._found.get(f"sequence:{session}")
            places = [self.queue[waiter] for waiter in gone if session_of(waiter) == session]
            kept = [sequence for sequence in places if place and agree(sequence, place)]
            if affinity_ms and kept:
                self.places[session] = kept[0]
            assert kept or may_miss or not affinity_ms, f"the place of {session} is lost"
        for waiter in gone:
            del self.queue[waiter]
        return gone

    def _found_under(self, key: str) -> Mapping[str, object]:
        found = self._found.get(key, {})
        assert isinstance(found, dict)
        return found
