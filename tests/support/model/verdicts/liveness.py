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
        self.heir_ok_at: dict[str, int] = {}
        self.plan_ok_at = 0
        self.session_failed_at: dict[str, int] = {}
        self.prober_seen: dict[str, int] = {}
        self.refuted_at: dict[tuple[str, str], int] = {}
        self.fit_at, self.led_by = 0, ""
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

    def _stable_since(self, process: Process) -> int:
        paths = [at for (slot, _), at in self.recorder.paths.items() if slot == process.slot]
        return max([self.recorder.able_since(process), *paths])

    def refuted(self, url: str, by: str) -> None:
        """A peer reached what this prober had asked about, and the event reaches the prober."""
        process = self.recorder.by_key(by)
        if self.recorder.is_able(process) and process is not None and process.slot not in self.world.deaf:
            self.refuted_at[url, by] = self.world.now

    # L3

    def _look_at_leader(self) -> None:
        world, recorder = self.world, self.recorder
        lock = world.namespace.keys.leader
        process = recorder.by_key(lock.router) if lock is not None else None
        if lock is not None:
            self.vacant_since = world.now
        able = [one for one in world.processes.values() if recorder.is_able(one)]
        is_any_sure = any(one.slot not in world.network.exhausted for one in able)
        if not recorder.is_able(process) or process is None or not is_any_sure:
            self.no_leader_at = world.now
        self._check_fitness(process, able)
        since = min((recorder.able_since(one) for one in able), default=world.now)
        vacant = world.now - max(self.vacant_since, since, recorder.clock_at)
        self.recorder.worst["L3"] = max(self.recorder.worst["L3"], vacant)
        if vacant > 2 * world.settings.lease + 1000:
            self._violate("L3", f"no leader for {vacant} ms")

    def _check_fitness(self, leader: Process | None, able: list[Process]) -> None:
        """V10: a leader that is wrong about much, or unsure, does not lead on where another one would be right."""
        world, recorder, settings = self.world, self.recorder, self.world.settings
        urls = [url for url in world.urls if url not in world.network.dead]
        if leader is None or leader not in able or not urls or settings.is_shared:
            self.fit_at = world.now
            return
        handicap = settings.handicap_leases * settings.lease + 1000
        resigned = recorder.costs.resigned_at
        right = [
            one
            for one in able
            if world.now - resigned.get(one.key, -(10**9)) > handicap
            and one.slot not in world.network.exhausted
            and all(world.network.reaches(one.slot, url) for url in urls)
        ]
        lost = [url for url in urls if not world.network.reaches(leader.slot, url)]
        lately = [
            at for (_, key), at in self.refuted_at.items() if key == leader.key and world.now - at <= settings.young
        ]
        was_needed = recorder.costs.needed_at.get(leader.key, -1) >= min(lately, default=0)
        is_wrong = not was_needed and len(lately) >= max(1, len(world.urls) / 4)
        right = [one for one in right if self._stable_since(one) < min(lately, default=world.now)]
        is_unsure = leader.slot in world.network.exhausted and len(urls) >= 4
        if not right or not (is_wrong or is_unsure) or leader.key != self.led_by:
            self.fit_at = world.now
        self.led_by = leader.key
        patience = settings.interval * (settings.fresh_every + 2) if is_unsure else 0
        if world.now - self.fit_at > patience + 1000:
            self._violate("V10", f"{leader.key} leads on, although it does not reach {len(lost)} of {len(urls)}")

    def _look_at_helpers(self, url: str, replica: Replica) -> None:
        world, recorder = self.world, self.recorder
        question = replica.suspicion
        if question is not None and not all(self._is_to_answer(key) for key in question.asked):
            self.asked_died_at[url] = world.now
        heir = recorder.by_key(replica.prober) if replica.prober else None
        if not replica.prober or self._can_answer(heir):
            self.heir_ok_at[url] = world.now
        elif heir is not None and heir.slot in world.network.exhausted:
            self.heir_lost_at[url] = min(world.now, self.heir_ok_at.get(url, 0) + world.settings.word)
        else:
            self.heir_lost_at[url] = min(world.now, self.heir_ok_at.get(url, 0) + world.settings.expiry)
        lock = world.namespace.keys.leader
        is_unsure = lock is not None and world.network.blind.get((int(lock.router[1]), url)) == "ports"
        if is_unsure and not any(recorder.is_able(one) and one.key != lock.router for one in world.processes.values()):  # type: ignore[union-attr]
            self.heir_lost_at[url] = world.now
        participants = world.namespace.keys.plan.participants
        if all(self._can_answer(recorder.by_key(key)) for key in participants):
            self.plan_ok_at = world.now
        elif world.settings.is_shared:
            late = world.settings.expiry + world.settings.renew + world.settings.heartbeat
            is_only_unsure = all(recorder.is_able(recorder.by_key(key)) for key in participants)
            self.heir_lost_at[url] = world.now if is_only_unsure else min(world.now, self.plan_ok_at + late)

    def _is_to_answer(self, key: str) -> bool:
        """Whether an asked router can answer; one that never should have been asked is no excuse."""
        process = self.recorder.by_key(key)
        return self._can_answer(process) or (process is not None and not process.probes)

    def _can_answer(self, process: Process | None) -> bool:
        return (
            process is not None and self.recorder.is_able(process) and process.slot not in self.world.network.exhausted
        )

    # L1

    def bound_of_death(self, url: str) -> int:
        """L1, for what sees the death at once, or only by the timeout."""
        settings = self.world.settings
        how = self._modes(url)
        timeout = QUICK if self._is_quick(url) else settings.timeout
        bound = settings.interval + settings.failure * timeout + (settings.failure - 1) * settings.fast + 1200
        if settings.failure == 1:
            bound += settings.timeout
        died = self.recorder.facts[url].dead_since or 0
        if "listener" in how and self.session_failed_at.get(url, -1) < died:
            bound += (settings.fresh_every - 1) * settings.interval
        return bound

    def _modes(self, url: str) -> set[str]:
        network, slots = self.world.network, self.world.slots
        return ({network.dead.get(url, "")} | {network.blind.get((slot, url), "") for slot in slots}) - {""}

    def _is_quick(self, url: str) -> bool:
        """Whether a failure shows at once, and not by a timeout."""
        return self._modes(url) <= {"refused", "listener", "sick", "ports"}

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
            extra += self._extra_of_silence(url)
            if facts.unsure:
                extra += settings.interval + settings.fast
        if self.world.network.dead.get(url) == "listener":
            since = max(since, self.session_failed_at.get(url, -1))
        return self.world.now - since, extra

    def _extra_of_silence(self, url: str) -> int:
        """Where an asked router has died, the first failure after the deadline decides."""
        settings = self.world.settings
        if not self._is_quick(url):
            return settings.grace
        asked = settings.interval + (settings.suspects_at - 1) * settings.fast
        return max(0, asked + settings.timeout + settings.grace + settings.fast + 500 - self.bound_of_death(url))

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
            if self._can_answer(one) and world.network.reaches(one.slot, url) and one.slot not in world.network.lenient
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
        if self._is_to_be_quick(url) and age > 300:
            self._violate("L2", f"{url} is reached by all that were not asked, and not healthy for {age} ms")
        if age > (probers + 1) * settings.interval + settings.timeout + slow:
            self._violate("L2", f"{url} is reached, and not healthy for {age} ms, {probers} probers")

    def _is_to_be_quick(self, url: str) -> bool:
        """Whether the first appeal succeeds: all able probers that were not asked reach it, and nothing else is new."""
        world, recorder = self.world, self.recorder
        replica = world.namespace.keys.replicas[url]
        calm = self.recorder.facts[url].changed_at - 2 * world.settings.expiry
        if replica.status != "unhealthy" or max(recorder.clock_at, recorder.redis_since, self.no_leader_at) > calm:
            return False
        owner = (
            replica.suspicion.by
            if replica.suspicion
            else world.namespace.keys.lock and world.namespace.keys.lock.router
        )
        others = [one for one in world.processes.values() if one.key not in replica.judged_by and one.key != owner]
        return bool(others) and all(
            self._can_answer(one)
            and world.network.reaches(one.slot, url)
            and max(recorder.disturbed.get(one.slot, 0), recorder.paths.get((one.slot, url), 0)) < calm
            and one.slot not in world.deaf
            for one in others
        )

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
