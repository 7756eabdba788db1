"""C: what questions, hand-overs and changes of leader may cost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.model.verdicts.process import Process
    from tests.support.model.verdicts.recorder import Recorder

COMMANDS = ("give_opinion", "report_handover", "appeal", "resign", "report_own_failure")


class Costs:
    """Counts questions, opinions, events and commands."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.world = recorder.world
        self.asked_at: dict[str, int] = {}
        self.opinions: Counter[tuple[str, str]] = Counter()
        self.resigned_at: dict[str, int] = {}
        self.needed_at: dict[str, int] = {}
        self.reported_at: dict[str, int] = {}
        self.commands: list[tuple[int, str]] = []
        self._length = 0
        self._quiet = (0, 0)
        self._statuses: list[str] = []
        self._opened = 0

    def before(self, name: str) -> None:
        self._length = len(self.world.namespace.keys.stream)
        self._opened = 0
        if name in ("report_probes", "report_share", "give_opinion"):
            self._statuses = [one.status for one in self.world.namespace.keys.replicas.values()]

    def opened(self, url: str) -> None:
        recorder, now = self.recorder, self.world.now
        last = self.asked_at.get(url, -(10**9))
        disturbed_at = max(recorder.clock_at, recorder.redis_since, recorder.gap_at)
        is_undisturbed = (
            disturbed_at + self.world.settings.heartbeat * 2 <= last and not recorder.is_heartbeat_missing()
        )
        if now - last < self.world.settings.interval and is_undisturbed and recorder.facts[url].changed_at <= last:
            recorder.violate("C", f"{url} was suspected twice within {now - last} ms")
        self.asked_at[url] = now
        recorder.counts["suspicions"] += 1

    def executed(self, caller: Process | None, name: str, arguments: tuple[Any, ...], reply: Any) -> None:
        recorder, world = self.recorder, self.world
        if name in COMMANDS:
            self.commands.append((world.now, name))
            recorder.counts[name] += 1
        if name == "give_opinion":
            self._check_call()
            for opinion, word in zip(arguments[1], reply, strict=True):
                self.opinions[opinion[0], opinion[2]] += word not in ("stale", "later")
                if self.opinions[opinion[0], opinion[2]] > world.settings.asked_at_most:
                    recorder.violate("C", f"a suspicion of {opinion[0]} took too many opinions")
        elif name in ("report_probes", "report_share"):
            self._check_call()
        elif name == "resign" and reply[0] == "needed" and caller is not None:
            self.needed_at[caller.key] = world.now
        elif name == "resign" and arguments[1] and reply[0] == "resigned":
            self._check_resignation(caller)
        for event in world.namespace.keys.stream[self._length :]:
            recorder.counts[f"event {event['kind']}"] += 1
            if event["kind"] == "replica_reported":
                self._check_report(*event["replicas"])

    def _check_call(self) -> None:
        """A call makes at most 50 changes of status, and one event for 50 suspicions."""
        keys, settings = self.world.namespace.keys, self.world.settings
        after = [one.status for one in keys.replicas.values()]
        changes = sum(a != b for a, b in zip(self._statuses, after, strict=True))
        if changes > settings.changes_at_once:
            self.recorder.violate("C", f"a call changed {changes} replicas")
        suspected = [event for event in keys.stream[self._length :] if event["kind"] == "replica_suspected"]
        urls = sum(len(event["replicas"]) for event in suspected)
        if len(suspected) > -(-urls // settings.urls_an_event):
            self.recorder.violate("C", f"{len(suspected)} events for {urls} suspicions")

    def _check_resignation(self, caller: Process | None) -> None:
        """A router resigns once in a handicap; it does not lead again at once and is wrong again."""
        assert caller is not None
        settings, now = self.world.settings, self.world.now
        last = self.resigned_at.get(caller.key, -(10**9))
        handicap = settings.handicap_leases * settings.lease - 1000
        others = [one for one in self.world.processes.values() if self._might_lead(one, caller, last)]
        if now - last < handicap and self.recorder.clock_at <= last and others:
            self.recorder.violate("C", f"{caller.key} resigned twice within {now - last} ms")
        known = [one for one in self.world.processes.values() if one.key in self.recorder.beats and one is not caller]
        resigned = [self.resigned_at.get(one.key, -(10**9)) for one in known]
        has_held = all(self.recorder.able_since(one) <= at for one, at in zip(known, resigned, strict=True))
        if known and has_held and all(now - at < handicap for at in resigned):
            self.recorder.violate("C", f"{caller.key} resigned although all others had done so")
        self.resigned_at[caller.key] = now

    def _might_lead(self, process: Process, other: Process, since: int) -> bool:
        recorder, settings = self.recorder, self.world.settings
        has_resigned = self.world.now - self.resigned_at.get(process.key, -(10**9)) < (
            settings.handicap_leases * settings.lease
        )
        is_able = recorder.is_able(process) and recorder.able_since(process) <= since
        return process is not other and is_able and not has_resigned

    def _check_report(self, url: str) -> None:
        last = self.reported_at.get(url, -(10**9))
        if self.recorder.facts[url].registered_at > last:
            last = -(10**9)
        if self.world.now - last < self.world.settings.interval and self.recorder.clock_at <= last:
            self.recorder.violate("C", f"{url} was reported twice within {self.world.now - last} ms")
        self.reported_at[url] = self.world.now

    def watch_ejections(self, cured_at: int) -> None:
        """V11: what breaks sessions is ejected, never more than half of all, and comes back when it is cured."""
        recorder, world = self.recorder, self.world
        limit = max(1, len(world.urls) * world.settings.ejection_percent // 100)

        def watch() -> None:
            keys = world.namespace.keys
            out = [
                one
                for one in keys.replicas.values()
                if one.status == "healthy" and one.url not in world.namespace.ready()
            ]
            recorder.worst["ejected"] = max(recorder.worst["ejected"], len(out))
            if len(out) > limit:
                recorder.violate("V11", f"{len(out)} of {len(world.urls)} are ejected")
            if world.now >= cured_at and not recorder.worst["ejected"]:
                recorder.violate("V11", "nothing was ejected, although sessions fail")
            if out and world.now > cured_at + world.settings.ejection * 3:
                recorder.violate("V11", "an ejection does not end")
            elif world.now < cured_at + world.settings.ejection * 4:
                world.after(1000, watch)

        watch()

    def forbid_ejections(self) -> None:
        """V11: where a replica is well, failed sessions of routers that do not reach it eject nothing."""
        keys = self.world.namespace.keys
        if ejected := [event for event in keys.stream if event["kind"] == "replica_ejected"]:
            self.recorder.violate("V11", f"{len(ejected)} ejections, although probes of the witnesses fail")

    def check_disagreement(self, since: int, limit: int) -> None:
        """What one lasting disagreement about a replica costs in all."""
        world = self.world
        late = [event for event in world.namespace.keys.stream if event["at"] - world.clock_skew > since]
        kinds = [event["kind"] for event in late if event["kind"].startswith("replica")]
        if len(kinds) > limit:
            self.recorder.violate("C", f"{len(kinds)} events for one disagreement: {dict(Counter(kinds))}")

    def begin_quiet(self) -> None:
        """From now on nothing changes."""
        self._quiet = (self.world.now, len(self.world.namespace.keys.stream))

    def check_quiet(self) -> None:
        """Where nothing has changed for long, no event is written, and few commands are sent."""
        recorder, world = self.recorder, self.world
        since, length = self._quiet
        late = world.namespace.keys.stream[length:]
        if late:
            kinds = Counter(event["kind"] for event in late)
            recorder.violate("C", f"events although nothing changes: {dict(kinds)}")
        span = world.now - since
        commands = Counter(name for at, name in self.commands if at > since)
        lock = world.namespace.keys.leader
        leader = recorder.by_key(lock.router) if lock is not None else None
        disputed = [url for url in world.urls if leader is not None and not world.network.reaches(leader.slot, url)]
        number = len(world.urls) if world.settings.is_shared else len(disputed)
        allowed = number * (span // world.settings.interval + 1)
        if sum(commands.values()) > allowed:
            recorder.violate("C", f"commands although nothing changes: {dict(commands)} in {span} ms")
