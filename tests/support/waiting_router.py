"""A queue made up for tests: where sessions stand, what the inbox says, and a store with answers of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Sequence
from typing import cast

from shared_registry.aio.clock import finish_by
from shared_registry.aio.completion import completed
from shared_registry.errors import StoreError
from shared_registry.happenings import Emitter
from shared_registry.leases.lease_news import LeaseNews
from shared_registry.leases.queue import RouterQueue
from shared_registry.model import ORIGIN
from shared_registry.store.commands import Progress, Store
from shared_registry.store.reader import Reader
from shared_registry.store.replies import Denial, Denied, Grant, Queued
from tests.support.fake_clock import FakeClock

ROUTER = "r~1"


class ScriptedQueue:
    """What Redis has of the line, and what was read of it when.

    Attributes:
        position_of: Position of this router's sessions, by lease id.
        inbox: The lease ids of wake-ups; ids count from 1.
        errors: What the next reads raise, by name, first come first.
        asked: When positions were read, and of whom.
        read_after: From where the inbox was read, each time.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.position_of: dict[str, int] = {}
        self.depth = 9
        self.inbox: list[str] = []
        self.errors: dict[str, list[StoreError]] = {}
        self.asked: list[tuple[float, list[str]]] = []
        self.read_after: list[str] = []
        self._clock = clock
        self._changed = asyncio.Event()

    def as_reader(self) -> Reader:
        return cast("Reader", self)

    def queue(self, *, is_known: Callable[[str], bool], on_orphaned_lease: Callable[[], None]) -> RouterQueue:
        return RouterQueue(
            self.as_reader(),
            router=ROUTER,
            is_known=is_known,
            on_orphaned_lease=on_orphaned_lease,
            news=LeaseNews(Emitter(), self._clock),
            clock=self._clock,
            rng=random.Random(1),
        )

    def wake(self, lease_id: str) -> None:
        self.inbox.append(lease_id)
        self._changed.set()

    async def during(self, call: str) -> None:
        """Do what happens while a read is under way; for a test to replace."""

    async def positions(self, router: str, lease_ids: Sequence[str]) -> tuple[int, dict[str, int]]:
        assert router == ROUTER
        self.asked.append((self._clock.monotonic(), list(lease_ids)))
        self._fail_if_set("positions")
        found = {one: self.position_of[one] for one in lease_ids if one in self.position_of}
        await self.during("positions")
        return self.depth, found

    async def wait_inbox(self, router: str, *, after: str, seconds: float) -> tuple[str, dict[str, Grant]]:
        assert router == ROUTER
        self.read_after.append(after)
        self._fail_if_set("wait_inbox")
        at = int(after.partition("-")[0])
        if at >= len(self.inbox):
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await finish_by(self._clock, self._clock.monotonic() + seconds, self._changed.wait())
        grants = {lease_id: Grant("http://10.0.0.1:8000", "1-0") for lease_id in self.inbox[at:]}
        return (f"{len(self.inbox)}-0" if self.inbox else ORIGIN), grants

    def _fail_if_set(self, call: str) -> None:
        if self.errors.get(call):
            raise self.errors[call].pop(0)


Answer = Grant | Queued | Denied | StoreError


class ScriptedAsking:
    """A store that gives these answers, one after the other; the last one for ever.

    Attributes:
        answers: To a session that may wait.
        last_answers: To one that may not, or no longer.
        calls: What was asked when: `wait` and the sequence, or `acquire` where the session may not wait.
        patience: How long each call would have waited for its turn.
    """

    def __init__(self, clock: FakeClock, *answers: Answer) -> None:
        self.answers = list(answers)
        self.last_answers: list[Answer] = []
        self.calls: list[tuple[float, str]] = []
        self.patience: list[float | None] = []
        self.max_queue = 7
        self.ended_waits: list[str] = []
        self.avoided: list[Collection[str]] = []
        self.excluded: list[Collection[str]] = []
        self._clock = clock

    def as_store(self) -> Store:
        return cast("Store", self)

    @property
    def called(self) -> list[str]:
        return [call for _, call in self.calls]

    async def during(self, call: str) -> None:
        """Do what happens while a call is under way; for a test to replace."""

    async def until_its_turn(self) -> None:
        """Wait as a call does before it is sent; for a test to replace."""

    def end_waits(self, reason: str) -> None:
        self.ended_waits.append(reason)

    async def acquire(
        self,
        lease_id: str,
        *,
        max_queue: int,
        sequence: str,
        takes_spare: bool,
        avoided: Collection[str],
        excluded: Collection[str],
        patience_seconds: float | None,
        progress: Progress,
    ) -> Grant | Queued | Denied:
        is_sent = False

        async def call() -> Grant | Queued | Denied:
            nonlocal is_sent
            await self.until_its_turn()
            progress.sent()
            is_sent = True
            assert lease_id == "a"
            if max_queue:
                assert max_queue == self.max_queue
                answer = await self._answer(self.answers, f"wait {sequence}".rstrip(), avoided, excluded)
            else:
                assert not sequence
                answer = await self._answer(self.last_answers, "acquire", avoided, excluded)
            if not (isinstance(answer, Denied) and answer.reason is Denial.NOT_REGISTERED):
                progress.is_in_doubt = False
            return answer

        self.patience.append(patience_seconds)
        return await completed(call(), is_begun=lambda: is_sent)

    async def _answer(
        self, answers: list[Answer], call: str, avoided: Collection[str], excluded: Collection[str]
    ) -> Grant | Queued | Denied:
        self.calls.append((self._clock.monotonic(), call))
        self.avoided.append(avoided)
        self.excluded.append(excluded)
        await self.during(call)
        answer = answers[0] if len(answers) == 1 else answers.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return answer
