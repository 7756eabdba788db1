"""Which replica a session gets, and who waits for one: what all commands that make room end with."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tests.support.model.keyspace import Keyspace
from tests.support.model.values import Anything, Number, Sum, Value, exact, session_of

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

    def _is_panic(self) -> bool:
        ready = self.ready()
        healthy = len(ready.primary) + len(ready.secondary) + len(ready.full)
        counted = healthy + len(ready.answered)
        return counted > 0 and healthy / counted < float(str(self.meta.get("panic_percent", "0"))) / 100

    def _choose(self, lease_id: str, avoided: Collection[str] = (), excluded: Collection[str] = ()) -> str | None:
        ready = self.ready()
        return self._choose_in(ready.primary, ready.secondary, lease_id, avoided, excluded)

    def _choose_spare(self, lease_id: str, avoided: Collection[str] = (), excluded: Collection[str] = ()) -> str | None:
        ready = self.ready()
        if not self._is_panic():
            return None
        return self._choose_in(ready.spare_primary, ready.spare_secondary, lease_id, avoided, excluded)

    def _choose_in(
        self,
        first: Mapping[str, float],
        second: Mapping[str, float],
        lease_id: str,
        avoided: Collection[str],
        excluded: Collection[str],
    ) -> str | None:
        bound = self.affinity.get(session_of(lease_id))
        for unwanted in ({*avoided, *excluded}, {*excluded}):
            if bound in first.keys() | second.keys() and bound not in unwanted:
                return bound
            for tier in (first, second):
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

    def _serve(self, *, checked: int = 0) -> tuple[bool, int, bool]:  # noqa: C901  one rule, told in one piece
        """Give free slots to the sessions that have waited longest.

        Return whether somebody comes before any newcomer, how many got some, and whether somebody comes before any
        newcomer in a panic too.

        So many more were looked at, and dropped, whom the model has taken out already.
        """
        self.is_cut_short = checked == CHECKED_AT_ONCE
        if self.is_cut_short:
            return True, 0, True
        granted, is_left = 0, False
        for checks, waiter in enumerate(self.waiters(), start=1 + checked):
            router, lease_id = router_of(waiter), lease_id_of(waiter)
            if router not in self.routers:
                del self.queue[waiter]
            elif not self.is_given_up(router):
                self.is_cut_short = granted == GRANTS_AT_ONCE
                if self.is_cut_short:
                    return True, granted, True
                url = self._choose(lease_id)
                ready = self.ready()
                has_spares = self._is_panic() and bool(ready.spare_primary or ready.spare_secondary)
                is_spare = url is None and has_spares and "~healthy" not in lease_id
                if is_spare:
                    url = self._choose_spare(lease_id)
                if url is None and not has_spares:
                    return True, granted, True
                if url is None:
                    is_left = True
                    if checks == CHECKED_AT_ONCE:
                        self.is_cut_short = True
                        return True, granted, True
                    continue
                del self.queue[waiter]
                self._record(router, lease_id, url)
                self.inboxes.setdefault(router, []).append(
                    {
                        "id": Anything(),
                        "lease_id": lease_id,
                        "url": url,
                        "revision": str(self.hashes[url].get("revision", "0-0")),
                        **({"is_spare": "1"} if is_spare else {}),
                    }
                )
                granted += 1
            if checks == CHECKED_AT_ONCE:
                self.is_cut_short = True
                return True, granted, True
        return is_left, granted, False

    def _join(self, waiter: str, sequence: str) -> None:
        """Take the place that one had, by its own account or since its router died, or the next."""
        self.queue[waiter] = self._sequence_of(waiter, sequence)
        self.places.pop(session_of(waiter), None)

    def _sequence_of(self, waiter: str, sequence: str) -> Sum:
        """Return the place that one has or had, or the next, which is nobody else's from then on."""
        place = self.queue.get(waiter) or (known(int(sequence)) if sequence else self.places.get(session_of(waiter)))
        last = exact(self.meta.get("queue_sequence", "0"))
        if place is None:
            place = Sum(Number(max(last + 1, self._now.low), max(last + 1, self._now.high)))
        if least(place) > last or "queue_sequence" not in self.meta:
            self.meta["queue_sequence"] = place
        return place


def router_of(waiter: str) -> str:
    return waiter.partition("/")[0]


def lease_id_of(waiter: str) -> str:
    return waiter.partition("/")[2]


def known(number: int) -> Sum:
    return Sum(Number(number, number))


def least(value: Value) -> int:
    """Return a number, or the least that it may be where it is not settled yet."""
    return value.low if isinstance(value, Sum) else exact(value)
