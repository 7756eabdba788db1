"""What a router does with sessions: chooses a replica, and tells of a connect that failed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.model.verdicts.process import Process


class ReportingSessions:
    """Sessions that come to this router."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.told: dict[str, int] = {}
        self.watched: set[str] = set()

    def choose(self, rng_pick: int) -> str | None:
        """A healthy replica; what this router does not reach comes last."""
        process = self.process
        healthy = [
            url for url, record in process.view.items() if record["status"] == "healthy" and record["admin"] == "active"
        ]
        if process.rules.has("unreached comes last"):
            healthy = [url for url in healthy if url not in process.unreached] or healthy
        return healthy[rng_pick % len(healthy)] if healthy else None

    def come(self, rng_pick: int, client: str = "") -> None:
        """One session arrives."""
        process = self.process
        url = self.choose(rng_pick)
        if url is None or process.is_paused:
            return
        result, _ = process.world.network.try_fresh(process.slot, url)
        if process.world.recorder is not None:
            process.world.recorder.session(process, url, result)
        if url in process.world.network.broken:
            result = "broken"
        incarnation = process.view[url]["incarnation"]
        if result == "ok":
            self._serve(url, incarnation, client)
        if result == "ok" and not process.world.probing_slots:
            process.call("record_success", process.key, url, incarnation)
        if result in ("ok", "unsure"):
            return
        process.inheriting.hasten([url])
        if process.now - self.told.get(url, -(10**9)) >= 1000:
            self.told[url] = process.now
            if process.rules.has("sessions call the prober"):
                process.probing.hasten([url], is_fresh=True)
            process.call("report_own_failure", process.key, url, incarnation, "connect")
            if process.probes:
                process.probe(url, "session", partial(self._testify, url, incarnation), is_fresh=True)

    def _serve(self, url: str, incarnation: str, client: str) -> None:
        """Let a connected session break, or go well. A success counts only where a broken session was reported."""
        process = self.process
        breaks = process.world.network.crashing.get(url)
        if breaks is not None and breaks(process.slot, client):
            self.watched.add(url)
            process.call("report_broken", process.key, url, incarnation, client or process.key)
        elif url in self.watched:
            self.watched.discard(url)
            process.call("report_served", process.key, url, incarnation)

    def _testify(self, url: str, incarnation: str, result: str) -> None:
        """Report the failure again: a probe since then shows that it was not this router's own."""
        if result == "ok" and self.process.rules.has("witnesses probe"):
            self.process.call("report_own_failure", self.process.key, url, incarnation, "witness")
