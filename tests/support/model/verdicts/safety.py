"""S1 to S4: no verdict without its grounds, no effect of a stale word, no effect of a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.model.verdicts.keyspace import Replica
    from tests.support.model.verdicts.process import Process
    from tests.support.model.verdicts.recorder import Facts, Question, Recorder

WORDS = ("report_handover", "appeal", "report_own_failure")


class Safety:
    """Compares each change with what Redis was told."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.world = recorder.world
        self._stale: dict[str, str] = {}
        self._statuses: dict[str, str] = {}
        self._failed: dict[tuple[str, str], int] = {}

    # S1 and S4

    def had_peer(self, by: str) -> bool:
        """Whether another router like this one lives and has sent a heartbeat within an expiry that Redis was up."""
        recorder, expiry = self.recorder, self.world.settings.expiry
        own = recorder.beats.get(by, (0, "print"))[1]
        is_after_outage = recorder.outage_at >= 0 and self.world.now - recorder.redis_since <= expiry - 1000
        for process in self.world.processes.values():
            at, probe_print = recorder.beats.get(process.key, (-(10**9), ""))
            is_fresh = self.world.now - at < expiry - 100
            if is_after_outage and recorder.outage_at - at < expiry - 100:
                is_fresh = True
            if process.key != by and is_fresh and probe_print == own:
                return True
        return False

    def turned_unhealthy(self, url: str, facts: Facts, caller: Process | None, name: str) -> None:
        if name == "report_own_failure":
            self._check_outvoted(url, caller)
            return
        question, settings = facts.question, self.world.settings
        by = question.by if question is not None else caller.key if caller is not None else ""
        if not self.had_peer(by):
            if question is None and facts.peak < settings.failure:
                self.recorder.violate("S1", f"{url} without a peer after {facts.peak} failures")
            return
        if question is None:
            self.recorder.violate("S1", f"{url} although nobody was asked")
            return
        if not self._has_grounds(facts, question):
            said = dict(question.said)
            age = self.world.now - question.at
            self.recorder.violate("S1", f"{url} after {facts.peak} failures, {said} of {question.asked}, {age} ms")
        self._check_reached(url, facts, question)

    def _check_outvoted(self, url: str, caller: Process | None) -> None:
        """Without peers, too, one router's sessions do not take out what another one reaches all the time."""
        world = self.world
        for process in world.processes.values():
            is_well = process is not caller and world.network.reaches(process.slot, url)
            if is_well and self.recorder.counts[f"session {process.key} ok"] and not world.probing_slots:
                self.recorder.violate("S4", f"sessions of one router took {url} out, which {process.key} reaches")

    def _has_grounds(self, facts: Facts, question: Question) -> bool:
        settings, recorder, now = self.world.settings, self.recorder, self.world.now
        words = [question.said.get(key) for key in question.asked]
        has_asked_reason = facts.peak >= settings.suspects_at or (question.is_unsure and facts.unsure >= 0)
        if all(words) and "failed" in words and "ok" not in words and has_asked_reason:
            return True
        if facts.peak < settings.failure or "ok" in words:
            return False
        if "failed" in words:
            return True
        shift = recorder.clock_shift if recorder.clock_at > question.at else 0
        is_over = now - question.at + shift >= settings.timeout + settings.grace
        is_undisturbed = recorder.redis_since <= question.at and abs(shift) <= settings.expiry // 2
        return is_over and is_undisturbed and not question.is_unsure

    def _check_reached(self, url: str, facts: Facts, question: Question) -> None:
        """S4: whoever had to be asked and reaches the replica keeps it healthy."""
        recorder, world = self.recorder, self.world
        patience = world.settings.timeout + world.settings.grace
        since = question.at - patience
        if max(recorder.redis_since, recorder.clock_at) > since:
            return
        by = recorder.by_key(question.by)
        own = question.by.split(".")[0][1:]
        machine = by.machine if by is not None else world.machines[int(own)]
        peers = [key for key in question.machines if key != question.by]
        far = [key for key in peers if question.machines[key] != machine]
        for key in peers:
            process = recorder.by_key(key)
            if process is None or not recorder.is_able(process) or process.slot in world.network.exhausted:
                continue
            stable = max(recorder.disturbed.get(process.slot, 0), recorder.paths.get((process.slot, url), 0))
            if (
                not world.network.reaches(process.slot, url)
                or stable > since
                or process.print != world.prints[int(own)]
            ):
                continue
            has_refuted = facts.refuters.get(question.by) == key and key in far
            if len(peers) <= 3 or (key in far and len(far) <= 3) or has_refuted:
                recorder.violate("S4", f"{url} is unhealthy although {key} reaches it")

    def appealed(self, url: str, facts: Facts, before: str, arguments: tuple[Any, ...]) -> None:
        """What has been unhealthy for long returns after several successes in a row of one router."""
        settings, recorder = self.world.settings, self.recorder
        is_old = before == "unhealthy" and self.world.now - facts.changed_at > settings.young + 1000
        if is_old and recorder.clock_at <= facts.changed_at and recorder.runs[arguments[0], url] < settings.recovery:
            recorder.violate("V9", f"{url} is healthy again after one success")

    # S2

    def _snapshot(self, url: str) -> str:
        return repr(self.world.namespace.keys.replicas.get(url))

    def before(self, caller: Process | None, name: str, arguments: tuple[Any, ...]) -> None:
        keys = self.world.namespace.keys
        self._stale = {}
        for url, incarnation, *rest in self._words(name, arguments):
            is_stale = keys.replicas[url].incarnation != incarnation
            if name == "give_opinion":
                is_stale = is_stale or self._is_said_before(arguments[0], url, rest[0])
            if is_stale:
                self._stale[url] = self._snapshot(url)
        if name == "report_own_failure":
            self._statuses = {one: replica.status for one, replica in keys.replicas.items()}

    def _words(self, name: str, arguments: tuple[Any, ...]) -> list[tuple[str, ...]]:
        """What a command says about replicas: url, incarnation, and for opinions the suspicion."""
        if name == "give_opinion":
            return list(arguments[1])
        if name in ("report_probes", "report_share"):
            return list(arguments[-1])
        return [arguments[1:3]] if name in WORDS else []

    def _is_said_before(self, router: str, url: str, question_id: str) -> bool:
        """Whether nobody has asked this router so, or it has answered."""
        question = self.recorder.facts[url].question
        if question is None or question.id != question_id:
            return True
        return router not in question.asked or router in question.said

    def executed(self, caller: Process | None, name: str, arguments: tuple[Any, ...], reply: Any) -> None:
        for url, before in self._stale.items():
            if self._snapshot(url) != before and not self._has_other_word(url, name, arguments):
                self.recorder.violate("S2", f"{name} changed {url} by a stale word")
        if name == "report_own_failure" and self.had_peer(arguments[0]):
            statuses = {one: replica.status for one, replica in self.world.namespace.keys.replicas.items()}
            if statuses != self._statuses:
                self.recorder.violate("S3", f"a session changed the status of {arguments[1]}")

    def _has_other_word(self, url: str, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether the same call had another, valid word about this replica."""
        return sum(word[0] == url for word in self._words(name, arguments)) > 1

    # S3

    def opened(self, url: str, replica: Replica) -> None:
        if replica.admin == "active" and url not in self.world.namespace.ready() and replica.ejected_until <= 0:
            self.recorder.violate("S3", f"{url} left the ready set with a question")

    def session(self, process: Process, url: str, result: str) -> None:
        """What a router has just failed to reach comes last in its own choices."""
        if result in ("ok", "unsure"):
            self.recorder.counts[f"session {process.key} {result}"] += 1
            return
        liveness, facts = self.recorder.liveness, self.recorder.facts[url]
        is_told = self.recorder.is_able(process) and url not in process.unreached
        if is_told and facts.dead_since is not None and liveness.session_failed_at.get(url, -1) < facts.dead_since:
            liveness.session_failed_at[url] = self.world.now + self.world.settings.interval
        reachable = [
            one
            for one, record in process.view.items()
            if (record["status"], record["admin"]) == ("healthy", "active")
            and one not in process.unreached
            and one != url
        ]
        if url in process.unreached and reachable:
            self.recorder.violate("V7", f"{process.key} chose {url}, which it does not reach")
