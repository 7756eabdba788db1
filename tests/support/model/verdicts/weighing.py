"""What one result does to a replica's hash: success, failure, doubt, question and verdict. Pure but for the clock."""

from __future__ import annotations

from hashlib import blake2b

from tests.support.model.verdicts.keyspace import LONG_AGO, NEVER, Keyspace, Replica, Suspicion
from tests.support.model.verdicts.settings import Rules, Settings


def hash_of(*parts: str) -> int:
    return int.from_bytes(blake2b(" ".join(parts).encode(), digest_size=6).digest(), "big")


class Weighing:
    """Applies results to replicas; commands are built of it."""

    def __init__(self, keys: Keyspace, settings: Settings, rules: Rules) -> None:
        self.keys = keys
        self.settings = settings
        self.rules = rules

    # who

    def is_after_outage(self) -> bool:
        """Whether heartbeats were missing within the last expiry, noticed by a heartbeat since or not yet."""
        keys = self.keys
        if self.rules.has("unnoticed outages ask anew") and self.is_outage_unnoticed():
            return True
        return keys.now < keys.reap_after

    def is_outage_unnoticed(self) -> bool:
        keys = self.keys
        return keys.heartbeat_at is None or not 0 <= keys.now - keys.heartbeat_at <= self.settings.expiry // 2

    def lives(self, router: str) -> bool:
        """Whether a router probes as far as Redis knows. After an outage nobody counts as gone."""
        known = self.keys.routers.get(router)
        if known is None:
            return False
        if self.rules.has("after an outage nobody is gone") and self.is_after_outage():
            return known.probes_until > LONG_AGO
        return known.probes_until > self.keys.now

    def peers(self, by: str) -> list[str]:
        routers, own = self.keys.routers, self.keys.routers.get(by)
        if not self.rules.has("peers are asked"):
            return []
        return [
            key
            for key, router in routers.items()
            if key != by
            and (self.lives(key) or (not self.rules.has("peers probe") and router.expires_at > self.keys.now))
            and (own is None or router.print == own.print or not self.rules.has("peers probe the same"))
        ]

    def is_handed_over(self, replica: Replica) -> bool:
        """Whether the router that the replica was handed to still speaks for it; forgets it otherwise."""
        if not replica.prober:
            return False
        age = self.keys.now - replica.prober_at
        is_old = not 0 <= age <= self.settings.word and self.rules.has("words expire")
        if is_old or (self.rules.has("a prober lives") and not self.lives(replica.prober)):
            replica.prober = ""
        return replica.prober != ""

    # results

    def success(self, replica: Replica, by: str) -> None:
        """A success of the leader, or of the replica's participant in the plan."""
        replica.last_ok_at = replica.last_result_at = self.keys.now
        replica.failures = replica.unsure = 0
        if self.rules.has("success ends questions"):
            replica.suspicion = None
        if self.rules.has("the former prober may end it"):
            replica.prober = replica.refuted = replica.refuted_by = ""
        replica.successes += 1
        if replica.status == "unknown" or (
            replica.status == "unhealthy" and replica.successes >= self.settings.recovery
        ):
            self.turn_healthy(replica, by)

    def failure(self, replica: Replica, by: str, asked_as: str) -> None:
        """A failure of the leader, or of the replica's participant in the plan."""
        replica.last_result_at = self.keys.now
        replica.successes = replica.unsure = 0
        if replica.status != "healthy" or not self.peers(by):
            replica.failures += 1
            if replica.status != "unhealthy" and replica.failures >= self.settings.failure:
                self.turn_unhealthy(replica, by)
            return
        if self.is_handed_over(replica) and replica.prober != by and self.rules.has("the former prober is ignored"):
            self.ignored.append(replica.url)
            return
        replica.failures += 1
        self._decide(replica, by, asked_as)

    def _decide(self, replica: Replica, by: str, asked_as: str) -> None:
        question = replica.suspicion
        if question is not None and self._is_outdated(question):
            self.ask(replica, by, asked_as)
            return
        self._ask_if_due(replica, by, asked_as)
        if replica.failures < self.settings.failure:
            return
        question = replica.suspicion
        if question is None:
            if not self.rules.has("whoever saw the failures"):  # as drafted first
                self.turn_unhealthy(replica, by)
        elif question.agreed >= 1 or self._is_over(question):
            self.turn_unhealthy(replica, by)

    def _ask_if_due(self, replica: Replica, by: str, asked_as: str) -> None:
        at = self.settings.suspects_at if self.rules.has("asked one before") else self.settings.failure
        seen = replica.failures
        if not self.rules.has("whoever saw the failures"):
            replica.seen_by, replica.seen = by, replica.seen + 1 if replica.seen_by == by else 1
            seen = replica.seen
        if seen >= at and self.may_ask(replica):
            self.ask(replica, by, asked_as)

    def _is_outdated(self, question: Suspicion) -> bool:
        """Whether an outage came between, or the clock was set back."""
        if not self.rules.has("outages ask anew"):
            return False
        keys = self.keys
        if question.since > keys.now or question.since < keys.reap_after - self.settings.expiry:
            return True
        return self.rules.has("unnoticed outages ask anew") and self.is_outage_unnoticed()

    def _is_over(self, question: Suspicion) -> bool:
        if not self.rules.has("silence takes its time"):
            return True
        return self.rules.has("silence ends") and self.keys.now >= question.until

    def doubt(self, replica: Replica, by: str, asked_as: str) -> None:
        """A probe that its router could not make."""
        if not self.rules.has("own trouble counts nothing"):
            self.failure(replica, by, asked_as)
            return
        replica.last_result_at = self.keys.now
        replica.unsure += 1
        if replica.status != "healthy" or not self.peers(by) or self.is_handed_over(replica):
            return
        if replica.unsure >= 2 and self.rules.has("unsure asks") and self.may_ask(replica):
            self.ask(replica, by, asked_as, is_unsure=True)

    # questions

    def may_ask(self, replica: Replica) -> bool:
        question = replica.suspicion
        if question is not None and not (question.until == NEVER and self.rules.has("unsure asks again")):
            return False
        if not self.rules.has("one question an interval"):
            return True
        return not 0 <= self.keys.now - replica.asked_at < self.settings.interval

    def ask(self, replica: Replica, by: str, asked_as: str, *, is_unsure: bool = False) -> None:
        """Open a suspicion. The event follows at the end of the command, one for many."""
        keys, routers = self.keys, self.keys.routers
        own = routers[by].machine if by in routers else ""

        def preference(peer: str) -> tuple[bool, bool, int]:
            is_near = routers[peer].machine == own and self.rules.has("other machines first")
            refuted = (replica.refuted, replica.refuted_by) == (by, peer)
            return (
                is_near,
                not (refuted and self.rules.has("who refuted is asked first")),
                hash_of(replica.url, asked_as, peer),
            )

        asked = sorted(self.peers(by), key=preference)[: self.settings.asked_at_most]
        is_endless = is_unsure and self.rules.has("unsure outlasts silence")
        until = NEVER if is_endless else keys.now + self.settings.timeout + self.settings.grace
        replica.suspicion = Suspicion(asked_as, by, keys.now, until, asked, tuple(asked))
        replica.asked_at = keys.now
        self.opened.append(replica.url)

    def turn_unhealthy(self, replica: Replica, by: str) -> None:
        replica.judged_by = replica.suspicion.everybody if replica.suspicion else ()
        self._turn(replica, "unhealthy")
        self.keys.emit("replica_unhealthy", by=by, replicas={replica.url: replica.view()})

    def turn_healthy(self, replica: Replica, by: str, *, heir: str = "", slow_start: bool = True) -> None:
        replica.judged_by = ()
        self._turn(replica, "healthy")
        replica.failures = replica.successes = 0
        replica.slow_start = slow_start
        replica.prober, replica.prober_at = heir, self.keys.now
        self.keys.emit("replica_healthy", by=by, replicas={replica.url: replica.view()})

    def _turn(self, replica: Replica, status: str) -> None:
        replica.status, replica.since, replica.successes, replica.unsure = status, self.keys.now, 0, 0
        replica.prober = replica.refuted = replica.refuted_by = ""
        if self.rules.has("a status ends questions"):
            replica.suspicion = None
        self.changes += 1

    # one command

    def begin(self) -> None:
        self.opened: list[str] = []
        self.ignored: list[str] = []
        self.changes = 0

    def end(self) -> None:
        """Append the events of the questions that this command opened."""
        at_once = self.settings.urls_an_event if self.rules.has("one event for many") else 1
        replicas = {url: self.keys.replicas[url] for url in self.opened}
        urls = [url for url, replica in replicas.items() if replica.suspicion is not None]
        for i in range(0, len(urls), at_once):
            self.keys.emit("replica_suspected", replicas={url: replicas[url].view() for url in urls[i : i + at_once]})
