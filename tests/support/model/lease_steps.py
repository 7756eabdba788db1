"""Steps on leases. What a router holds, as it knows itself, outlives a loss of history; so it can put it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared_registry.store.replies import Denial, Denied, Departure, Grant, Queued, Restored
from tests.support.model.steps import Steps, pick
from tests.support.model.values import agree

Answer = Grant | Queued | Denied

NEVER, AT_ONCE, EVEN_LATER = "never", "at once", "even later"
"""When a session takes a replica that is not healthy: never, only before it waits, or while it waits too."""
NEVER_WAS = "0000000d0000"


class LeaseSteps(Steps):
    """Acquire, release and put back, with ids that are new, held, ended, another router's, or never were."""

    def __init__(self) -> None:
        super().__init__()
        self._known: list[dict[str, str]] = [{} for _ in range(self.router_count)]

    def acquire(
        self,
        number: int,
        *,
        tie: int,
        session: str = "",
        avoided: Sequence[str] = (),
        excluded: Sequence[str] = (),
        times: int = 1,
        max_queue: int = 0,
        spare: str = EVEN_LATER,
        sequence: str = "",
    ) -> None:
        """Ask for some leases, of one session or of none; `tie` says which of the tied replicas they take."""
        for at in range(times):
            lease_id = self._new_id(tie + at, session, spare)
            self._ask(
                number,
                lease_id,
                avoided=avoided,
                excluded=excluded,
                max_queue=max_queue,
                sequence=sequence,
                takes_spare=spare != NEVER,
            )

    def probe(self, by: int, key: str, error: str, times: int) -> None:
        """What the leader does most: the same result of one replica some times."""
        if not self.expected.leader:
            self.campaign(by)
        for _ in range(times):
            self.report(by, leader=0, jump=1, limits=(3, 2), results=[(key, 0, error, 1.5)])

    def die(self, by: int, number: int, affinity_seconds: int, pieces: int) -> None:
        """A router beats no more for long, while the others do, and is reaped, or its reaping begins."""
        self.disturb_heartbeats(0, -1000)
        self.rewrite_expiry(number, -1000)
        while pieces and self.reap(by, number, affinity_seconds) is Departure.PARTIAL:
            pieces -= 1

    def ask_again(self, number: int, which: int) -> None:
        """Ask with an id that was asked for before, whatever became of it."""
        self._ask(number, self._id(number, which))

    def _ask(
        self,
        number: int,
        lease_id: str,
        *,
        avoided: Sequence[str] = (),
        excluded: Sequence[str] = (),
        max_queue: int = 0,
        sequence: str = "",
        takes_spare: bool = True,
    ) -> None:
        router = self.routers[number]
        answers: list[Answer] = []

        async def command() -> None:
            answers.append(
                await router.store.acquire(
                    lease_id,
                    max_queue=max_queue,
                    sequence=sequence,
                    takes_spare=takes_spare,
                    avoided=avoided,
                    excluded=excluded,
                )
            )

        def effect() -> str:
            status = self.expected.acquire_lease(
                router=router.name,
                lease_id=lease_id,
                avoided=avoided,
                excluded=excluded,
                max_queue=max_queue,
                sequence=sequence,
                takes_spare=takes_spare,
            )
            self._expect_answer(number, lease_id, status, answers[-1])
            return status

        self.do_repeatably(command, effect)

    def _expect_answer(self, number: int, lease_id: str, status: str, answer: Answer) -> None:
        expected = self.expected
        if expected.granted:
            assert isinstance(answer, Grant)
            assert (answer.key, answer.revision, answer.is_spare) == (*expected.granted, expected.is_spare)
            assert answer.has_returned == (status == "returned")
            assert agree(expected.sequence, answer.sequence)
            self._known[number][lease_id] = answer.key
        elif status == "waiting":
            name = self.routers[number].name
            assert isinstance(answer, Queued)
            assert agree(expected.queue[f"{name}/{lease_id}"], answer.sequence)
            assert (answer.position, answer.depth) == (expected.positions(name)[lease_id], expected.depth)
        else:
            assert answer == Denied(Denial(status), expected.depth)

    def take_over(self, number: int, which: int) -> None:
        """Move a lease to a router, unless two others have one of that id: which of them gives it is not promised."""
        router, lease_id = self.routers[number], self._id(number, which)
        holders = [name for name, leases in self.expected.leases.items() if name != router.name and lease_id in leases]
        if len(holders) > 1:
            return
        answers: list[Grant | Denied | None] = []

        async def command() -> None:
            answers.append(await router.store.take_over(lease_id))

        def effect() -> str:
            status = self.expected.take_over_lease(router=router.name, lease_id=lease_id)
            if granted := self.expected.granted:
                assert answers[-1] == Grant(*granted)
                self._known[number][lease_id] = granted[0]
            else:
                assert answers[-1] == (None if status == "not_found" else Denied(Denial(status)))
            return status

        self.do(command, effect)

    def release(self, number: int, which: int, affinity_seconds: int) -> None:
        self._release(number, self._id(number, which), affinity_seconds)

    def release_all_on(self, key: str, affinity_seconds: int) -> None:
        """End every session on a replica, whoever holds them, as when it drains."""
        for number, router in enumerate(self.routers):
            for lease_id, url in list(self.expected.leases.get(router.name, {}).items()):
                if url == key:
                    self._release(number, lease_id, affinity_seconds)

    def _release(self, number: int, lease_id: str, affinity_seconds: int) -> None:
        router = self.routers[number]
        self.write(
            router,
            lambda: router.store.release(lease_id, affinity_seconds=affinity_seconds),
            lambda: self.expected.release_lease(
                router=router.name, lease_id=lease_id, affinity_ms=affinity_seconds * 1000
            ),
        )

    def restore(self, number: int, held: Sequence[tuple[int, str | None]], new: Sequence[tuple[str, str]] = ()) -> None:
        """Put back known leases, where they were or elsewhere, and some of which Redis has never heard."""
        leases = {}
        for which, url in held:
            lease_id = self._id(number, which)
            leases[lease_id] = url or self._known[number].get(lease_id, "http://unknown")
        leases |= {self._new_id(0, session): url for session, url in new}
        self._restore(number, leases)

    def add_degraded_leases(self, number: int, key: str, sessions: int) -> None:
        """Put back so many at once that reaping, and leaving, takes several calls."""
        self._restore(number, {self._new_id(0, ""): key for _ in range(sessions)})

    def _restore(self, number: int, leases: Mapping[str, str]) -> None:
        router = self.routers[number]
        answers: list[Restored | None] = []

        async def command() -> None:
            answers.append(await router.store.restore_leases(leases))

        def effect() -> str:
            status = self.expected.restore_leases(router=router.name, leases=leases)
            answer = answers[-1]
            found = answer and (answer.count, set(answer.over_capacity), set(answer.not_there))
            assert found == self.expected.restored
            self._known[number] |= leases
            return status

        self.do_repeatably(command, effect)

    def forget_session(self, session: str) -> None:
        """Let the time pass for which a session finds its replica again."""
        if session not in self.expected.fading:
            return

        def effect() -> None:
            del self.expected.affinity[session]
            self.expected.fading.discard(session)

        self.do(lambda: self.bench.raw.delete(self.bench.keys.affinity_prefix + session), effect)

    def _new_id(self, tie: int, session: str, spare: str = EVEN_LATER) -> str:
        lease_id = f"{tie:08x}{next(self._serial):04x}" + ("" if spare == EVEN_LATER else "~healthy")
        return f"{lease_id}:{session}" if session else lease_id

    def _id(self, number: int, which: int) -> str:
        """Return the id of a lease that the router holds, or held; past these, of another router's, or of none."""
        others = [lease_id for known in self._known for lease_id in known]
        return pick([*reversed(self._known[number]), *others[:1], NEVER_WAS], which)
