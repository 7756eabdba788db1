"""A namespace on a real server beside its model: what is done to one is done to the other, and then compared."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from shared_registry.admin.check import find_violations
from shared_registry.admin.inspector import Inspector
from shared_registry.aio.clock import SystemClock
from shared_registry.happenings import Emitter
from shared_registry.mirror import restoration
from shared_registry.mirror.mirror import Mirror
from shared_registry.mirror.rest import Rest
from shared_registry.model import Event, Replica, ReplicaRecord
from shared_registry.selection.view import View
from shared_registry.store import client
from shared_registry.store.client import Clients
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.replica_fields import FIELDS, ONLY_FOR_SCRIPTS
from tests.support.model import queue_checks
from tests.support.model.keyspace import KnownView
from tests.support.model.rules import Namespace
from tests.support.model.values import Dump, Fields, Value, differences, exact

T = TypeVar("T")
TIMEOUT_SECONDS = 10.0
"""For any one call, and for a mirror to catch up: generous, since a busy machine is no failure."""
REFRESH_SECONDS = 0.03
CLOCK_SLACK_MS = 20
"""How far the server's clock, read at the start of its loop or of a script, may be off ours."""


class Listening:
    """Stands between a store and a client; keeps the status word of the last command."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.status: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def evalsha(self, *args: Any) -> list[str]:
        return self._received(await self._inner.evalsha(*args))

    async def eval(self, *args: Any) -> list[str]:
        return self._received(await self._inner.eval(*args))

    def _received(self, reply: list[str]) -> list[str]:
        self.status = reply[0]
        return reply


class OneByOne:
    """A router's store, of which somebody else decides when each part of a view is put back.

    Attributes:
        waiting: The next part, as entries of kind and url, and whether it is the last; `None` when nobody waits.
    """

    def __init__(self, store: Store) -> None:
        self.waiting: tuple[list[tuple[str, str]], bool] | None = None
        self._store = store
        self._has_arrived = asyncio.Event()
        self._may_proceed = asyncio.Event()

    async def restore(
        self, entries: Sequence[Sequence[str]], *, view_history_id: str, view_revision: str, is_complete: bool = False
    ) -> list[Event] | None:
        self.waiting = [(entry[0], entry[1]) for entry in entries], is_complete
        self._has_arrived.set()
        await self._may_proceed.wait()
        self._may_proceed.clear()
        return await self._store.restore(
            entries, view_history_id=view_history_id, view_revision=view_revision, is_complete=is_complete
        )

    async def next_of(self, task: asyncio.Task[str]) -> None:
        """Return when the task waits with another part, or has ended."""
        arrival = asyncio.ensure_future(self._has_arrived.wait())
        await asyncio.wait((arrival, task), return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_SECONDS)
        arrival.cancel()
        assert self._has_arrived.is_set() or task.done(), "neither another call nor the end came in time"

    def let_proceed(self) -> None:
        self.waiting = None
        self._has_arrived.clear()
        self._may_proceed.set()


class Router:
    """One router's mirror, which follows the event stream, or stands still at what it knew.

    Attributes:
        known: What it must show; `None` for the present, which it follows.
    """

    def __init__(self, name: str, bench: Bench) -> None:
        self.name = name
        self.store = bench.store_of(name)
        self.known: KnownView | None = KnownView.of_nothing()
        self.steps: OneByOne | None = None
        self.putting_back: asyncio.Task[str] | None = None
        self._bench = bench
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.mirror = Mirror(
            bench.reader,
            View(),
            rest=Rest(refresh_seconds=REFRESH_SECONDS, clock=SystemClock()),
            max_staleness_seconds=None,
            clock=SystemClock(),
            rng=random.Random(1),
            on_lost_history=self.contribute,
            emitter=Emitter(),
        )

    @property
    def is_following(self) -> bool:
        return self._task is not None

    def follow(self) -> None:
        self._task = asyncio.create_task(self.mirror.run())

    async def stop(self) -> None:
        """Stand still, as a router does that cannot reach Redis, or that has crashed; the view stays."""
        tasks: list[asyncio.Task[Any]] = [task for task in (self._task, self.putting_back) if task is not None]
        self._task = self.putting_back = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def contribute(self) -> str | None:
        if self.mirror.history_id is None:
            return None
        return await self._put_back(self.store, self.mirror.history_id)

    async def begin_to_put_back(self) -> None:
        """Do as when another history is found, but stop before each call; `put_back_next` makes it."""
        assert self.mirror.history_id is not None
        self.steps = OneByOne(self.store)
        self.putting_back = asyncio.create_task(self._put_back(self.steps, self.mirror.history_id))
        await self.steps.next_of(self.putting_back)

    async def put_back_next(self) -> None:
        """Let the next call be made, and return before the one after it."""
        assert self.steps is not None
        assert self.putting_back is not None
        self.steps.let_proceed()
        await self.steps.next_of(self.putting_back)

    async def _put_back(self, store: Store | OneByOne, history_id: str) -> str:
        return await restoration.restore_view(
            store,  # type: ignore[arg-type]  # what it uses of it
            self._bench.reader,
            self.mirror.view,
            history_id=history_id,
            revision=self.mirror.revision,
        )

    async def until(self, condition: Callable[[Mirror], bool]) -> None:
        """Return once the mirror has come to that; fail if it does not in time."""
        with self.mirror.subscribed(lambda _: self._changed.set()):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while not condition(self.mirror):
                    self._changed.clear()
                    await self._changed.wait()

    def shown(self) -> dict[str, Fields]:
        return {replica.key: fields_of(replica.record) for replica in self.mirror.view.all()}

    def selected(self) -> list[str]:
        """Return the urls that `select()` gives when each answer is excluded from the next question."""
        view = self.mirror.view
        chosen: list[str] = []
        replica: Replica | None = view.first
        while replica is not None:
            chosen.append(replica.key)
            replica = view.selection.select(None, None, chosen)
        return chosen


class Bench:
    """One namespace of a server that nobody else uses while it runs."""

    def __init__(self, clients: Clients, namespace: str) -> None:
        self.keys = Keys(namespace)
        self.raw = clients.commands
        self.listening = Listening(clients.commands)
        self.clients = Clients(self.listening, clients.blocking, clients.longest_block_seconds)
        self.reader = Inspector(self.clients, self.keys, timeout_seconds=TIMEOUT_SECONDS)
        self.expected = Namespace()
        self._found: Dump = {}
        self._before: Dump = {}
        self._answered: str | None = None
        self._is_changed = True
        self._with_ttl: set[str] = set()

    def store_of(self, router: str) -> Store:
        return Store(self.clients, self.keys, router=router, timeout_seconds=TIMEOUT_SECONDS)

    async def both(self, command: Callable[[], Awaitable[T]], rule: Callable[[], str | None]) -> T:
        """Run a command on the server and its rule on the model; fail where answer or state differ.

        A rule that returns `None` says nothing of the answer.
        """
        low = now_ms()
        result = await command()
        clock = (low - CLOCK_SLACK_MS, now_ms() + CLOCK_SLACK_MS)
        self._answered = answered = self.listening.status
        found = await self.dump()
        with self.expected.command(clock, self._new_events(found), found):
            wanted = rule()
        assert wanted in (None, answered), f"answered {answered!r}, should have answered {wanted!r}"
        wrong = list(differences(self.expected.expected(), found))
        assert not wrong, "\n".join(wrong)
        self._is_changed = found != self._found
        self._before, self._found = self._found, found
        return result

    async def dump(self) -> Dump:
        """Return every key, without the prefix, with its value."""
        names = await self.raw.keys(f"{self.keys.prefix}*")
        pipeline = self.raw.pipeline(transaction=False)
        for name in names:
            kind = self.keys.expected_type(name)
            if kind == "hash":
                pipeline.hgetall(name)
            elif kind == "zset":
                pipeline.zrange(name, 0, -1, withscores=True)
            elif kind == "set":
                pipeline.smembers(name)
            elif kind == "string":
                pipeline.get(name)
            else:
                pipeline.xrange(name)
            pipeline.pttl(name)
        replies = await pipeline.execute()
        self._with_ttl = {
            name.removeprefix(self.keys.prefix) for name, left in zip(names, replies[1::2], strict=True) if left > 0
        }
        dump = {
            name.removeprefix(self.keys.prefix): value_of(self.keys.expected_type(name), reply)
            for name, reply in zip(names, replies[::2], strict=True)
        }
        if isinstance(meta := dump.get("meta"), dict):
            for scan in ("queue_scan", "spare_scan", "checked_at_ms"):
                meta.pop(scan, None)  # says only how far scripts have looked, and is not used here
        return dump

    async def expect_sound(self) -> None:
        """Fail unless times to live are where they must be, and the registry's own check finds nothing."""
        assert self._with_ttl == self.expected.expected_to_expire()
        self._expect_counted()
        queue_checks.expect_fair(
            self.expected, self._before, self._found, slots_are_kept=self._answered in ("restored", "moved")
        )
        if self._is_changed:
            await queue_checks.expect_shown(self.expected, self.reader)
            violations = await find_violations(self.reader, self.keys)
            assert [violation for violation in violations if violation.rule != "queue"] == []
            queue_checks.expect_found(self.expected, self._found, violations)

    def _expect_counted(self) -> None:
        """Fail unless replicas count exactly the leases on them, and every lease is that of a router in `routers`."""
        leases: dict[str, dict[str, str]] = self._found_under("leases:")
        replicas: dict[str, dict[str, str]] = self._found_under("replica:")
        counted = Counter({url: int(fields["in_flight"]) for url, fields in replicas.items()})
        assert min(counted.values(), default=0) >= 0
        assert +counted == Counter(url for held in leases.values() for url in held.values())
        assert leases.keys() <= self.expected.routers.keys()

    def _found_under(self, prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): value for name, value in self._found.items() if name.startswith(prefix)}

    async def expect_shown(self, router: Router) -> None:
        """Fail unless a router shows what it must: the present where it follows, the last it knew where not."""
        if router.known is None:
            present = (self.expected.history_id, self.expected.revision)
            await router.until(lambda mirror: (mirror.history_id, mirror.revision) == present)
            assert router.selected() == self.expected.preference
            await router.mirror.refresh(at_once=True)
            self._expect_view(router, self.expected.view())
            self._expect_leader(router)
        else:
            self._expect_view(router, router.known)

    def _expect_view(self, router: Router, known: KnownView) -> None:
        wanted = {
            url: {name: value for name, value in fields.items() if is_shown(name, value)}
            for url, fields in known.hashes.items()
        }
        wrong = list(differences(wanted, router.shown(), router.name))
        assert not wrong, "\n".join(wrong)
        removed = {url: removal.restored_from for url, removal in router.mirror.view.removed.items()}
        assert removed == known.removed
        assert router.selected() == known.preference

    def _expect_leader(self, router: Router) -> None:
        wanted, shown = self.expected.leader, router.mirror.leader
        if wanted:
            assert shown is not None
            assert (shown.router, shown.epoch) == (wanted["router"], exact(wanted["epoch"]))

    def _new_events(self, found: Dump) -> list[dict[str, str]]:
        known = {event_id for event_id, _ in self.expected.events}
        events = found.get("events", [])
        assert isinstance(events, list)
        return [event for event in events if event["id"] not in known]


def value_of(kind: str | None, reply: Any) -> object:
    if kind == "zset":
        return dict(reply)
    if kind == "stream":
        return [{"id": event_id, **fields} for event_id, fields in reply]
    return set(reply) if kind == "set" else reply


def is_shown(name: str, value: Value) -> bool:
    """Return whether a router shows this field of a replica's hash."""
    return name not in ONLY_FOR_SCRIPTS and value != "" and (name, value) != ("removes_when_drained", "0")


def fields_of(record: ReplicaRecord) -> Fields:
    """Return a record as the hash that it was read from, without the fields that are empty."""

    texts = {field.name: field.form.write(field.of(record)) for field in FIELDS}
    return {name: text for name, text in texts.items() if text and is_shown(name, text)}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def connect(url: str) -> Clients:
    return client.connect(url, timeout_seconds=TIMEOUT_SECONDS, block_seconds=REFRESH_SECONDS)
