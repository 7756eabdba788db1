"""What a router does with a replica that was handed to it: probe it at the interval, and report each result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.support.model.verdicts.keyspace import Event

if TYPE_CHECKING:
    from tests.support.model.verdicts.process import Process


class Inheriting:
    """Probes what was handed to this router, until Redis says that it is not its any more."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.turns: dict[str, int] = {}
        self.watched: set[str] = set()
        self.under_way: set[str] = set()

    def notice(self, url: str, record: Event) -> None:
        if record["prober"] == self.process.key and record["status"] == "healthy":
            if url not in self.watched:
                self.watched.add(url)
                self._set(url, self.process.settings.interval)
        elif url in self.watched:
            self._stop(url)

    def hasten(self, urls: Iterable[str]) -> None:
        for url in urls:
            if url in self.watched and url not in self.under_way:
                self._set(url, 0)

    def _set(self, url: str, delay: int) -> None:
        turn = self.turns[url] = self.turns.get(url, 0) + 1
        self.process.after(delay, lambda: self._probe(url, turn))

    def _stop(self, url: str) -> None:
        self.watched.discard(url)
        self.turns[url] = self.turns.get(url, 0) + 1

    def _probe(self, url: str, turn: int) -> None:
        if self.turns[url] != turn:
            return
        incarnation = self.process.view[url]["incarnation"]
        self.under_way.add(url)
        self.process.probe(url, "heir", lambda result: self._report(url, turn, incarnation, result), is_fresh=True)

    def _report(self, url: str, turn: int, incarnation: str, result: str) -> None:
        process, settings = self.process, self.process.settings
        self.under_way.discard(url)
        if self.turns[url] != turn:
            return
        self._set(url, settings.interval if result == "ok" else settings.fast)
        if result == "ok" and not process.rules.has("heirs report"):
            return

        def take(reply: list[str]) -> None:
            if reply[0] == "stale" and url in self.watched:
                self._stop(url)

        until = process.now + settings.interval
        process.insist("report_handover", process.key, url, incarnation, result, until=until, then=take)
