"""Which replica a session gets, and who waits for one: what all commands that make room end with."""

from __future__ import annotations

from collections.abc import Collection

from tests.support.model.keyspace import Keyspace
from tests.support.model.values import Anything, Number, Sum, Value, exact

GRANTS_AT_ONCE = 3
CHECKED_AT_ONCE = 8
PAGE = 2
"""How much one command does for the line; see `conftest`. So small that a few who wait are too many."""


class QueueRules(Keyspace):
    """The rules for the queue.

    Attributes:
        is_cut_short: Somebody may wait beside room, since a command had done enough for the line, or since what is
            done to a namespace is not done by commands.
    """

    is_cut_short = False

    # --- what follows from the rest ---

    def waiters(self) -> list[str]:
        """Return who waits, first come first."""
        return sorted(self.queue, key=lambda waiter: (least(self.queue[waiter]), waiter))

    def waiting_of(self, router: str) -> list[str]:
        """Return the lease ids that a router waits for, first come first."""
        return [lease_id_of(waiter) for waiter in self.waiters() if router_of(waiter) == router]

    def positions(self, router: str) -> dict[str, int]:
        """Return where those stand that a router waits for."""
        waiters = self.waiters()
        return {lease_id: waiters.index(f"{router}/{lease_id}") + 1 for lease_id in self.waiting_of(router)}

    def is_alive(self, router: str) -> bool:
        """Return whether a router has beaten within its expiry."""
        return router in self.routers and least(self.routers[router]) > self._now.low

    def is_given_up(self, router: str) -> bool:
        """Return whether a router has sent no heartbeat while others have: it may be reaped, and is given nothing."""
        if self.is_alive(router) or not {"reap_after_ms", "reap_until_ms"} <= self.meta.keys():
            return False
        return least(self.meta["reap_after_ms"]) <= self._now.low <= least(self.meta["reap_until_ms"])

    def unlisted(self) -> set[str]:
        """Return the routers with waiters, or an inbox, that are none."""
        return {*map(router_of, self.queue), *self.inboxes} - self.routers.keys()

    # --- what several commands do ---

    def _choose(self, lease_id: str, avoided: Collection[str] = (), excluded: Collection[str] = ()) -> str | None:
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

    def _record(self, router: str, lease_id: str, url: str) -> None:
        self.leases.setdefault(router, {})[lease_id] = url
        self.hashes[url]["in_flight"] = str(self.in_flight(url) + 1)
        if session := session_of(lease_id):
            self.affinity[session] = url
            self.fading.discard(session)

    def _serve(self, *, checked: int = 0) -> tuple[bool, int]:
        """Give room to who waits longest; return whether somebody comes before any newcomer, and how many got some.

        So many more were looked at, and dropped, whom the model has taken out already.
        """
        self.is_cut_short = checked == CHECKED_AT_ONCE
        if self.is_cut_short:
            return True, 0
        granted = 0
        for checks, waiter in enumerate(self.waiters(), start=1 + checked):
            router, lease_id = router_of(waiter), lease_id_of(waiter)
            if router not in self.routers:
                del self.queue[waiter]
            elif not self.is_given_up(router):
                url = self._choose(lease_id)
                self.is_cut_short = granted == GRANTS_AT_ONCE
                if self.is_cut_short or url is None:
                    return True, granted
                del self.queue[waiter]
                self._record(router, lease_id, url)
                self.inboxes.setdefault(router, []).append(
                    {
                        "id": Anything(),
                        "lease_id": lease_id,
                        "url": url,
                        "revision": str(self.hashes[url].get("revision", "0-0")),
                    }
                )
                granted += 1
            if checks == CHECKED_AT_ONCE:
                self.is_cut_short = True
                return True, granted
        return False, granted

    def _join(self, waiter: str, sequence: str) -> None:
        """Take the place that one had, by its own account or since its router died, or the next."""
        place = self.places.pop(session_of(waiter), None)
        last = exact(self.meta.get("queue_sequence", "0"))
        if sequence:
            place = known(int(sequence))
        if place is None:
            place = Sum(Number(max(last + 1, self._now.low), max(last + 1, self._now.high)))
        if least(place) > last:
            self.meta["queue_sequence"] = place
        self.queue[waiter] = place


def router_of(waiter: str) -> str:
    return waiter.partition("/")[0]


def lease_id_of(waiter: str) -> str:
    return waiter.partition("/")[2]


def session_of(lease_id: str) -> str:
    """Return what stands for the session in a lease's id; empty where none was named."""
    return lease_id.partition(":")[2]


def known(number: int) -> Sum:
    return Sum(Number(number, number))


def least(value: Value) -> int:
    """Return a number, or the least that it may be where it is not settled yet."""
    return value.low if isinstance(value, Sum) else exact(value)
