"""What every prober does for a replica that is not healthy: probe it when it is its turn, and tell of a success."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.model.verdicts.keyspace import Event
from tests.support.model.verdicts.weighing import hash_of

if TYPE_CHECKING:
    from tests.support.model.verdicts.process import Process

AT_ONCE = 50


class Appealing:
    """One more prober an interval, in turn."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.cases: dict[str, tuple[str, str, int]] = {}
        self.under_way: set[str] = set()

    def notice(self, url: str, record: Event) -> None:
        rules = self.process.rules
        is_case = record["status"] != "healthy" and record["admin"] == "active" and rules.has("appeals")
        if record["status"] == "unknown" and not rules.has("appeals for new ones"):
            is_case = False
        case = (record["incarnation"], record["status"], record["since"])
        if not is_case:
            self.cases.pop(url, None)
        elif self.cases.get(url) != case:
            self.cases[url] = case
            self._turn(url, case)

    def _turn(self, url: str, case: tuple[str, str, int]) -> None:
        """Called at each interval since the verdict: probe if it is this router's turn."""
        process, interval = self.process, self.process.settings.interval
        if self.cases.get(url) != case:
            return
        record = process.view[url]
        age = max(0, process.server_now - record["since"] + 5)
        number = age // interval
        process.after(interval - age % interval, lambda: self._turn(url, case))
        if url in self.under_way or not self._is_turn(url, record, number):
            return
        if age % interval > interval // 2 and age > interval:
            return  # the turn of a router that learned of it late is not made up for
        if number > 0 or process.rules.has("the first at once"):
            self.under_way.add(url)
            self._probe(url, case, 0)

    def _is_turn(self, url: str, record: Event, number: int) -> bool:
        process = self.process
        owner = process.probing.owner(url)
        judges = record["judged_by"]
        order = sorted(
            (key for key in process.probers if key != owner),
            key=lambda key: (key in judges, hash_of(url, record["incarnation"], key)),
        )
        if not process.rules.has("not only the asked"):
            order = [key for key in order if key in judges] or order
        return bool(order) and order[number % len(order)] == process.key

    def _probe(self, url: str, case: tuple[str, str, int], successes: int) -> None:
        self.process.probe(url, "appeal", lambda result: self._take(url, case, successes, result), is_fresh=True)

    def _take(self, url: str, case: tuple[str, str, int], successes: int, result: str) -> None:
        process, settings = self.process, self.process.settings
        if result != "ok" or self.cases.get(url) != case:
            self.under_way.discard(url)
            return
        successes += 1

        def again() -> None:
            process.after(settings.fast, lambda: self._probe(url, case, successes))

        def take(reply: list[str] | None) -> None:
            if reply is not None and reply[0] == "more":
                again()
            else:
                self.under_way.discard(url)

        is_young = case[1] == "unknown" or process.server_now - case[2] <= settings.young
        if is_young or successes >= settings.recovery or not process.rules.has("old verdicts need several"):
            process.call("appeal", process.key, url, case[0], successes, then=take)
        else:
            again()
