"""Steps on the queue: joining it, asking again, giving up, and what may have become of it meanwhile."""

from __future__ import annotations

from typing import Any

from tests.support.model.bench import now_ms
from tests.support.model.lease_steps import NEVER_WAS, Answer, LeaseSteps
from tests.support.model.queue_rules import known
from tests.support.model.steps import pick

UNLISTED_ROUTER = "gone~1"
"""A router that is none, of which waiters may be found all the same."""


class QueueSteps(LeaseSteps):
    """Wait with ids that are new, in the queue, served, given up, another router's, or never were."""

    def __init__(self) -> None:
        super().__init__()
        self._sequences: list[dict[str, str]] = [{} for _ in range(self.router_count)]

    def wait(self, number: int, *, max_queue: int = 99, **asked: Any) -> None:
        """Ask for some leases, and join the queue if no slot is free. Takes what `acquire` takes."""
        self.acquire(number, max_queue=max_queue, **asked)

    def poll(self, number: int, which: int, *, brings: int, max_queue: int = 99) -> None:
        """Ask again for one, with its last sequence for 0, with another's, or with none."""
        lease_id = self._waiter(number, which)
        sequences = self._sequences[number]
        others = [sequence for one, sequence in sequences.items() if one != lease_id]
        sequence = pick([sequences.get(lease_id, ""), *others[-1:], ""], brings)
        self._ask(number, lease_id, max_queue=max_queue, sequence=sequence)

    def ask_last(self, number: int, which: int) -> None:
        """Ask once more, and wait no more."""
        self._ask(number, self._waiter(number, which))

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
        answers: list[int] = []

        async def command() -> None:
            answers.append(
                await router.store.repair(
                    loads=dict.fromkeys(sorted(self.expected.hashes)),
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

    def _expect_answer(self, number: int, lease_id: str, status: str, answer: Answer) -> None:
        super()._expect_answer(number, lease_id, status, answer)
        if status == "waiting":
            self._sequences[number][lease_id] = str(self.expected.queue[f"{self.routers[number].name}/{lease_id}"])

    def _waiter(self, number: int, which: int) -> str:
        """Return the id of one that waits, or once did; past these, of another router's, or of none."""
        waiting = self.expected.waiting_of(self.routers[number].name)
        former = [lease_id for lease_id in reversed(self._sequences[number]) if lease_id not in waiting]
        others = [lease_id for sequences in self._sequences for lease_id in sequences]
        return pick([*waiting[:3], *former[:4], *others[:1], NEVER_WAS], which)
