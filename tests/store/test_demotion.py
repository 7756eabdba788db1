"""A primary that is demoted keeps its connections, and answers reads for ever: it must count as lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry, StoreUnavailable
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import StoreError
from shared_registry.store.failover import Failover
from shared_registry.store.keys import Keys
from shared_registry.store.replies import Elected
from tests.support.faulty_proxy import FaultyProxy
from tests.support.space import A, on_server
from tests.support.until import until

NAMESPACE = "demoted"
KEYS = Keys(NAMESPACE)
OwnServer = Callable[..., EmbeddedServer]


async def answers(url: str, *, timeout: float) -> tuple[float, str | None]:
    return 1.0, None


def registry(url: str, **options: Any) -> SharedReplicaRegistry:
    config = RouterConfig(
        redis_url=url,
        namespace=NAMESPACE,
        refresh_seconds=0.2,
        heartbeat_seconds=0.2,
        router_expiry_seconds=2.0,
        lease_seconds=1.5,
        renew_interval_seconds=0.4,
        health_check_interval_seconds=0.5,
        redis_timeout_seconds=1.0,
        replicas=[ReplicaEndpoint(A, capacity=2)],
    )
    return SharedReplicaRegistry(config, http_get=answers, **options)


class Pair:
    """A primary and its replica."""

    def __init__(self, old: EmbeddedServer, new: EmbeddedServer) -> None:
        self.old, self.new = old, new
        self.raw_old = Redis.from_url(old.url, decode_responses=True)
        self.raw_new = Redis.from_url(new.url, decode_responses=True)

    def promote(self) -> None:
        self.raw_old.set("written-last", 1)
        assert self.raw_old.wait(1, 10_000) == 1  # all that was written before is copied, too
        self.raw_new.replicaof("NO", "ONE")

    def demote(self) -> None:
        self.raw_old.replicaof("127.0.0.1", self.new.port)

    def is_in_sync(self) -> bool:
        return bool(self.raw_new.info("replication")["master_link_status"] == "up")

    def ours_on_old(self) -> set[str]:
        """Return the ids of the connections that are neither the test's own nor replication's."""
        own = str(self.raw_old.client_id())
        return {one["id"] for one in self.raw_old.client_list(_type="normal") if one["id"] != own}

    def feeds_on_old(self) -> set[str]:
        """Return those of them that have read events."""
        return {one["id"] for one in self.raw_old.client_list() if one["cmd"] in ("xread", "hdel")}

    def used_on_old(self) -> set[str]:
        """Return those of them that are in use; others are closed when they are used again."""
        clients = self.raw_old.client_list(_type="normal")
        return {one["id"] for one in clients if int(one["idle"]) < 3} & self.ours_on_old()


@pytest.fixture
async def pair(own_server: OwnServer) -> AsyncIterator[Pair]:
    pair = Pair(*(own_server(config={"repl-diskless-sync-delay": 0}) for _ in range(2)))
    pair.raw_new.replicaof("127.0.0.1", pair.old.port)
    await until(pair.is_in_sync, seconds=20)
    yield pair
    pair.raw_old.close()
    pair.raw_new.close()


@contextlib.contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], list[str]]]:
    """Yield what returns the lines that hold some words."""
    with caplog.at_level(logging.INFO, "shared_registry"):
        yield lambda words: [line for record in caplog.records if words in (line := record.getMessage())]


async def lands(change: Callable[[], Any]) -> bool:
    """Whether a change is made now."""
    try:
        await change()
    except StoreError:
        return False
    return True


async def uses(pair: Pair, one: SharedReplicaRegistry, other: SharedReplicaRegistry) -> None:
    """Wait until two routers do everything on the new primary: live, lead, place, drain, and see what others do."""
    await until(lambda: pair.raw_new.zscore(KEYS.routers, one.router_key) is not None, seconds=30)

    def live() -> bool:
        seconds, _ = pair.raw_new.time()
        found = pair.raw_new.zrangebyscore(KEYS.routers, f"({int(seconds) * 1000}", "+inf")
        return set(found) == {one.router_key, other.router_key}

    await until(live, seconds=30)
    await until(lambda: bool(pair.raw_new.exists(KEYS.leader)), seconds=30)
    await until(lambda: lands(lambda: one.drain(A)), seconds=30)
    assert pair.raw_new.hget(KEYS.replica(A), "admin") == "draining"

    def is_seen() -> bool:
        replica = other.get(A)
        return replica is not None and replica.admin.value == "draining"

    await until(is_seen, seconds=30)
    await until(lambda: lands(lambda: one.enable(A)), seconds=30)

    async def is_placed() -> bool:
        try:
            lease = await other.acquire()
        except Exception:  # noqa: BLE001  not yet
            return False
        found = pair.raw_new.hexists(KEYS.leases(other.router_key), lease.id)
        await lease.release()
        return bool(found)

    await until(is_placed, seconds=30)


async def test_after_a_demotion_routers_move_to_the_new_primary(pair: Pair) -> None:
    async with FaultyProxy(pair.old.port) as address, registry(address.url) as one, registry(address.url) as other:
        pair.promote()
        address.server_port = pair.new.port
        pair.demote()
        await uses(pair, one, other)
        await until(lambda: not pair.used_on_old())


async def test_an_address_that_switches_late_is_followed(pair: Pair) -> None:
    async with FaultyProxy(pair.old.port) as address, registry(address.url) as one, registry(address.url) as other:
        pair.promote()
        pair.demote()
        await until(lambda: one.write_failure is not None, seconds=30)
        before = address.connections
        await asyncio.sleep(3)  # what is counted here is what happens meanwhile
        made = address.connections - before
        address.server_port = pair.new.port
        await uses(pair, one, other)
        await until(lambda: not pair.used_on_old())
    assert made <= 40, f"two routers connected {made} times within 3 s"


async def test_clients_of_the_caller_move_too(pair: Pair) -> None:
    async with FaultyProxy(pair.old.port) as address, contextlib.AsyncExitStack() as stack:
        clients = [AsyncRedis.from_url(address.url, decode_responses=True) for _ in range(2)]
        for client in clients:
            stack.push_async_callback(client.aclose)
        one, other = [await stack.enter_async_context(registry(address.url, redis=client)) for client in clients]
        pair.promote()
        address.server_port = pair.new.port
        pair.demote()
        await uses(pair, one, other)
        await until(lambda: not pair.used_on_old())


def demote_between_reads(pair: Pair) -> None:
    """Demote the old primary while no client is blocked on it, which it would tell. Holds up the loop: none comes."""
    while pair.raw_old.info("clients")["blocked_clients"]:
        time.sleep(0.005)
    pair.demote()


async def test_a_demotion_seen_only_by_the_event_stream_counts(pair: Pair) -> None:
    """All commands have moved already, and no answer to them says that the event stream has not."""
    async with FaultyProxy(pair.old.port) as address, registry(address.url) as one, registry(address.url) as other:
        await until(lambda: len(pair.feeds_on_old()) == 2)
        pair.promote()
        address.server_port = pair.new.port

        async def only_feeds_are_left() -> bool:
            for each in (one, other):
                for client in (each._clients.commands, each._clients.control):
                    await client.multiplexer.close()
            return len(pair.ours_on_old()) == 2

        await until(only_feeds_are_left)
        demote_between_reads(pair)
        await uses(pair, one, other)
        await until(lambda: not pair.used_on_old())


async def test_a_read_at_rest_finds_out_a_demotion(pair: Pair) -> None:
    async with on_server(pair.old.url, NAMESPACE) as space:
        await space.add(A)
        head = await space.reader.head()
        assert await space.reader.wait_at_rest(after=head.revision, seconds=0.05) == ([], head)
        pair.promote()
        pair.demote()
        space.raw.close()  # a connection of the test's, which looks like ours
        await until(lambda: len(pair.ours_on_old()) == 3)
        before = pair.ours_on_old()
        await space.reader.wait_at_rest(after=head.revision, seconds=0.05)
        await space.reader.head()
        await until(lambda: not before & pair.ours_on_old())


async def test_idle_connections_are_closed_at_once(pair: Pair) -> None:
    async with FaultyProxy(pair.old.port) as address, on_server(address.url, NAMESPACE, raw_url=pair.old.url) as space:
        store = space.store_of("router~1")
        await asyncio.gather(store.renew("token", lease_seconds=60), store.release("a"), space.reader.head())
        assert len(pair.ours_on_old()) == 2
        pair.promote()
        address.server_port = pair.new.port
        pair.demote()
        space.raw.close()  # a connection of the test's, which looked like ours
        with pytest.raises(StoreUnavailable, match="replica, not the primary"):
            await store.campaign("token", lease_seconds=60, seen_epoch=0)
        await space.reader.head()
        await until(lambda: not pair.ours_on_old())
        assert isinstance(await store.campaign("token", lease_seconds=60, seen_epoch=0), Elected)


async def test_a_read_in_progress_ends_by_itself(pair: Pair) -> None:
    async with on_server(pair.old.url, NAMESPACE) as space:
        await space.add(A)
        after = (await space.reader.head()).revision
        waiting = asyncio.create_task(space.reader.wait_events(after=after, seconds=30))
        await until(lambda: any(one["cmd"] == "xread" for one in pair.raw_old.client_list()))
        (reading,) = [one["id"] for one in pair.raw_old.client_list() if one["cmd"] == "xread"]
        space.clients.failover.moved()
        await space.reader.head()
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await space.add("http://10.0.0.9:8000")
        (event,) = await waiting
        assert event.record is not None
        await until(lambda: reading not in {one["id"] for one in pair.raw_old.client_list()})


async def test_a_replica_used_by_mistake_is_reported(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    with logged(caplog) as lines:
        before = pair.raw_new.info("stats")["total_connections_received"]
        with pytest.raises(StoreUnavailable):
            await registry(pair.new.url).start(timeout_seconds=3)
        made = pair.raw_new.info("stats")["total_connections_received"] - before
        assert lines("the server is a replica, not the primary")
    assert made <= 40


REFUSALS: dict[str, tuple[list[str], list[str]]] = {
    "NOREPLICAS": (["CONFIG SET min-replicas-to-write 2"], ["CONFIG SET min-replicas-to-write 0"]),
    "maxmemory": (["CONFIG SET maxmemory 1"], ["CONFIG SET maxmemory 0"]),
    "permissions": (["ACL SETUSER default -evalsha -eval"], ["ACL SETUSER default +evalsha +eval"]),
}


@pytest.mark.parametrize("reason", REFUSALS)
async def test_other_refusals_close_no_connection(
    own_server: OwnServer, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    server = own_server()
    refuse, accept = REFUSALS[reason]
    with logged(caplog) as lines, Redis.from_url(server.url, decode_responses=True) as raw:
        async with registry(server.url, health_checks=False) as one:
            await until(lambda: bool(one.age_seconds is not None and one.write_failure is None))
            for words in refuse:
                raw.execute_command(*words.split())
            await until(lambda: one.write_failure is not None)
            known = raw.info("stats")["total_connections_received"]
            assert reason in str(one.write_failure)
            at = one.writable_age_seconds
            assert at is not None
            await until(lambda: (one.writable_age_seconds or 0) > at + 1)
            await until(lambda: one.age_seconds is not None and one.age_seconds < 1)
            assert raw.info("stats")["total_connections_received"] == known
            for words in accept:
                raw.execute_command(*words.split())
            await until(lambda: one.write_failure is None and bool(lines("writes are accepted again")))
            assert (one.writable_age_seconds or 0) < at + 1
        assert len(lines("reads work, but writes have failed")) == 1
        assert len(lines("writes are accepted again")) == 1
        assert not lines("connecting anew")


async def test_an_outage_is_not_reported_as_a_refusal(own_server: OwnServer, caplog: pytest.LogCaptureFixture) -> None:
    server = own_server()
    with logged(caplog) as lines:
        async with registry(server.url, health_checks=False) as one:
            await asyncio.to_thread(server.kill)
            await until(lambda: (one.writable_age_seconds or 0) > 2)
            assert one.write_failure is None
            await asyncio.to_thread(server.start)
            await until(lambda: (one.writable_age_seconds or 9) < 1)
        assert not lines("reads work, but writes have failed")


async def test_a_silent_server_is_given_up(pair: Pair) -> None:
    """Its machine is gone, and no packet says so: every connection would be tried, one after the other."""
    async with FaultyProxy(pair.old.port) as address, on_server(address.url, NAMESPACE, timeout_seconds=1.5) as space:
        store = space.store_of("router~1", timeout_seconds=1.5)
        await store.renew("token", lease_seconds=60)
        address.loses_commands = True
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.renew("token", lease_seconds=60)
        pair.promote()
        address.server_port, known = pair.new.port, address.connections
        address.loses_commands = False
        assert not await store.renew("token", lease_seconds=60)
        assert address.connections == known + 1, "an old connection was used"
        assert time.monotonic() - began < 15


def test_reconnecting_is_bounded_however_many_calls_fail() -> None:
    now = 0.0
    failover = Failover(now=lambda: now)
    for _ in range(600):
        failover.ended(read_only(), is_late=False, answers=0, sweeps=failover.sweeps)
        now += 0.1
    assert 30 <= failover.generation <= 40
    now += 60
    before = failover.generation
    failover.ended(read_only(), is_late=False, answers=0, sweeps=failover.sweeps)
    now += 0.3
    failover.ended(read_only(), is_late=False, answers=0, sweeps=failover.sweeps)
    assert failover.generation == before + 2


def read_only() -> Exception:
    from redis.exceptions import ReadOnlyError

    return ReadOnlyError("You can't write against a read only replica.")
