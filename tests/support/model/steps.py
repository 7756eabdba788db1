"""The steps that random tests are made of: each is done to the server and to the model, and then all is compared.

A step that makes no sense at the moment is done all the same where the commands have an answer to it, and is left out
where they have none.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import ConfigError, Fenced
from shared_registry.model import AdminState, Event, ProbeResult, ReplicaEndpoint, RouterInfo, Source, Term, Thresholds
from shared_registry.store.client import Clients
from shared_registry.store.replies import Departure, Elected, Held
from shared_registry.store.schema import OLDEST_SCHEMA, SCHEMA
from tests.support.model.bench import Bench, Router, now_ms
from tests.support.model.keyspace import Spec
from tests.support.model.rules import EXPIRY_MS, LEASE_MS, Outcome
from tests.support.model.values import Fields, exact

T = TypeVar("T")
Command = Callable[[], Awaitable[T]]
Effect = Callable[[], str | None]
Verdict = tuple[str, int, str, float]
"""A probe's result: url, which incarnation (see `Steps.incarnation`), error, latency."""

ENTRIES_AT_ONCE = 2
"""So small that a view takes several calls to put back."""
LEASES_AT_ONCE = 2
"""So small that a router with some leases takes several calls to part."""
SPELLINGS = {
    "http://10.0.0.1:8000": ("http://10.0.0.1:8000", "HTTP://10.0.0.1:8000/"),
    "https://b.example": ("https://B.example:443", "https://b.example"),
    "http://[::1]:8000": ("http://[::1]:8000/",),
}


@dataclass
class Harness:
    """Where machines run: one server and one event loop for all examples of a test."""

    server: EmbeddedServer
    runner: asyncio.Runner
    clients: Clients
    count: Iterator[int]


class Steps(RuleBasedStateMachine):
    """A namespace, its model, and routers that mirror it. `harness` is set in a subclass that the test makes."""

    harness: Harness
    router_count = 2
    panic_percent = 50

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(self.harness.clients, f"example-{next(self.harness.count)}")
        self.expected = self.bench.expected
        self.routers = [Router(f"router~{number}", self.bench) for number in range(self.router_count)]
        self.has_failed = False
        self._serial = itertools.count(1)
        self._requests = ["no-such-request"]
        self._incarnations = {url: ["no-such-incarnation"] for url in SPELLINGS}
        self._tokens = [("no-such-token", 1)]
        self._done: list[tuple[Command[object], Effect]] = []

    def teardown(self) -> None:
        async def leave() -> None:
            for router in self.routers:
                await router.stop()
            await self.bench.raw.flushall()

        self.harness.runner.run(leave())

    # --- how a step is made ---

    def do(self, command: Command[T], effect: Effect) -> T:
        """Run a command and its rule, then compare everything."""

        async def step() -> T:
            result = await self.bench.both(command, effect)
            for router in self.routers:
                await self.bench.expect_shown(router)
            await self.bench.expect_sound()
            return result

        try:
            return self.harness.runner.run(step())
        except BaseException:
            self.has_failed = True
            raise

    def do_repeatably(self, command: Command[T], effect: Effect) -> T:
        """Do what may be repeated later with the same arguments."""
        self._done = [*self._done[-5:], (command, effect)]
        return self.do(command, effect)

    def write(self, router: Router, send: Command[Sequence[Event] | None], effect: Effect) -> None:
        """Do what a registry does with its own writes: its mirror takes over the answer."""

        async def command() -> None:
            generation = router.mirror.generation
            events = await send()
            if router.is_following:
                router.mirror.apply_reply(events or (), generation)

        self.do_repeatably(command, effect)

    def text(self, what: str) -> str:
        """Return a text that was not used before."""
        return f"{what}-{next(self._serial)}"

    def incarnation(self, key: str, which: int) -> str:
        """Return the present incarnation for 0, or an earlier one, or one that never was."""
        return pick([self.expected.incarnation(key), *self._incarnations[key][::-1]], which)

    # --- replicas ---

    def register(self, by: int, mode: Source, replica: tuple[str, Spec], old_request: int | None = None) -> None:
        key, spec = replica
        request = self.text("request") if old_request is None else pick(self._requests[::-1], old_request)
        self._requests.append(request)
        self._incarnations[key].append(request)
        endpoint = endpoint_of(spec)
        router = self.routers[by]
        self.write(
            router,
            lambda: _unless_taken(router.store.register(key, endpoint, mode=mode, request=request, by="me")),
            lambda: self.expected.register_replica(
                mode=mode.value, request=request, router=router.name, by="me", key=key, spec=spec
            ),
        )

    def register_many(self, by: int, mode: Source, replicas: Sequence[tuple[str, Spec]]) -> None:
        """Register several in one call. The mirror takes them from the event stream."""
        specs, router = dict(replicas), self.routers[by]
        requests = {key: self.text("request") for key in specs}
        for key, request in requests.items():
            self._requests.append(request)
            self._incarnations[key].append(request)
        endpoints = {key: endpoint_of(spec) for key, spec in specs.items()}

        async def send() -> None:
            ids = iter(requests.values())
            answers = router.store.register_all(endpoints, mode=mode, by="me", new_request=lambda: next(ids))
            assert [one.key async for one in answers] == [*specs]

        self.do_repeatably(
            send,
            lambda: self.expected.register_replicas(
                mode=mode.value,
                router=router.name,
                by="me",
                replicas=[(requests[key], key, spec) for key, spec in specs.items()],
            ),
        )

    def deregister(self, by: int, key: str, which: int = 0, *, when_drained: bool = False) -> None:
        incarnation, router = self.incarnation(key, which), self.routers[by]
        self.write(
            router,
            lambda: router.store.deregister(key, incarnation, by="me", reason="gone", when_drained=when_drained),
            lambda: self.expected.deregister_replica(
                key=key, incarnation=incarnation, router=router.name, by="me", reason="gone", when_drained=when_drained
            ),
        )

    def set_admin(self, by: int, key: str, state: AdminState, reason: str) -> None:
        router = self.routers[by]
        self.write(
            router,
            lambda: router.store.set_admin(key, state, by="you", reason=reason),
            lambda: self.expected.set_admin(key=key, state=state.value, router=router.name, by="you", reason=reason),
        )

    # --- probes ---

    def report(self, by: int, *, leader: int, jump: int, limits: tuple[int, int], results: Sequence[Verdict]) -> None:
        """A batch of the leader, for 0, or of one that leads no more; `jump` is how far its number is from the last."""
        token, epoch = pick(self._tokens[::-1], leader)
        batch = exact(self.expected.leader.get("batch", "0")) + jump
        outcomes = [
            Outcome(key, self.incarnation(key, which), 0.0 if error else latency, error)
            for key, which, error, latency in results
        ]
        router = self.routers[by]

        async def send() -> Sequence[Event] | None:
            try:
                report = await router.store.report(
                    Term(epoch, token), batch, [probe_result(outcome) for outcome in outcomes], Thresholds(*limits)
                )
            except Fenced:
                return None
            return report.events

        self.write(
            router,
            send,
            lambda: self.expected.report_probes(
                token=token, epoch=epoch, batch=batch, thresholds=limits, results=outcomes
            ),
        )

    def record_outcome(self, by: int, verdict: Verdict, limits: tuple[int, int], *, is_passive: bool = False) -> None:
        key, which, error, latency = verdict
        outcome, router = Outcome(key, self.incarnation(key, which), latency, error), self.routers[by]
        self.write(
            router,
            lambda: router.store.record_outcome(
                probe_result(outcome), Thresholds(*limits), by="session", is_passive=is_passive
            ),
            lambda: self.expected.record_outcome(
                result=outcome, thresholds=limits, router=router.name, by="session", is_passive=is_passive
            ),
        )

    # --- election ---

    def campaign(self, by: int, old_token: int | None = None, ahead: int = 0) -> None:
        """Stand for leader, with an epoch seen that lies some way ahead of the highest that was given."""
        token = self.text("token") if old_token is None else pick(self._tokens[::-1], old_token)[0]
        seen_epoch = max(epoch for _, epoch in self._tokens) + ahead
        router = self.routers[by]
        result = self.do_repeatably(
            lambda: router.store.campaign(token, lease_seconds=LEASE_MS / 1000, seen_epoch=seen_epoch),
            lambda: self.expected.campaign(router=router.name, token=token, seen_epoch=seen_epoch),
        )
        epoch = exact(self.expected.leader["epoch"])
        if isinstance(result, Held):
            assert (result.leader.router, result.leader.epoch) == (self.expected.leader["router"], epoch)
            assert 0 < result.remaining_seconds <= LEASE_MS / 1000
        else:
            assert result == Elected(epoch)
            assert epoch > max((other for used, other in self._tokens if used != token), default=0)
            self._tokens.append((token, epoch))

    def renew(self, by: int, leader: int) -> None:
        token, router = pick(self._tokens[::-1], leader)[0], self.routers[by]
        self.do_repeatably(
            lambda: router.store.renew(token, lease_seconds=LEASE_MS / 1000), lambda: self.expected.renew(token=token)
        )

    def resign(self, by: int, leader: int) -> None:
        token, router = pick(self._tokens[::-1], leader)[0], self.routers[by]
        self.do_repeatably(lambda: router.store.resign(token), lambda: self.expected.resign(token=token))

    def step_down(self, by: int, leader: int, reason: str) -> None:
        epoch, router = pick(self._tokens[::-1], leader)[1], self.routers[by]
        self.do_repeatably(
            lambda: router.store.step_down(epoch, sit_out_seconds=1.5, by="operator", reason=reason),
            lambda: self.expected.step_down(epoch=epoch, sit_out_ms="1500", by="operator", reason=reason),
        )

    def advance_ramps(self, by: int, leader: int, is_slow: bool) -> None:
        (token, epoch), router = pick(self._tokens[::-1], leader), self.routers[by]
        seconds = 10_000 if is_slow else 0
        urls = list(self.expected.hashes)

        async def advance() -> list[str]:
            try:
                return await router.store.advance_ramps(Term(epoch, token), urls, slow_start_seconds=seconds)
            except Fenced:
                return []

        self.do_repeatably(
            advance,
            lambda: self.expected.advance_ramps(token=token, epoch=epoch, slow_start_ms=f"{seconds * 1000}"),
        )

    def declare_panic(self, by: int, leader: int, is_panic: bool) -> None:
        (token, epoch), router = pick(self._tokens[::-1], leader), self.routers[by]
        why = "few are healthy" if is_panic else ""

        async def declare() -> bool:
            try:
                return await router.store.declare_panic(Term(epoch, token), why)
            except Fenced:
                return False

        self.do_repeatably(declare, lambda: self.expected.declare_panic(token=token, epoch=epoch, why=why))

    def expire_leader(self) -> None:
        self.do(lambda: self.bench.raw.delete(self.bench.keys.leader), self.expected.leader.clear)

    # --- routers ---

    def heartbeat(self, number: int) -> None:
        router = self.routers[number]
        info = RouterInfo(router.name, "host", number, "0.1", 1_700_000_000.123, "http://router", "print")
        presented: Fields = {
            "host": "host",
            "pid": str(number),
            "version": "0.1",
            "started_at_ms": "1700000000123",
            "url": "http://router",
            "config_fingerprint": "print",
            "machine": "",
            "probe_print": "",
            "probing": "",
            "view_age_ms": "",
            "probe_age_ms": "",
            "probe_lag_ms": "",
            "schemas": f"{OLDEST_SCHEMA}-{SCHEMA}",
        }
        was_there = info.key in self.expected.routers
        heartbeat = self.do_repeatably(
            lambda: router.store.heartbeat(
                info, expiry_seconds=EXPIRY_MS / 1000, panic_percent=float(self.panic_percent)
            ),
            lambda: self.expected.heartbeat(key=info.key, presented=presented, panic_percent=str(self.panic_percent)),
        )
        assert (heartbeat.history_id, heartbeat.revision, heartbeat.joined) == (
            self.expected.history_id,
            self.expected.revision,
            not was_there,
        )
        assert heartbeat.leases == len(self.expected.leases.get(info.key, {}))
        assert set(heartbeat.expired) == self.expected.expired()

    def disturb_heartbeats(
        self, heartbeat_ms: int | None, reap_after_ms: int, reap_until_ms: int = EXPIRY_MS // 2
    ) -> None:
        """Make the last beat one of another time, or none, and the times between which the dead are given up others."""
        if not self.expected.meta:
            return

        async def command() -> None:
            now, meta = now_ms(), self.bench.keys.meta
            changed = {"reap_after_ms": str(now + reap_after_ms), "reap_until_ms": str(now + reap_until_ms)}
            if heartbeat_ms is None:
                await self.bench.raw.hdel(meta, "heartbeat_at_ms")
                self.expected.meta.pop("heartbeat_at_ms", None)
            else:
                changed["heartbeat_at_ms"] = str(now + heartbeat_ms)
            await self.bench.raw.hset(meta, mapping=changed)
            self.expected.meta.update(changed)
            self.expected.is_cut_short = True

        self.do(command, lambda: None)

    def rewrite_expiry(self, number: int, by_ms: int) -> None:
        """Make a router's expiry another, as if it had not beaten for long or as if the clock had been set back."""
        name = self.routers[number].name
        if name not in self.expected.routers:
            return

        async def command() -> None:
            expires_at = now_ms() + by_ms
            await self.bench.raw.zadd(self.bench.keys.routers, {name: expires_at})
            self.expected.routers[name] = float(expires_at)
            self.expected.is_cut_short = True

        self.do(command, lambda: None)

    def reap(self, by: int, number: int, affinity_seconds: int = 0) -> Departure:
        router, gone = self.routers[by], self.routers[number].name
        return self.do_repeatably(
            lambda: router.store.reap(gone, affinity_seconds=affinity_seconds),
            lambda: self.expected.reap_router(key=gone, by=router.name, affinity_ms=affinity_seconds * 1000),
        )

    def leave(self, number: int, affinity_seconds: int = 0) -> Departure:
        router = self.routers[number]
        return self.do_repeatably(
            lambda: router.store.leave(affinity_seconds=affinity_seconds),
            lambda: self.expected.leave_cluster(key=router.name, affinity_ms=affinity_seconds * 1000),
        )

    # --- what may happen to any command, and to the mirrors ---

    def repeat(self, which: int) -> None:
        """Run one of the last commands again with the same arguments, as after a lost reply."""
        if self._done:
            self.do(*pick(self._done[::-1], which))

    def forget_scripts(self) -> None:
        self.do(self.bench.raw.script_flush, lambda: None)

    def trim_stream(self, left: int) -> None:
        def effect() -> None:
            del self.expected.events[:-left]

        self.do(lambda: self.bench.raw.xtrim(self.bench.keys.events, maxlen=left, approximate=False), effect)

    def start(self, number: int) -> None:
        """Let a router join, read everything, and follow."""
        self.heartbeat(number)
        router = self.routers[number]

        async def load() -> None:
            await router.mirror.load()
            router.follow()

        router.known = None
        self.do(load, lambda: None)

    def cut_off(self, number: int) -> None:
        """Let a router reach Redis no more; it goes on showing what it knew."""
        router = self.routers[number]
        if router.is_following:
            router.known = self.expected.view()
            self.harness.runner.run(router.stop())

    def reconnect(self, number: int) -> None:
        """Let it follow again; where the history is another by now, it first puts back what it knew of the old one."""
        router = self.routers[number]
        known = router.known
        if known is None or self.expected.history_id is None:
            return
        router.known = None

        async def command() -> None:
            router.follow()
            await router.until(lambda mirror: mirror.history_id == self.expected.history_id)

        def effect() -> None:
            if known.history_id != self.expected.history_id:
                self.expected.contribute(known, router=router.name, at_once=ENTRIES_AT_ONCE)

        self.do(command, effect)

    def lose_everything(self) -> None:
        for number in range(self.router_count):
            self.cut_off(number)
        self.do(self.bench.raw.flushall, self.expected.lose)


def endpoint_of(spec: Spec) -> ReplicaEndpoint:
    return ReplicaEndpoint(
        url=spec.url,
        name=spec.name or None,
        primary=spec.primary,
        weight=spec.weight,
        capacity=spec.capacity,
        order=int(spec.order) if spec.order else None,
        health_check_path=spec.health_check_path or None,
        health_check_port=int(spec.health_check_port) if spec.health_check_port else None,
        labels=dict(label.split("=") for label in reversed(spec.labels.split(",")) if label),
    )


async def _unless_taken(registered: Awaitable[list[Event]]) -> list[Event]:
    """Return no events where the name is taken. What the command answered is compared in any case."""
    try:
        return await registered
    except ConfigError:
        return []


def pick(options: Sequence[T], number: int) -> T:
    """Return one of the options: the first for 0, the last for any number past it."""
    return options[min(number, len(options) - 1)]


def probe_result(outcome: Outcome) -> ProbeResult:
    return ProbeResult(outcome.url, outcome.incarnation, outcome.latency_ms, outcome.error or None)
