"""What an asked router does: probe once on a fresh connection, and give its opinion."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.support.model.verdicts.keyspace import Event

if TYPE_CHECKING:
    from tests.support.model.verdicts.process import Process

GATHER = 100


class Answering:
    """Answers suspicions, each once."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.answered: set[str] = set()
        self.queue: list[tuple[str, str, str]] = []
        self.under_way = 0
        self.opinions: list[tuple[str, str, str, str]] = []

    def notice(self, url: str, record: Event) -> None:
        question_id = record["suspicion"]
        if not question_id or self.process.key not in record["asked"] or question_id in self.answered:
            return
        self.answered.add(question_id)
        self.queue.append((url, record["incarnation"], question_id))
        self._probe_next()

    def _probe_next(self) -> None:
        while self.queue and self.under_way < self.process.settings.answers_at_once:
            self.under_way += 1
            url, incarnation, question_id = self.queue.pop(0)
            self.process.probe(
                url,
                "asked",
                partial(self._answer, url, incarnation, question_id),
                is_fresh=self.process.rules.has("opinions are fresh"),
            )

    def _answer(self, url: str, incarnation: str, question_id: str, result: str) -> None:
        self.under_way -= 1
        if not self.opinions:
            self.process.after(GATHER * (result != "ok"), self._send)
        self.opinions.append((url, incarnation, question_id, result))
        self._probe_next()

    def _send(self) -> None:
        opinions, self.opinions = self.opinions, []
        self._give(opinions)

    def _give(self, opinions: list[tuple[str, str, str, str]]) -> None:
        settings = self.process.settings
        until = self.process.now + settings.timeout + settings.grace

        def take(reply: list[str]) -> None:
            later = [opinion for opinion, word in zip(opinions, reply, strict=True) if word == "later"]
            if later:
                self._give(later)

        self.process.insist("give_opinion", self.process.key, opinions, until=until, then=take)
