"""Elections as a router takes part in them, and when a leader hands over the lead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.model.verdicts.process import Process

JITTER = 50
RETRY = 200


@dataclass
class Term:
    """A term of this router, and until when it may act by its own clock."""

    token: str
    epoch: int
    deadline: int


class Leading:
    """Campaign, renew, resign, and stand one lease later after having been wrong."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._term: Term | None = None
        self.token = ""
        self.tokens = 0
        self.turn = 0
        self.epoch = 0
        self.handicap_until = -1
        self.is_waiting = False
        self.refuted: dict[str, int] = {}
        self.asked_at = -(10**9)

    @property
    def term(self) -> Term | None:
        if self._term is not None and self.process.now >= self._term.deadline:
            self.lose()
        return self._term

    # elections

    def campaign(self) -> None:
        """Stand now, or one lease later during a handicap."""
        process = self.process
        if process.now >= self.handicap_until:
            self._ask()
        elif process.rules.has("no ban"):
            self._wait(process.settings.lease, self._ask)
        else:
            self._wait(self.handicap_until - process.now, self._ask)

    def _wait(self, delay: int, act: Callable[[], None]) -> None:
        turn = self.turn = self.turn + 1
        self.is_waiting = True

        def go() -> None:
            if self.turn == turn and self._term is None:
                self.is_waiting = False
                act()

        self.process.after(delay, go)

    def _ask(self) -> None:
        process = self.process
        if not self.token:
            self.tokens += 1
            self.token = f"{process.key}-{self.tokens}"
        asked_at = process.now
        self.is_waiting = False
        self.turn += 1

        def take(reply: list[str] | None) -> None:
            if reply is None:
                process.after(RETRY, self._ask)
            elif reply[0] == "elected":
                self._begin(int(reply[1]), asked_at)
            else:
                self.epoch = max(self.epoch, int(reply[2]))
                self._wait(int(reply[3]) + process.rng.randrange(JITTER), self.campaign)

        process.call("campaign", process.key, self.token, self.epoch, then=take)

    def notice_vacancy(self) -> None:
        if self.is_waiting and self._term is None:
            self.campaign()

    def _begin(self, epoch: int, asked_at: int) -> None:
        process = self.process
        deadline = asked_at + process.settings.lease * 9 // 10
        if process.now >= deadline:
            self.process.after(RETRY, self._ask)
            return
        self.epoch = epoch
        self._term = Term(self.token, epoch, deadline)
        process.leader = process.key
        self.refuted.clear()
        self._plan()
        process.probing.begin_term()
        process.after(process.settings.renew, lambda: self._renew(epoch))

    def _renew(self, epoch: int) -> None:
        process = self.process
        term = self.term
        if term is None or term.epoch != epoch:
            return
        asked_at = process.now

        def take(reply: list[str] | None) -> None:
            if self._term is not term:
                return
            if reply is None:
                process.after(RETRY, lambda: self._renew(epoch))
            elif reply[0] == "lost":
                self.lose()
            else:
                term.deadline = asked_at + process.settings.lease * 9 // 10
                process.after(process.settings.renew, lambda: self._renew(epoch))
                self._plan()

        process.call("renew", term.token, then=take)

    def _plan(self) -> None:
        if self.process.settings.is_shared and self._term is not None:
            self.process.call("write_current_plan", self._term.token)

    def lose(self) -> None:
        """The term is over; campaign under another token."""
        if self._term is None:
            return
        self._term = None
        self.token = ""
        self.process.probing.end_term()
        self.process.after(JITTER + self.process.rng.randrange(JITTER), self.campaign)

    # doubts about itself

    def note_refuted(self, urls: Iterable[str]) -> None:
        if self._term is None:
            return
        now, process = self.process.now, self.process
        for url in urls:
            self.refuted[url] = now
        lately = sum(now - at <= process.settings.young for at in self.refuted.values())
        probed = sum(record["admin"] == "active" for record in process.view.values())
        if lately >= max(1, probed / 4) and process.rules.has("wrong leaders resign"):
            self._resign(f"{lately} of {probed} replicas were reached by others")

    def _resign(self, reason: str) -> None:
        process, term = self.process, self.term
        if term is None or process.now - self.asked_at < process.settings.interval:
            return
        self.asked_at = process.now

        def take(reply: list[str] | None) -> None:
            if reply is None or reply[0] == "needed" or self._term is not term:
                return
            if process.rules.has("a handicap"):
                self.handicap_until = process.now + process.settings.handicap_leases * process.settings.lease
            self.lose()

        process.call("resign", term.token, reason, then=take)
