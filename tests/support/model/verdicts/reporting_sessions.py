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

    def choose(self, rng_pick: int) -> str | None:
        """A healthy replica; what this router does not reach comes last."""
        process = self.process
        healthy = [
            url for url, record in process.view.items() if record["status"] == "healthy" and record["admin"] == "active"
        ]
        if process.rules.has("unreached comes last"):
            healthy = [url for url in healthy if url not in process.unreached] or healthy
        return healthy[rng_pick % len(healthy)] if healthy else None

    def come(self, rng_pick: int) -> None:
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

    def _testify(self, url: str, incarnation: str, result: str) -> None:
        """Report the failure again: a probe since then shows that it was not this router's own."""
        if result == "ok" and self.process.rules.has("witnesses probe"):
            self.process.call("report_own_failure", self.process.key, url, incarnation, "witness")
