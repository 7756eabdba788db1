"""Random announcements on a real server, and a model of who holds which url: every reply and every state agree.

Instances start, send heartbeats, fall silent, withdraw and start again under another id; operators drain, disable and
remove; routers send heartbeats, and Redis is away in between. Time is what the test writes into the keys.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState, ReplicaEndpoint
from shared_registry.store.replies import AnnouncedAs, BeatWord, Withdrawn
from tests.support.effort import effort, takes_long
from tests.support.space import Space, info, on_server

TTL_MS = 1_000_000
"""So long that the time that the test itself takes does not matter."""
URLS = ("http://127.0.0.1:8000", "http://127.0.0.2:8000", "http://127.0.0.3:8000")
NAMES = ("", "pod-1", "pod-2")
urls, names = st.sampled_from(URLS), st.sampled_from([*NAMES, "pod-1", "pod-1"])


@dataclass
class Held:
    """What is known of a url: the instance that announced it last, and how it stands."""

    instance: str
    name: str
    heard_ms: int
    admin: str = "active"
    is_expired: bool = False
    is_withdrawn: bool = False

    @property
    def is_in_service(self) -> bool:
        return self.admin != "removed" and not self.is_expired and not self.is_withdrawn


@dataclass
class Expected:
    """The model."""

    now_ms: int = 0
    resumed_ms: int = -(10**9)
    held: dict[str, Held] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)

    def is_alive(self, url: str) -> bool:
        """Whether an instance holds a url, so that no other gets it."""
        one = self.held.get(url)
        return bool(
            one
            and one.admin != "removed"
            and not one.is_expired
            and self.now_ms < max(one.heard_ms, self.resumed_ms) + TTL_MS
        )

    def keep(self, url: str) -> None:
        """Keep the admin state of a replica that leaves, unless its name has gone elsewhere."""
        one = self.held[url]
        if one.is_in_service and one.admin != "active" and self.named.get(one.name, url) == url:
            self.kept[one.name or url] = one.admin

    def announce(self, url: str, instance: str, name: str) -> AnnouncedAs:
        one = self.held.get(url)
        is_same = one is not None and one.instance == instance
        if one and is_same:
            if one.is_withdrawn:
                return AnnouncedAs.WITHDRAWN
            if one.admin == "removed" and not one.is_expired:
                return AnnouncedAs.REMOVED
            if not one.is_expired:
                one.heard_ms = self.now_ms
                return AnnouncedAs.UNCHANGED
        elif one and self.is_alive(url):
            return AnnouncedAs.TAKEN
        if one and one.admin != "removed" and not is_same:
            self.keep(url)
        self.take_over(name, url)
        admin = self.kept.pop(name or url, "active")
        self.held[url] = Held(instance, name, self.now_ms, admin)
        return AnnouncedAs.CREATED

    def take_over(self, name: str, url: str) -> None:
        former = self.named.get(name)
        if not name:
            return
        if former and former != url and self.held[former].name == name and self.held[former].admin != "removed":
            self.keep(former)
        self.named[name] = url

    def beat(self, url: str, instance: str) -> BeatWord:
        one = self.held.get(url)
        if one is None:
            return BeatWord.UNKNOWN
        if one.instance != instance:
            return BeatWord.UNKNOWN if one.is_expired or one.admin == "removed" else BeatWord.TAKEN
        if one.is_expired:
            return BeatWord.UNKNOWN
        if one.admin == "removed":
            return BeatWord.WITHDRAWN if one.is_withdrawn else BeatWord.REMOVED
        one.heard_ms = self.now_ms
        return BeatWord.HELD

    def withdraw(self, url: str, instance: str) -> Withdrawn:
        one = self.held.get(url)
        if one is None or one.admin == "removed":
            return Withdrawn.NOT_FOUND
        if one.instance != instance:
            return Withdrawn.TAKEN
        self.keep(url)
        one.admin, one.is_withdrawn = "removed", True
        return Withdrawn.REMOVED

    def expire(self) -> None:
        """A router sends a heartbeat."""
        for url, one in self.held.items():
            if one.is_in_service and self.now_ms >= max(one.heard_ms, self.resumed_ms) + TTL_MS:
                self.keep(url)
                one.admin, one.is_expired = "removed", True


class Announcements(RuleBasedStateMachine):
    """Instances, operators and a router, and the model beside them."""

    server: EmbeddedServer
    runner: asyncio.Runner
    numbers: Iterator[int]

    @initialize()
    def begin(self) -> None:
        self.expected = Expected()
        self.instances = {url: self.new_instance() for url in URLS}
        self.context = on_server(self.server.url, f"announced-{next(self.numbers)}")
        self.space: Space = self.runner.run(self.context.__aenter__())
        self.run_router()

    def teardown(self) -> None:
        self.runner.run(self.context.__aexit__(None, None, None))

    def new_instance(self) -> str:
        return f"{next(self.numbers):08x}"

    def age(self, fields: tuple[str, ...], key: str, by_ms: int) -> None:
        for name in fields:
            if (found := self.space.raw.hget(key, name)) is not None:
                self.space.raw.hset(key, name, int(found) - by_ms)

    @rule(url=urls, name=names)
    def announce(self, url: str, name: str) -> None:
        """An instance keeps its name; a new one may have another."""
        instance = self.instances[url]
        one = self.expected.held.get(url)
        if one and one.instance == instance:
            name = one.name
        reply = self.runner.run(
            self.space.store.announce(
                url, ReplicaEndpoint(url, name or None), owner=instance, instance=instance, ttl_seconds=TTL_MS / 1000
            )
        )
        assert reply.result is self.expected.announce(url, instance, name)
        if reply.result is AnnouncedAs.TAKEN:
            assert one is not None
            assert reply.holder == one.instance

    @rule(url=urls)
    def beat(self, url: str) -> None:
        reply = self.runner.run(self.space.store.beat(url, self.instances[url]))
        assert reply.word is self.expected.beat(url, self.instances[url])

    @rule(url=urls)
    def restart(self, url: str) -> None:
        """The program beside the replica is killed and starts again, as another instance."""
        self.instances[url] = self.new_instance()

    @rule(url=urls, to=urls)
    def move(self, url: str, to: str) -> None:
        """A pod is killed and comes back with its name under an address where nobody is, or nobody is any more."""
        if (one := self.expected.held.get(url)) and to != url and not self.expected.is_alive(to):
            self.instances[url] = self.new_instance()
            self.instances[to] = self.new_instance()
            self.announce(to, one.name)

    @rule(url=urls)
    def withdraw(self, url: str) -> None:
        reply = self.runner.run(self.space.store.withdraw(url, self.instances[url]))
        assert reply.result is self.expected.withdraw(url, self.instances[url])

    @rule(url=urls, state=st.sampled_from([AdminState.ACTIVE, AdminState.DRAINING, AdminState.DISABLED]))
    def set_admin(self, url: str, state: AdminState) -> None:
        self.runner.run(self.space.store.set_admin(url, state, by="me", reason="why"))
        if (one := self.expected.held.get(url)) and one.is_in_service:
            one.admin = state.value

    @rule(url=urls)
    def remove(self, url: str) -> None:
        one = self.expected.held.get(url)
        if one and one.is_in_service:
            self.runner.run(self.space.store.deregister(url, self.space.fields(url)["incarnation"], by="me"))
            one.admin = "removed"

    @rule(by_ms=st.sampled_from([100_000, 400_000, 900_000, TTL_MS, 2 * TTL_MS]))
    def pass_time(self, by_ms: int) -> None:
        """Time passes, in which nobody but routers sends anything."""
        self.expected.now_ms += by_ms
        for url in self.expected.held:
            key = self.space.keys.replica(url)
            self.age(("last_heartbeat_at_ms",), key, by_ms)
            if (due := self.space.raw.zscore(self.space.keys.announced, url)) is not None:
                self.space.raw.zadd(self.space.keys.announced, {url: due - by_ms})
        self.age(("announcements_resumed_at_ms",), self.space.keys.meta, by_ms)

    @rule()
    def run_router(self) -> None:
        """A router's heartbeat, one of many that came all the time."""
        self.space.raw.hset(self.space.keys.meta, "heartbeat_at_ms", self.space.now_ms() - 500)
        while self.runner.run(self.space.store.heartbeat(info("router~1"), expiry_seconds=60)).is_partial:
            pass
        self.expected.expire()

    @rule()
    def end_outage(self) -> None:
        """The first heartbeat of a router after a gap of all of them."""
        if self.expected.held:
            self.space.raw.hset(self.space.keys.meta, "heartbeat_at_ms", self.space.now_ms() - 3000)
            if self.space.raw.zcard(self.space.keys.announced):
                self.expected.resumed_ms = self.expected.now_ms
            self.runner.run(self.space.store.heartbeat(info("router~1"), expiry_seconds=60))
            self.expected.expire()

    @invariant()
    def agrees(self) -> None:
        for url, one in self.expected.held.items():
            fields = self.space.fields(url)
            assert (fields["admin"], fields["instance"]) == (one.admin, one.instance), url
            assert ("expired_at_ms" in fields) == one.is_expired
        kept = self.space.raw.hgetall(self.space.keys.admin_by_name)
        assert {name: text.partition("\n")[0] for name, text in kept.items()} == self.expected.kept
        assert self.runner.run(find_violations(self.space.reader, self.space.keys)) == []


@pytest.fixture
def machine(server: EmbeddedServer) -> Iterator[type[Announcements]]:
    with asyncio.Runner() as runner:
        place = {"server": server, "runner": runner, "numbers": itertools.count(1)}
        yield type("AnnouncementsHere", (Announcements,), place)


@takes_long
def test_announcements_behave_like_the_model(machine: type[Announcements]) -> None:
    run_state_machine_as_test(machine, settings=effort(examples=80, steps=30))
