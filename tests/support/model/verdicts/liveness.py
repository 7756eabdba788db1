"""L1 to L3: how long a dead replica stays healthy, a reached one unhealthy, and the routers without a leader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.model.verdicts.network import QUICK

if TYPE_CHECKING:
    from tests.support.model.verdicts.keyspace import Replica
    from tests.support.model.verdicts.process import Process
    from tests.support.model.verdicts.recorder import Facts, Recorder


class Liveness:
    """Checked four times a second, and at each change of status."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.world = recorder.world
        self.no_leader_at = 0
        self.vacant_since = 0
        self.asked_died_at: dict[str, int] = {}
        self.heir_lost_at: dict[str, int] = {}
        self.prober_seen: dict[str, int] = {}
        self._told: set[str] = set()

    def check(self) -> None:
        self._look_at_leader()
        for key in self.world.namespace.keys.probers():
            self.prober_seen[key] = self.world.now
        for url, replica in self.world.namespace.keys.replicas.items():
            self._look_at_helpers(url, replica)
            if replica.admin != "active":
                self.recorder.facts[url].changed_at = self.world.now
            elif replica.status == "healthy":
                self._check_dead(url)
            else:
                self._check_reached(url)

    # L3

    def _look_at_leader(self) -> None:
        world, recorder = self.world, self.recorder
        lock = world.namespace.keys.leader
        process = recorder.by_key(lock.router) if lock is not None else None
        if lock is not None:
            self.vacant_since = world.now
        if not recorder.is_able(process) or process is None or process.slot in world.network.exhausted:
            self.no_leader_at = world.now
        able = [one for one in world.processes.values() if recorder.is_able(one)]
        since = min((recorder.able_since(one) for one in able), default=world.now)
        vacant = world.now - max(self.vacant_since, since, recorder.clock_at)
        self.recorder.worst["L3"] = max(self.recorder.worst["L3"], vacant)
        if vacant > 2 * world.settings.lease + 1000:
            self._violate("L3", f"no leader for {vacant} ms")

    def _look_at_helpers(self, url: str, replica: Replica) -> None:
        world, recorder = self.world, self.recorder
        question = replica.suspicion
        if question is not None and not all(self._can_answer(recorder.by_key(key)) for key in question.asked):
            self.asked_died_at[url] = world.now
        if replica.prober and not self._can_answer(recorder.by_key(replica.prober)):
            self.heir_lost_at[url] = world.now
        participants = world.namespace.keys.plan.participants
        if world.settings.is_shared and not all(self._can_answer(recorder.by_key(key)) for key in participants):
            self.heir_lost_at[url] = world.now

    def _can_answer(self, process: Process | None) -> bool:
        return (
            process is not None and self.recorder.is_able(process) and process.slot not in self.world.network.exhausted
        )

    # L1

    def bound_of_death(self, url: str) -> int:
        """L1, for what sees the death at once, or only by the timeout."""
        world, settings = self.world, self.world.settings
        how = {world.network.dead.get(url, "")} | {world.network.blind.get((slot, url), "") for slot in world.slots}
        how.discard("")
        is_quick = how <= {"refused", "listener"}
        timeout = QUICK if is_quick else settings.timeout
        bound = settings.interval + settings.failure * timeout + (settings.failure - 1) * settings.fast + 1200
        if settings.failure == 1:
            bound += settings.timeout
        if "listener" in how:
            bound += (settings.fresh_every - 1) * settings.interval
        return bound

    def _death(self, url: str) -> tuple[int, int]:
        """For how long it has been dead with everybody able, and what is added to the bound."""
        recorder, settings = self.recorder, self.world.settings
        facts = recorder.facts[url]
        assert facts.dead_since is not None
        since = max(facts.dead_since, facts.changed_at, self.no_leader_at, recorder.clock_at, recorder.redis_since)
        lost = self.heir_lost_at.get(url, -(10**9))
        since = max(since, lost)
        extra = 0
        if self.asked_died_at.get(url, -1) >= facts.dead_since:
            extra += settings.timeout + settings.grace + settings.fast
        return self.world.now - since, extra

    def _check_dead(self, url: str) -> None:
        facts = self.recorder.facts[url]
        if facts.dead_since is None:
            return
        age, extra = self._death(url)
        if age > self.bound_of_death(url) + extra:
            self._violate("L1", f"{url} is dead for all, and healthy for {age} ms")

    # L2

    def _reached_since(self, url: str) -> int | None:
        """Since when one and the same able prober has reached it; `None` where nobody does."""
        world, recorder = self.world, self.recorder
        able = [
            max(recorder.able_since(one), recorder.paths.get((one.slot, url), 0))
            for one in world.processes.values()
            if self._can_answer(one) and world.network.reaches(one.slot, url)
        ]
        return min(able, default=None)

    def _check_reached(self, url: str) -> None:
        facts, settings = self.recorder.facts[url], self.world.settings
        reached = self._reached_since(url)
        if reached is None:
            return
        since = max(reached, facts.changed_at, self.recorder.clock_at, self.recorder.redis_since)
        probers = sum(at >= since for at in self.prober_seen.values())
        age = self.world.now - since
        self.recorder.worst["L2"] = max(self.recorder.worst["L2"], age)
        self.recorder.worst["L2 share %"] = max(
            self.recorder.worst["L2 share %"], 100 * age // ((probers + 1) * settings.interval + settings.timeout)
        )
        slow = (settings.recovery - 1) * settings.fast + 500
        if age > (probers + 1) * settings.interval + settings.timeout + slow:
            self._violate("L2", f"{url} is reached, and not healthy for {age} ms, {probers} probers")

    # what was measured

    def turned(self, url: str, facts: Facts, before: str) -> None:
        recorder = self.recorder
        if before == "healthy" and facts.dead_since is not None:
            age, extra = self._death(url)
            recorder.worst["L1"] = max(recorder.worst["L1"], age)
            share = 100 * age // (self.bound_of_death(url) + extra)
            recorder.worst["L1 share %"] = max(recorder.worst["L1 share %"], share)
            recorder.worst["L1 raw"] = max(recorder.worst["L1 raw"], self.world.now - facts.dead_since)
        if before == "unhealthy":
            reached = self._reached_since(url)
            if reached is not None and reached <= facts.changed_at:
                age = self.world.now - facts.changed_at
                recorder.counts["wrong verdicts"] += 1
                recorder.counts["wrong verdicts healed in 0.2 s"] += age <= 200

    def _violate(self, name: str, what: str) -> None:
        if name not in self._told or name == "L3":
            self._told.add(name)
            self.recorder.violate(name, what)
