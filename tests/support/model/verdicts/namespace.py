"""The namespace: what each command does to the keys. Arguments and replies are plain, as those of the Lua scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.support.model.verdicts.keyspace import LONG_AGO, Event, Keyspace, Lock, Plan, Replica, RouterHash
from tests.support.model.verdicts.placement import Placement
from tests.support.model.verdicts.sessions import end_run, weigh_broken_session, weigh_session
from tests.support.model.verdicts.settings import ALL_RULES, Rules, Settings
from tests.support.model.verdicts.weighing import Weighing

Result = tuple[str, str, str]
"""Url, incarnation, and `ok`, `failed` or `unsure`."""
Opinion = tuple[str, str, str, str]
"""Url, incarnation, id of the suspicion, and the result."""
Reply = list[str]


class Namespace:
    """Redis and the scripts."""

    def __init__(self, clock: Callable[[], int], settings: Settings, rules: Rules = ALL_RULES) -> None:
        self.keys = Keyspace(clock)
        self.settings = settings
        self.rules = rules
        self.weighing = Weighing(self.keys, settings, rules)
        self.placement = Placement(self.keys, settings, rules)
        self.acquire = self.placement.acquire
        self.release = self.placement.release

    # replicas

    def register_replica(self, url: str, incarnation: str) -> Reply:
        old = self.keys.replicas.get(url)
        new = Replica(url, incarnation, since=self.keys.now)
        if old is not None:
            new.in_flight = old.in_flight
        self.keys.replicas[url] = new
        self.keys.emit("replica_registered", replicas={url: new.view()})
        return ["registered"]

    def set_admin(self, url: str, admin: str) -> Reply:
        replica = self.keys.replicas[url]
        replica.admin = admin
        if self.rules.has("an admin state ends questions"):
            replica.suspicion = None
        replica.prober = replica.refuted = replica.refuted_by = ""
        self.keys.emit("replica_admin", replicas={url: replica.view()})
        return ["set"]

    # routers

    def heartbeat(self, key: str, machine: str, probe_print: str, *, probes: bool) -> Reply:
        """Keep a router alive; the reply has the revision, Redis' time, and the routers that probe."""
        keys, settings = self.keys, self.settings
        now = keys.now
        if keys.heartbeat_at is None or not 0 <= now - keys.heartbeat_at <= settings.expiry // 2:
            keys.reap_after = now + settings.expiry
        keys.reap_after = min(keys.reap_after, now + settings.expiry)
        keys.heartbeat_at = now
        for router in keys.routers.values():
            router.expires_at = min(router.expires_at, now + settings.expiry)
            router.probes_until = min(router.probes_until, now + settings.expiry)
            router.heartbeat_at = min(router.heartbeat_at, now)
        until = now + settings.expiry
        known = keys.routers.get(key)
        if known is None:
            known = keys.routers[key] = RouterHash(machine, probe_print, until, LONG_AGO, now)
        known.expires_at, known.heartbeat_at, known.print = until, now, probe_print
        known.probes_until = until if probes else LONG_AGO
        if now >= keys.reap_after:
            for gone in [name for name, router in keys.routers.items() if router.expires_at <= now]:
                del keys.routers[gone]
        return ["alive", str(len(keys.stream)), str(now), *keys.probers()]

    def leave(self, key: str) -> Reply:
        self.keys.routers.pop(key, None)
        return ["left"]

    def read_all(self) -> Event:
        """What a full read collects; a reader reads the whole state at one moment here."""
        keys = self.keys
        leader = keys.leader
        return {
            "revision": len(keys.stream),
            "now": keys.now,
            "replicas": {url: replica.view() for url, replica in keys.replicas.items()},
            "results": {url: (r.last_result_at, r.failures) for url, r in keys.replicas.items()},
            "leader": leader.router if leader else "",
            "plan": (keys.plan.number, keys.plan.participants),
            "probers": keys.probers(),
        }

    # the leader

    def campaign(self, router: str, token: str, seen_epoch: int) -> Reply:
        keys = self.keys
        leader = keys.leader
        if leader is not None and leader.token != token:
            left = min(leader.expires_at - keys.now, self.settings.lease)
            leader.expires_at = keys.now + left
            return ["held", leader.router, str(leader.epoch), str(left)]
        if leader is None:
            keys.epoch = max(keys.epoch + 1, seen_epoch + 1)
            keys.lock = Lock(router, token, keys.epoch, keys.now + self.settings.lease)
            keys.emit("leader_elected", router=router)
        else:
            leader.expires_at = keys.now + self.settings.lease
        return ["elected", str(keys.epoch)]

    def renew(self, token: str) -> Reply:
        leader = self.keys.leader
        if leader is None or leader.token != token:
            return ["lost"]
        leader.expires_at = self.keys.now + self.settings.lease
        return ["renewed"]

    def resign(self, token: str, reason: str) -> Reply:
        """End the lease. With a reason, only where another prober has no handicap, and with one for this router."""
        keys = self.keys
        leader = keys.leader
        if leader is None or leader.token != token:
            return ["lost"]
        if reason:
            others = [key for key in keys.routers if key != leader.router and self.weighing.lives(key)]
            is_needed = all(keys.routers[key].handicap_until > keys.now for key in others)
            if is_needed and self.rules.has("needed leaders stay"):
                return ["needed"]
            if (own := keys.routers.get(leader.router)) is not None:
                own.handicap_until = keys.now + self.settings.handicap_leases * self.settings.lease
        keys.lock = None
        keys.emit("leader_resigned", router=leader.router, reason=reason)
        return ["resigned"]

    def write_plan(self, token: str, participants: Sequence[str]) -> Reply:
        keys = self.keys
        leader = keys.leader
        if leader is None or leader.token != token:
            return ["fenced"]
        if not self.rules.has("plans follow routers"):
            participants = sorted({*participants, *keys.plan.participants})
        if tuple(participants) != keys.plan.participants or keys.plan.epoch != leader.epoch:
            keys.plan = Plan(keys.plan.number + 1, leader.epoch, tuple(participants), keys.now)
            keys.emit("plan", plan=keys.plan.number, participants=keys.plan.participants, replicas={})
        return ["written", str(keys.plan.number)]

    def participants(self) -> list[str]:
        """Return the routers that share the probing: those whose health checks have the leader's settings."""
        now = self.keys.now
        return sorted(
            key
            for key, router in self.keys.routers.items()
            if router.probes_until > now and self._probes_as_leader(key)
        )

    def report_probes(self, token: str, epoch: int, batch: int, results: Sequence[Result]) -> Reply:
        """Apply results of the leader: applied, how many of them were, and the replicas whose failures were ignored."""
        leader = self.keys.leader
        if leader is None or leader.token != token or leader.epoch != epoch:
            return ["fenced"]
        if batch <= leader.batch:
            return ["duplicate"]
        leader.batch = batch
        return self._apply(leader.router, f"{epoch}-{batch}", results)

    def report_share(self, router: str, number: int, batch: int, results: Sequence[Result]) -> Reply:
        """Apply results of a participant in the plan."""
        plan = self.keys.plan
        is_last = number == plan.number - 1 and 0 <= self.keys.now - plan.at <= self.settings.interval
        if number != plan.number and not (is_last and self.rules.has("the last plan counts")):
            return ["refused", str(plan.number)]
        writer = router if self.rules.has("own batch numbers") else ""
        if batch <= self.keys.batches.get(writer, 0):
            return ["duplicate"]
        self.keys.batches[writer] = batch
        return self._apply(router, f"{router}-{batch}", results)

    def _apply(self, router: str, batch: str, results: Sequence[Result]) -> Reply:
        weighing = self.weighing
        weighing.begin()
        applied = 0
        for url, incarnation, result in results:
            if weighing.changes >= self.settings.changes_at_once and self.rules.has("calls are short"):
                break
            applied += 1
            replica = self._find(url, incarnation)
            if replica is None or replica.admin != "active":
                continue
            if result == "ok":
                weighing.success(replica, router)
            else:
                weigh = weighing.failure if result == "failed" else weighing.doubt
                weigh(replica, router, f"{batch}-{applied}")
        weighing.end()
        return ["applied", str(applied), *weighing.ignored]

    def _find(self, url: str, incarnation: str) -> Replica | None:
        replica = self.keys.replicas.get(url)
        if replica is None or (replica.incarnation != incarnation and self.rules.has("the incarnation")):
            return None
        return replica

    def ready(self) -> list[str]:
        """The ready set: what select(), acquire() and the queue give to sessions."""
        return [url for url, replica in self.keys.replicas.items() if self._is_ready(replica)]

    def _is_ready(self, replica: Replica) -> bool:
        if replica.suspicion is not None and not self.rules.has("suspected is healthy"):
            return False
        return replica.admin == "active" and replica.status == "healthy" and replica.ejected_until <= self.keys.now

    # peers

    def give_opinion(self, router: str, opinions: Sequence[Opinion]) -> Reply:
        """Answer suspicions: cleared, agreed, unhealthy, struck off, stale, or `later`, which is to be said again."""
        self.weighing.begin()
        replies = [self._take(router, *opinion) for opinion in opinions]
        self.weighing.end()
        return replies

    def _take(self, router: str, url: str, incarnation: str, question_id: str, result: str) -> str:
        if self.weighing.changes >= self.settings.changes_at_once and self.rules.has("calls are short"):
            return "later"
        replica = self._find(url, incarnation)
        question = replica.suspicion if replica is not None else None
        if replica is None or question is None or (question.id != question_id and self.rules.has("the question's id")):
            return "stale"
        if router not in question.asked and (self.rules.has("said once") or router not in question.everybody):
            return "stale"
        if router in question.asked and (result != "unsure" or self.rules.has("unsure is no opinion")):
            question.asked.remove(router)
        if result == "ok":
            self._clear(replica, router)
            return "cleared"
        question.agreed += result == "failed"
        if not question.asked and question.agreed and self.rules.has("all agreed decides"):
            self.weighing.turn_unhealthy(replica, router)
            return "unhealthy"
        return "agreed" if result == "failed" else "struck off"

    def _clear(self, replica: Replica, router: str) -> None:
        question = replica.suspicion
        assert question is not None
        if not self.rules.has("one opinion clears"):
            return
        replica.failures = replica.unsure = replica.seen = 0
        replica.last_ok_at = self.keys.now
        replica.suspicion = None
        if replica.refuted == question.by and self.rules.has("handed over"):
            replica.prober, replica.prober_at = router, self.keys.now
        else:
            replica.refuted, replica.refuted_by = question.by, router
        self.keys.emit("replica_cleared", by=router, not_by=question.by, replicas={replica.url: replica.view()})

    def report_handover(self, router: str, url: str, incarnation: str, result: str) -> Reply:
        """The result of the router that a replica was handed to: applied or stale."""
        weighing = self.weighing
        replica = self._find(url, incarnation)
        weighing.begin()
        if replica is None or not weighing.is_handed_over(replica) or replica.prober != router:
            weighing.end()
            return ["stale"]
        if result == "ok":
            replica.prober_at = replica.last_ok_at = self.keys.now
            replica.failures = replica.unsure = 0
            replica.suspicion = None
        elif result == "failed":
            replica.prober_at = self.keys.now
            replica.failures += 1
            if replica.failures >= self.settings.suspects_at and self.rules.has("failures end it"):
                replica.prober = ""
                if weighing.may_ask(replica):
                    self.keys.questions += 1
                    weighing.ask(replica, router, f"{router}-h{self.keys.questions}")
        weighing.end()
        return ["applied"]

    def appeal(self, router: str, url: str, incarnation: str, successes: int) -> Reply:
        """Speak for a replica that is not healthy: healthy, more (successes are needed) or stale."""
        replica = self._find(url, incarnation)
        if replica is None or replica.status == "healthy" or replica.admin != "active":
            return ["stale"]
        if not self.weighing.lives(router) or not self._probes_as_leader(router):
            return ["stale"]
        is_young = replica.status == "unknown" or 0 <= self.keys.now - replica.since <= self.settings.young
        one_is_enough = is_young if self.rules.has("young verdicts fall at once") else False
        if not self.rules.has("old verdicts need several"):
            one_is_enough = True
        if not one_is_enough and successes < self.settings.recovery:
            return ["more"]
        heir = router if self.rules.has("who appealed probes") else ""
        replica.last_ok_at = self.keys.now
        self.weighing.begin()
        self.weighing.turn_healthy(replica, router, heir=heir, slow_start=not is_young)
        self.weighing.end()
        return ["healthy"]

    def write_current_plan(self, token: str) -> Reply:
        """As the leader does with each renewal."""
        return self.write_plan(token, self.participants())

    def _probes_as_leader(self, router: str) -> bool:
        """Whether a router's health check is the leader's; a more lenient one speaks for nothing."""
        routers, leader = self.keys.routers, self.keys.leader
        if leader is None or leader.router not in routers or not self.rules.has("peers probe the same"):
            return True
        return routers[leader.router].print == routers[router].print

    # sessions

    def record_success(self, router: str, url: str, incarnation: str) -> Reply:
        """A session of this router went well."""
        replica = self._find(url, incarnation)
        if replica is None:
            return ["stale"]
        replica.outcome_ok_at = self.keys.now
        replica.failures = 0
        return ["noted"]

    def report_own_failure(self, router: str, url: str, incarnation: str, kind: str) -> Reply:
        """A session of this router failed: noted, reported, ejected, unhealthy or stale.

        kind: `connect`, or `witness` for the same failure, after a probe of the router has reached the replica.
        """
        replica = self._find(url, incarnation)
        if replica is None or replica.admin != "active":
            return ["stale"]
        self.weighing.begin()
        reply = [weigh_session(self.weighing, replica, router, kind)]
        self.weighing.end()
        return reply

    def report_broken(self, router: str, url: str, incarnation: str, client: str) -> Reply:
        """A session broke after it was connected: noted, reported, ejected or stale."""
        replica = self._find(url, incarnation)
        if replica is None or replica.admin != "active":
            return ["stale"]
        self.weighing.begin()
        reply = [weigh_broken_session(self.weighing, replica, router, client)]
        self.weighing.end()
        return reply

    def report_served(self, router: str, url: str, incarnation: str) -> Reply:
        """A session went well, of a router that knows of broken ones."""
        replica = self._find(url, incarnation)
        if replica is None:
            return ["stale"]
        if self.rules.has("a success ends a run"):
            end_run(replica)
        return ["noted"]
