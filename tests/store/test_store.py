"""What the store makes of a Redis that is down, silent, full, read-only or unwilling, and of replies that are lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from shared_registry.admin.inspector import Inspector
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import StoreError, StoreRefused, StoreUnavailable
from shared_registry.model import AdminState, ProbeResult, ReplicaEndpoint, Source, Term
from shared_registry.store import client
from shared_registry.store.answers import new_token
from shared_registry.store.channel import scripts
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.lua import Script
from shared_registry.store.reads import BLOCK_MARGIN_SECONDS
from shared_registry.store.replies import Elected
from shared_registry.store.schema import SCHEMA
from tests.support.failover.scenarios import stopped
from tests.support.faulty_proxy import FaultyProxy
from tests.support.losing_proxy import LosingProxy, Loss
from tests.support.space import THRESHOLDS, A, B, Space, info, on_server
from tests.support.until import until

OwnServer = Callable[..., EmbeddedServer]
Call = Callable[[Space], Awaitable[object]]
EPOCH = 7
POD = "http://127.0.0.9:8000"
TERM = Term(EPOCH, "token")
SHORT_SECONDS = 1.0


@contextlib.asynccontextmanager
async def on_own(server: EmbeddedServer, *, timeout_seconds: float = 10.0) -> AsyncIterator[Space]:
    async with on_server(server.url, "own", timeout_seconds=timeout_seconds) as space:
        space.store = space.store_of("router~1", timeout_seconds=timeout_seconds)
        space.reader = Inspector(space.clients, space.keys, timeout_seconds=timeout_seconds)
        yield space


async def populate(space: Space) -> None:
    """Register A, elect in epoch 7, and let two routers join, of which the second has expired."""
    await space.add(request="first")
    await announce(space, POD)
    await space.elect()
    space.raw.hset(space.keys.leader, "epoch", EPOCH)
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
    space.raw.hset(space.keys.meta, "schema", f"1-{SCHEMA}")  # so that there is something to upgrade
    await space.store.heartbeat(info("router~2"), expiry_seconds=60)
    space.expire_router("router~2")


async def announce(space: Space, url: str) -> object:
    return await space.store.announce(url, ReplicaEndpoint(url), owner="o", instance="first", ttl_seconds=60)


CALLS: dict[str, Call] = {
    "register": lambda space: space.add(B, request="again"),
    "register_all": lambda space: space.add_all({B: ReplicaEndpoint(B)}),
    "set_admin": lambda space: space.store.set_admin(A, AdminState.DRAINING),
    "deregister": lambda space: space.store.deregister(A, "first"),
    "campaign": lambda space: space.store.campaign("token", lease_seconds=60, seen_epoch=0),
    "renew": lambda space: space.store.renew("token", lease_seconds=60),
    "report": lambda space: space.report(EPOCH, 1, ProbeResult(A, "first", 1.0)),
    "heartbeat": lambda space: space.store.heartbeat(info("router~3"), expiry_seconds=60),
    "reap": lambda space: space.store.reap("router~2"),
    "leave": lambda space: space.store.leave(),
    "resign": lambda space: space.store.resign("token"),
    "step_down": lambda space: space.store.step_down(EPOCH, sit_out_seconds=9),
    "upgrade": lambda space: space.store.upgrade(by="me"),
    "record_outcome": lambda space: space.store.record_outcome(ProbeResult(A, "first", 1.0), THRESHOLDS),
    "advance_ramps": lambda space: space.store.advance_ramps(TERM, [A], slow_start_seconds=9),
    "declare_panic": lambda space: space.store.declare_panic(TERM, "few"),
    "register_discovered": lambda space: space.store.register_discovered(TERM, "dns:pods", B, ReplicaEndpoint(B)),
    "govern": lambda space: space.store.govern(TERM, "explicit", A, "draining"),
    "announce": lambda space: announce(space, B),
    "beat": lambda space: space.store.beat(POD, "first"),
    "withdraw": lambda space: space.store.withdraw(POD, "first"),
    "head": lambda space: space.reader.head(),
}
READS: dict[str, Call] = {
    "leader": lambda space: space.reader.leader(),
    "panic": lambda space: space.reader.panic(),
    "server_time": lambda space: space.reader.server_time(),
    "snapshot": lambda space: space.reader.snapshot(),
    "records": lambda space: space.reader.records([A]),
    "last_events": lambda space: space.reader.last_events(3),
    "in_flight": lambda space: space.reader.in_flight(A),
    "queue_depth": lambda space: space.reader.queue_depth(),
    "poll": lambda space: space.reader.poll(after="0-0"),
    "wait_events": lambda space: space.reader.wait_events(after="0-0", seconds=SHORT_SECONDS),
    "wait_at_rest": lambda space: space.reader.wait_at_rest(after="0-0", seconds=SHORT_SECONDS),
}

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


async def test_a_server_that_is_down_is_unavailable_at_once(own_server: OwnServer) -> None:
    server = own_server()
    async with on_own(server) as space:
        await populate(space)
        server.kill()
        for call in CALLS.values():
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await call(space)
            assert time.monotonic() - begun < 5.0, "long before the timeout"


async def test_a_silent_server_is_unavailable_until_it_answers(own_server: OwnServer) -> None:
    """After the timeout, and usable afterwards."""
    server = own_server()
    async with on_own(server, timeout_seconds=SHORT_SECONDS) as space:
        space.raw.ping()
        await populate(space)
        with stopped(server):
            took = []
            for name in ("register", "renew", "report"):
                begun = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    await CALLS[name](space)
                took.append(time.monotonic() - begun)
            assert SHORT_SECONDS * 0.9 < min(took) < SHORT_SECONDS * 1.9, "one timeout, and no second try"
            assert max(took) < 5.0
        await until_it_answers(space)
        answers = await asyncio.gather(*(space.store.renew(token, lease_seconds=60) for token in ["token", "x"] * 10))
        assert answers == [True, False] * 10


async def test_every_call_on_a_silent_server_is_bounded(own_server: OwnServer) -> None:
    """However many there are."""
    server = own_server()
    async with on_own(server, timeout_seconds=1.0) as space:
        await populate(space)
        with stopped(server):
            begun = time.monotonic()
            calls = [call(space) for call in (*CALLS.values(), *READS.values()) for _ in range(20)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - begun < 1.0 + BLOCK_MARGIN_SECONDS + 10.0, "not one lane of calls after the other"
        assert {type(answer) for answer in answers} == {StoreUnavailable}


async def until_it_answers(space: Space) -> None:
    async def answers() -> bool:
        with contextlib.suppress(StoreUnavailable):
            await space.reader.head()
            return True
        return False

    await until(answers)


async def test_a_cancelled_call_leaves_the_connections_intact(space: Space) -> None:
    await populate(space)
    for _ in range(50):
        task = asyncio.create_task(space.store.renew("token", lease_seconds=60))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        answers = await asyncio.gather(*(space.store.renew(token, lease_seconds=60) for token in ["token", "x"] * 3))
        assert answers == [True, False] * 3


@pytest.mark.parametrize("name", ["report_probes", "declare_panic", "advance_ramps"])
async def test_the_end_of_a_term_costs_no_connection(server: EmbeddedServer, namespace: str, name: str) -> None:
    """Or a leader that steps aside, since it can open nothing more, could not resign."""
    sent: dict[str, Call] = {
        "report_probes": lambda space: space.store.report(TERM, 1, [ProbeResult(A, "", 1.0)], THRESHOLDS),
        "declare_panic": lambda space: space.store.declare_panic(TERM, "few are healthy"),
        "advance_ramps": lambda space: space.store.advance_ramps(TERM, [A], slow_start_seconds=1.0),
    }
    async with FaultyProxy(server.port) as proxy, on_server(proxy.url, namespace, raw_url=server.url) as space:
        await space.store.renew("none", lease_seconds=60)
        connections = proxy.connections
        gate = proxy.gate = asyncio.Event()
        call = asyncio.ensure_future(sent[name](space))
        await until(lambda: proxy.held)
        call.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        await space.store.resign("token")
        assert proxy.connections == connections


async def test_a_hundred_calls_at_once_all_succeed(space: Space) -> None:
    await asyncio.gather(*(space.add(f"http://10.0.0.{n}:80") for n in range(100)))
    assert len(await space.reader.urls()) == 100


async def test_forgotten_scripts_are_sent_again(own_server: OwnServer) -> None:
    server = own_server()
    async with on_own(server) as space:
        await space.add(A)
        space.raw.script_flush()
        await space.add(B)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert await space.add(A, request="anew")
        assert await space.reader.urls() == [A]


async def test_commands_that_free_memory_work_while_memory_is_short(own_server: OwnServer) -> None:
    """The other commands write nothing."""
    async with on_own(own_server()) as space:
        await populate(space)
        space.raw.config_set("maxmemory", 1)
        with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
            space.raw.set("x", "y")
        for name in ("register", "heartbeat", "report", "record_outcome"):
            before = space.dump()
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await CALLS[name](space)
            assert space.dump() == before, name
        for name in ("head", "renew", "reap", "leave", "deregister", "withdraw", "step_down"):
            assert await CALLS[name](space), name
        left = {"meta", "removed", "replica:" + A, "departing", "replica:" + POD, "events"}
        assert name_set(space) == left
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await CALLS["campaign"](space)
        assert name_set(space) == left
        space.raw.config_set("maxmemory", 0)
        assert isinstance(await CALLS["campaign"](space), Elected)
        space.raw.config_set("maxmemory", 1)
        assert await CALLS["resign"](space)


def name_set(space: Space) -> set[str]:
    return {key.removeprefix(space.keys.prefix) for key in space.dump()}


async def test_a_read_only_replica_is_unavailable_for_writes(own_server: OwnServer) -> None:
    async with on_own(own_server()) as space:
        await populate(space)
        space.raw.execute_command("REPLICAOF", "127.0.0.1", "1")
        before = space.dump()
        for name in CALLS.keys() - {"head", "report"}:
            with pytest.raises(StoreUnavailable, match=r"read only|READONLY"):
                await CALLS[name](space)
        assert space.dump() == before
        assert (await space.reader.head()).history_id


@pytest.mark.parametrize("setting", [{"min-replicas-to-write": 1}, {"save": "3600 1"}])
async def test_a_server_that_refuses_writes_temporarily_is_unavailable(
    own_server: OwnServer, setting: dict[str, str | int]
) -> None:
    server = own_server(config=setting)
    async with on_own(server) as space:
        if "save" in setting:
            (server.data_dir / "dump.rdb").mkdir()  # so that saving fails
            space.raw.bgsave()
            await until(lambda: space.raw.info("persistence")["rdb_last_bgsave_status"] == "err")
        with pytest.raises(StoreUnavailable, match=r"NOREPLICAS|MISCONF"):
            await space.add()
        assert space.dump() == {}
    server.kill()  # asked to stop, it would insist on saving


async def test_a_server_busy_with_a_foreign_script_is_unavailable(own_server: OwnServer) -> None:
    server = own_server(config={"lua-time-limit": 20})
    async with on_own(server, timeout_seconds=5.0) as space:
        await space.add()
        with Redis.from_url(server.url) as other:
            endless = asyncio.create_task(asyncio.to_thread(_run_endless_script, other))

            async def is_busy() -> bool:
                with contextlib.suppress(StoreUnavailable):
                    await space.store.renew("token", lease_seconds=60)
                    return False
                return True

            await until(is_busy)
            with pytest.raises(StoreUnavailable, match="BUSY"):
                await space.add(B)
            space.raw.script_kill()
            await endless
        await space.add(B)


def _run_endless_script(redis: Redis) -> None:
    with contextlib.suppress(Exception):
        redis.eval("while true do end", 0)


@pytest.mark.parametrize(
    ("user", "rule"),
    [
        ("no-scripts", "~* +@all -eval -evalsha"),
        ("no-keys", "~other* +@all"),
        ("no-hset", "~* +@all -hset -hsetnx"),
        ("nothing", ""),
    ],
)
async def test_missing_rights_are_refused_with_the_remedy(own_server: OwnServer, user: str, rule: str) -> None:
    server = own_server()
    with Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", user, "on", ">secret", *rule.split())
        if server_knows_channels(raw):
            raw.execute_command("ACL", "SETUSER", user, "allchannels")
    with pytest.raises(StoreRefused, match="rights") as caught:
        await register(f"redis://{user}:secret@127.0.0.1:{server.port}/0")
    assert "secret" not in str(caught.value)


def server_knows_channels(raw: Redis) -> bool:
    return b"channels" in (raw.execute_command("ACL", "GETUSER", "default") or [])


@pytest.mark.parametrize("credentials", ["", ":wrong@", "nobody:wrong@"])
async def test_wrong_credentials_are_refused(own_server: OwnServer, credentials: str) -> None:
    server = own_server(config={"requirepass": "right"})
    with pytest.raises(StoreRefused, match="password") as caught:
        await register(f"redis://{credentials}127.0.0.1:{server.port}/0")
    assert "wrong" not in str(caught.value).replace("wrong password", "")
    await register(f"redis://:right@127.0.0.1:{server.port}/0")


async def register(url: str) -> None:
    clients = client.connect(url, timeout_seconds=5.0, block_seconds=1.0)
    try:
        store = Store(clients, Keys("own"), router="router~1", timeout_seconds=5.0)
        await store.register(A, ReplicaEndpoint(A), mode=Source.EXPLICIT, request=new_token())
    finally:
        await clients.close()


@pytest.fixture
async def behind_proxy(server: EmbeddedServer, namespace: str) -> AsyncIterator[tuple[Space, LosingProxy]]:
    """A space whose store goes through the proxy, while `raw` does not."""
    async with (
        LosingProxy(server.port) as proxy,
        on_server(proxy.url, namespace, raw_url=server.url) as space,
    ):
        yield space, proxy


@pytest.mark.parametrize("how", Loss)
async def test_a_command_with_a_lost_reply_runs_exactly_once(
    behind_proxy: tuple[Space, LosingProxy], how: Loss
) -> None:
    space, proxy = behind_proxy
    await space.add()
    await space.store.record_outcome(space.failure(), THRESHOLDS)
    impatient = space.store_of("router~1", timeout_seconds=SHORT_SECONDS)
    proxy.lose_next_reply(how)
    with pytest.raises(StoreUnavailable):
        await (space.store if how is Loss.CLOSED else impatient).record_outcome(space.failure(), THRESHOLDS)
    await until(lambda: proxy.lost == 1)
    assert space.fields(A)["consecutive_failures"] == "2"


IDEMPOTENT = sorted(CALLS.keys() - {"record_outcome", "head", "report"})


@pytest.mark.parametrize("name", IDEMPOTENT)
async def test_repeating_after_a_lost_reply_is_harmless(behind_proxy: tuple[Space, LosingProxy], name: str) -> None:
    space, proxy = behind_proxy
    await populate(space)
    if name == "campaign":
        space.raw.delete(space.keys.leader)
    await warm_up(space)
    before = space.raw.xlen(space.keys.events)
    proxy.lose_next_reply(Loss.CLOSED)
    with pytest.raises(StoreUnavailable):
        await CALLS[name](space)
    assert proxy.lost == 1
    once = space.raw.xlen(space.keys.events)
    assert once == before + (name not in ("renew", "advance_ramps", "beat"))
    await CALLS[name](space)
    await CALLS[name](space)
    assert space.raw.xlen(space.keys.events) == once


async def warm_up(space: Space) -> None:
    """Make every command known to the server, so that the reply lost is not the one that asks for its text."""
    for script in scripts().values():
        space.raw.script_load(script.text)


async def test_a_batch_repeated_after_a_lost_reply_is_a_duplicate(
    behind_proxy: tuple[Space, LosingProxy],
) -> None:
    space, proxy = behind_proxy
    await space.add()
    epoch = await space.elect()
    await warm_up(space)
    proxy.lose_next_reply(Loss.CLOSED)
    with pytest.raises(StoreUnavailable):
        await space.report(epoch, 1, space.failure())
    assert (await space.report(epoch, 1, space.failure())).is_duplicate
    assert space.fields(A)["consecutive_failures"] == "1"


async def test_an_answer_unknown_to_this_version_is_an_error(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {**scripts(), "renew": Script.of("return {'surprise'}")}
    monkeypatch.setattr("shared_registry.store.channel.scripts", lambda: changed)
    with pytest.raises(StoreError, match="surprise"):
        await space.store_of("router~1").renew("token", lease_seconds=60)
