"""Steps on the queue: joining it, asking again, giving up, and what may have become of it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.model.bench import now_ms
from tests.support.model.lease_steps import EVEN_LATER, NEVER, NEVER_WAS, Answer, LeaseSteps
from tests.support.model.queue_rules import known
from tests.support.model.steps import pick

UNLISTED_ROUTER = "gone~1"
"""A router that is none, of which waiters may be found all the same."""


class QueueSteps(LeaseSteps):
    """Wait with ids that are new, in the queue, served, given up, another router's, or never were."""

    def __init__(self) -> None:
        super().__init__()
        self._sequences: list[dict[str, str]] = [{} for _ in range(self.router_count)]

    def wait(
        self,
        number: int,
        *,
        tie: int,
        session: str = "",
        avoided: Sequence[str] = (),
        excluded: Sequence[str] = (),
        times: int = 1,
        max_queue: int = 99,
        spare: str = EVEN_LATER,
        sequence: str = "",
    ) -> None:
        """Ask for some leases, and join the line where there are none."""
        for at in range(times):
            lease_id = self._new_id(tie + at, session, spare)
            self._wait(number, lease_id, max_queue, sequence, avoided, excluded, takes_spare=spare != NEVER)

    def poll(self, number: int, which: int, *, brings: int, max_queue: int = 99) -> None:
        """Ask again for one, with its last sequence for 0, with another's, or with none."""
        lease_id = self._waiter(number, which)
        sequences = self._sequences[number]
        others = [sequence for one, sequence in sequences.items() if one != lease_id]
        sequence = pick([sequences.get(lease_id, ""), *others[-1:], ""], brings)
        self._wait(number, lease_id, max_queue, sequence, (), ())

    def ask_last(self, number: int, which: int) -> None:
        """Ask once more, and wait no more."""
        self._ask(number, self._waiter(number, which), (), ())

    def abandon(self, number: int, which: int, affinity_seconds: int) -> None:
        """Give up a place, or the slot that has come meanwhile."""
        self._release(number, self._waiter(number, which), affinity_seconds)

    def abandon_all(self, number: int, affinity_seconds: int) -> None:
        """Give up all places of a router, the last first."""
        for lease_id in self.expected.waiting_of(self.routers[number].name)[::-1]:
            self._release(number, lease_id, affinity_seconds)

    def hold_waiting(self, number: int, which: int, key: str) -> None:
        """Put back a lease for one that waits, as one that was placed while Redis was away."""
        self._restore(number, {self._waiter(number, which): key})

    def forget_sequence(self, session: str) -> None:
        """Let the time pass within which a session may come back to its place."""
        if session not in self.expected.places:
            return

        def effect() -> None:
            del self.expected.places[session]

        self.do(lambda: self.bench.raw.delete(self.bench.keys.sequence_prefix + session), effect)

    def plant_unlisted(self, *, session: str, is_first: bool, has_inbox: bool) -> None:
        """Let one wait of a router that is none, as after a failover that lost some writes; perhaps with an inbox."""
        waiter = f"{UNLISTED_ROUTER}/{self._new_id(0, session)}"

        async def command() -> None:
            keys, sequence = self.bench.keys, 1 if is_first else now_ms()
            await self.bench.raw.zadd(keys.queue, {waiter: sequence})
            self.expected.queue[waiter] = known(sequence)
            if has_inbox and UNLISTED_ROUTER not in self.expected.inboxes:
                entry = await self.bench.raw.xadd(keys.inbox(UNLISTED_ROUTER), {"lease_id": NEVER_WAS})
                self.expected.inboxes[UNLISTED_ROUTER] = [{"id": entry, "lease_id": NEVER_WAS}]

        self.do(command, lambda: None)

    def repair(self, number: int) -> None:
        """What `check --repair` does, with every replica and every router that is none, whether it is needed or not."""
        router = self.routers[number]
        if not self.expected.events:
            return
        answers: list[int] = []

        async def command() -> None:
            answers.append(
                await router.store.repair(
                    urls=sorted(self.expected.hashes),
                    routers=sorted(self.expected.unlisted()),
                    first_event="",
                    by="operator",
                )
            )

        def effect() -> str:
            status = self.expected.repair_namespace(router=router.name, by="operator")
            assert answers[-1] == self.expected.repaired
            return status

        self.do_repeatably(command, effect)

    def _wait(
        self,
        number: int,
        lease_id: str,
        max_queue: int,
        sequence: str,
        avoided: Sequence[str],
        excluded: Sequence[str],
        *,
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
            if status == "waiting":
                self._sequences[number][lease_id] = str(self.expected.queue[f"{router.name}/{lease_id}"])
            return status

        self.do_repeatably(command, effect)

    def _waiter(self, number: int, which: int) -> str:
        """Return the id of one that waits, or once did; past these, of another router's, or of none."""
        waiting = self.expected.waiting_of(self.routers[number].name)
        former = [lease_id for lease_id in reversed(self._sequences[number]) if lease_id not in waiting]
        others = [lease_id for sequences in self._sequences for lease_id in sequences]
        return pick([*waiting[:3], *former[:4], *others[:1], NEVER_WAS], which)
