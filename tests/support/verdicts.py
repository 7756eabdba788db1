"""Several routers that judge replicas by commands, each on a machine of its own: what tests of the scripts need."""

from __future__ import annotations

import time
from dataclasses import replace

from shared_registry.model import Opinion, OpinionKind, ProbeResult, Term, Thresholds
from shared_registry.store.replies import Opinions
from tests.support.space import A, Space, info

INTERVAL, TIMEOUT = 5.0, 2.0
LIMITS = Thresholds(failure=3, recovery=2, interval_seconds=INTERVAL, timeout_seconds=TIMEOUT)
LEADER, TWO, THREE, FOUR, FIVE = (f"router~{number}" for number in range(1, 6))
EXPIRY_MS = 60_000
DOUBT = {
    "suspicion",
    "suspected_by",
    "suspected_until_ms",
    "suspected_address",
    "asked",
    "unreached_by",
    "reached_by",
    "refuted_prober",
    "prober",
    "prober_until_ms",
    "prober_report",
}


class Verdicts:
    """One namespace with a leader and other routers that probe, each on a machine of its own."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.epoch = 0
        self.batch = 0

    async def join(self, *routers: str, probe_print: str = "same", machine: str = "") -> None:
        for router in routers:
            described = replace(info(router), machine=machine or f"of-{router}", probe_print=probe_print)
            await self.space.store_of(router).heartbeat(described, expiry_seconds=EXPIRY_MS / 1000)
        self.begin_steady_state()

    def begin_steady_state(self) -> None:
        """Make the first heartbeats of the test ones that follow others: there was no outage."""
        meta, now = self.space.keys.meta, self.space.now_ms()
        self.space.raw.hset(meta, mapping={"reap_after_ms": now - 1, "heartbeats_resumed_at_ms": now - EXPIRY_MS})
        self.space.raw.hset(meta, "reap_until_ms", now + EXPIRY_MS)

    async def lead(self) -> None:
        self.epoch = await self.space.elect()

    async def probe(self, *results: ProbeResult, limits: Thresholds = LIMITS) -> None:
        """Report results of the leader, in as many calls as it takes."""
        while results:
            self.batch += 1
            report = await self.space.store.report(Term(self.epoch, "token"), self.batch, results, limits)
            results = results[report.done :]

    async def fail(self, times: int, url: str = A) -> None:
        for _ in range(times):
            await self.probe(self.space.failure(url))

    async def answer(self, router: str, *, ok: bool | None, url: str = A, question: str | None = None) -> Opinions:
        """Answer the open question: yes, no, or unsure for `None`."""
        result = self.space.success(url) if ok else self.space.failure(url)
        if ok is None:
            result = replace(result, is_unsure=True)
        suspicion = self.state(url).get("suspicion", "") if question is None else question
        return await self.say(router, OpinionKind.OPINION, suspicion, result)

    async def say(self, router: str, kind: OpinionKind, opinion_id: str, result: ProbeResult) -> Opinions:
        return await self.space.store_of(router).give_opinions([Opinion(kind, opinion_id, result)], LIMITS)

    def state(self, url: str = A) -> dict[str, str]:
        return self.space.fields(url)

    def status(self, url: str = A) -> str:
        return self.state(url)["status"]

    def doubt(self, url: str = A) -> set[str]:
        return self.state(url).keys() & DOUBT

    def let_an_interval_pass(self, url: str = A) -> None:
        time.sleep(0.002)  # the id of a question is its millisecond
        fields = self.state(url)
        for name in ("suspected_at_ms", "suspected_until_ms", "reported_at_ms"):
            if name in fields:
                self.space.raw.hset(self.space.keys.replica(url), name, int(fields[name]) - int(INTERVAL * 1000))

    def let_silence_end(self, url: str = A) -> None:
        self.space.raw.hset(self.space.keys.replica(url), "suspected_until_ms", self.space.now_ms() - 1)

    async def hand_over(self, router: str = TWO) -> None:
        """Let the leader be wrong twice, and that router reach the replica both times."""
        for _ in range(2):
            self.let_an_interval_pass()
            await self.fail(2)
            await self.answer(router, ok=True)
        assert self.state()["prober"] == router
