"""What the prober of many replicas does: the leader, or a participant in the plan. Schedule, batches and reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.model.verdicts.keyspace import Event
from tests.support.model.verdicts.weighing import hash_of

if TYPE_CHECKING:
    from tests.support.model.verdicts.process import Process

REPORT_AFTER = 100


@dataclass
class Outcome:
    """A result that is not reported yet."""

    url: str
    incarnation: str
    result: str
    at: int
    plan: int


class Probing:
    """Probes the replicas that are this router's."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.turns: dict[str, int] = {}
        self.due: dict[str, int] = {}
        self.failing: set[str] = set()
        self.reported: set[str] = set()
        self.waiting: list[Outcome] = []
        self.batch: list[Outcome] = []
        self.number = 0
        self.is_sending = False

    # whose

    def is_mine(self, url: str) -> bool:
        process = self.process
        record = process.view.get(url)
        if record is None or record["admin"] != "active":
            return False
        if process.settings.is_shared:
            participants = process.plan[1]
            if participants:
                return max(participants, key=lambda key: hash_of(url, key)) == process.key
        return process.leading.term is not None

    def owner(self, url: str) -> str:
        """Who probes it for all, as far as this router knows."""
        process = self.process
        if process.settings.is_shared and process.plan[1]:
            return max(process.plan[1], key=lambda key: hash_of(url, key))
        return process.leader

    def begin_term(self) -> None:
        """Probe as the leader from now on; what was probed lately comes an interval later."""
        self.number, self.batch, self.waiting = (self.number if self.process.settings.is_shared else 0), [], []
        self.is_sending = False
        self.process.read_all(then=self.take_over)

    def take_over(self, state: Event) -> None:
        process, settings = self.process, self.process.settings
        for url, record in process.view.items():
            if url in self.due or not self.is_mine(url):
                continue
            last, failures = state["results"].get(url, (-(10**12), 0))
            age = state["now"] - last
            is_pending = failures > 0 or record["status"] != "healthy" or not 0 <= age < settings.interval
            self.set(url, 0 if is_pending else settings.interval - age)

    def follow_plan(self) -> None:
        if not self.process.settings.is_shared:
            return
        for url in [url for url in self.due if not self.is_mine(url)]:
            self.drop(url)
        if any(url not in self.due and self.is_mine(url) for url in self.process.view):
            self.process.read_all(then=self.take_over)

    def end_term(self) -> None:
        if not self.process.settings.is_shared:
            for url in list(self.due):
                self.drop(url)
            self.waiting, self.batch = [], []

    def notice(self, url: str, record: Event) -> None:
        if url not in self.due and self.is_mine(url):
            self.set(url, 0)

    # when

    def set(self, url: str, delay: int) -> None:
        turn = self.turns[url] = self.turns.get(url, 0) + 1
        self.due[url] = self.process.now + delay
        self.process.after(delay, lambda: self._probe(url, turn))

    def drop(self, url: str) -> None:
        self.turns[url] = self.turns.get(url, 0) + 1
        self.due.pop(url, None)

    def hasten(self, urls: Iterable[str], *, is_fresh: bool = False) -> None:
        for url in urls:
            if url in self.due and self.process.now < self.due[url] < self.process.now + 10**9:
                if is_fresh:
                    self.reported.add(url)
                self.set(url, 0)

    def _probe(self, url: str, turn: int) -> None:
        if self.turns[url] != turn:
            return
        if not self.is_mine(url):
            self.drop(url)
            return
        process = self.process
        record = process.view[url]
        self.due[url] = 10**15
        is_fresh = (
            url in self.failing or url in self.reported or bool(record["suspicion"]) or record["status"] != "healthy"
        )
        self.reported.discard(url)
        plan = process.plan[0]
        process.probe(
            url,
            "prober",
            lambda result: self._take(url, turn, plan, record["incarnation"], result),
            is_fresh=is_fresh and process.rules.has("failing is fresh"),
        )

    def _take(self, url: str, turn: int, plan: int, incarnation: str, result: str) -> None:
        process, settings = self.process, self.process.settings
        if self.turns[url] != turn and not process.settings.is_shared:
            return
        if result == "ok":
            self.failing.discard(url)
        else:
            self.failing.add(url)
        self.waiting.append(Outcome(url, incarnation, result, process.now, plan))
        self._send_soon()
        if self.turns[url] != turn:
            return
        record = process.view[url]
        is_healthy = record["status"] == "healthy"
        is_good = is_healthy if result == "unsure" else result == "ok"
        is_pending = record["status"] == "unknown" or is_good is not is_healthy
        if record["incarnation"] != incarnation:
            self.set(url, 0)
        elif (is_pending and not self._is_known_to_be_handed_over(record)) or (result == "unsure" and is_healthy):
            self.set(url, settings.fast)
        else:
            jitter = process.rng.randrange(-settings.interval // 40, settings.interval // 40 + 1)
            self.set(url, settings.interval + jitter if url not in self.due else settings.interval)

    def _is_known_to_be_handed_over(self, record: Event) -> bool:
        """By the mirror, which does not learn of the end of a hand-over; so the rule is to go by the reply."""
        is_known = record["prober"] not in ("", self.process.key)
        return is_known and not self.process.rules.has("ignored failures are named")

    def _slow_down(self, urls: Iterable[str]) -> None:
        """Redis ignored these failures, as another router speaks for the replicas."""
        settings, now = self.process.settings, self.process.now
        for url in urls:
            if url in self.due and self.due[url] < now + settings.interval:
                self.set(url, settings.interval - REPORT_AFTER)

    # reports

    def _send_soon(self) -> None:
        if not self.is_sending:
            self.is_sending = True
            self.process.after(REPORT_AFTER + self.process.rng.randrange(REPORT_AFTER // 5), self._send)

    def _send(self) -> None:
        process = self.process
        term = process.leading.term
        if not process.settings.is_shared and term is None:
            self.is_sending = False
            return
        if not self.batch:
            self._fill_batch()
        if not self.batch:
            self.is_sending = False
            return
        results = [(one.url, one.incarnation, one.result) for one in self.batch]
        if process.settings.is_shared and process.plan[1]:
            process.call("report_share", process.key, self.batch[0].plan, self.number, results, then=self._take_reply)
        elif term is not None:
            process.call("report_probes", term.token, term.epoch, self.number, results, then=self._take_reply)
        else:
            self.is_sending = False

    def _fill_batch(self) -> None:
        """A batch has results of one plan: the one under which the probes began."""
        plan = self.waiting[0].plan if self.waiting else 0
        self.batch = [one for one in self.waiting if one.plan == plan or not self.process.settings.is_shared][:500]
        taken = {id(one) for one in self.batch}
        self.waiting = [one for one in self.waiting if id(one) not in taken]
        self.number += 1

    def _take_reply(self, reply: list[str] | None) -> None:
        process = self.process
        if reply is None:
            process.after(REPORT_AFTER, self._send)
            return
        batch, self.batch = self.batch, []
        self.is_sending = False
        if reply[0] == "fenced":
            process.leading.lose()
            return
        if reply[0] == "refused":
            process.read_all()
        if reply[0] == "applied" and process.rules.has("ignored failures are named"):
            self._slow_down(reply[2:])
        if reply[0] == "applied" and int(reply[1]) < len(batch) and process.rules.has("the rest goes again"):
            self.waiting[:0] = batch[int(reply[1]) :]
        if self.waiting:
            self.is_sending = True
            process.after(0 if reply[0] == "applied" else REPORT_AFTER, self._send)
