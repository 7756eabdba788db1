"""Many calls over one connection: each gets its own reply, whatever happens to the others or to the connection."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis import Redis, exceptions

from shared_registry.embedded import EmbeddedServer
from shared_registry.store import client
from shared_registry.store.client import Clients
from shared_registry.store.multiplexed import MultiplexedClient
from shared_registry.store.multiplexer import Closed, Multiplexer, NoReply, NotSent
from shared_registry.store.packing import pack
from tests.support.programs import free_port
from tests.support.until import until

pytestmark = pytest.mark.redis
TIMEOUT = 1.0
LONG = 20.0


@pytest.fixture
def redis(own_server: Callable[..., EmbeddedServer]) -> EmbeddedServer:
    return own_server()


@pytest.fixture
async def clients(redis: EmbeddedServer) -> AsyncIterator[Clients]:
    connected = client.connect(redis.url, timeout_seconds=TIMEOUT, block_seconds=1.0)
    yield connected
    await connected.close()


@pytest.fixture
async def lasting(redis: EmbeddedServer) -> AsyncIterator[Clients]:
    """Clients with so much time that only what a test does ends a call."""
    connected = client.connect(redis.url, timeout_seconds=LONG, block_seconds=1.0)
    yield connected
    await connected.close()


@pytest.fixture
def raw(redis: EmbeddedServer) -> Redis:
    return Redis.from_url(redis.url, decode_responses=True)


def multiplexer_of(clients: Clients) -> Multiplexer:
    assert isinstance(clients.commands, MultiplexedClient)
    return clients.commands.multiplexer


def echo(multiplexer: Multiplexer, text: str, on_reply: Callable[[str], None] | None = None) -> Awaitable[str]:
    return multiplexer.call(pack(("ECHO", text)), is_bounded=True, on_reply=on_reply)


def connections(raw: Redis) -> list[str]:
    own = str(raw.client_id())
    return [one["id"] for one in raw.client_list() if one["id"] != own and one["flags"] != "x"]


async def test_all_calls_share_one_connection(lasting: Clients, raw: Redis) -> None:
    multiplexer = multiplexer_of(lasting)
    replies = await asyncio.gather(*(echo(multiplexer, str(number)) for number in range(2000)))
    assert replies == [str(number) for number in range(2000)]
    assert len(connections(raw)) == 1


async def test_calls_of_one_turn_are_few_reads_at_the_server(lasting: Clients, raw: Redis) -> None:
    multiplexer = multiplexer_of(lasting)
    await echo(multiplexer, "connected")
    before = raw.info("stats")["total_reads_processed"]
    await asyncio.gather(*(echo(multiplexer, str(number)) for number in range(100)))
    assert raw.info("stats")["total_reads_processed"] - before < 20


@pytest.mark.parametrize("seed", range(4))
async def test_cancelled_calls_leave_others_their_own_replies(lasting: Clients, raw: Redis, seed: int) -> None:
    chance, multiplexer = random.Random(seed), multiplexer_of(lasting)

    async def call(number: int) -> str:
        await asyncio.sleep(chance.random() / 50)
        return await echo(multiplexer, str(number))

    tasks = [asyncio.create_task(call(number)) for number in range(600)]
    victims = set(chance.sample(range(600), 200))
    for number in victims:
        asyncio.get_running_loop().call_later(chance.random() / 40, tasks[number].cancel)
    for number, outcome in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
        if number in victims and isinstance(outcome, asyncio.CancelledError):
            continue
        assert outcome == str(number)
    assert await echo(multiplexer, "last") == "last"
    assert len(connections(raw)) == 1


async def test_a_call_cancelled_in_its_turn_is_not_sent(lasting: Clients, raw: Redis) -> None:
    multiplexer = multiplexer_of(lasting)
    await echo(multiplexer, "connected")
    answer = multiplexer.call(pack(("SET", "key", "written")), is_bounded=True, on_reply=lambda _: None)
    assert answer.cancel()
    await echo(multiplexer, "after")
    assert raw.get("key") is None


async def test_a_reply_is_heard_although_its_caller_is_cancelled(lasting: Clients, redis: EmbeddedServer) -> None:
    multiplexer, heard = multiplexer_of(lasting), list[str]()
    await echo(multiplexer, "connected")
    os.kill(redis.pid, signal.SIGSTOP)

    async def call() -> None:
        await echo(multiplexer, "granted", heard.append)

    task = asyncio.create_task(call())
    await asyncio.sleep(0.05)
    task.cancel()
    os.kill(redis.pid, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == ["granted"]
    assert await echo(multiplexer, "after") == "after"


async def test_a_caller_cancelled_twice_waits_for_its_reply(lasting: Clients, redis: EmbeddedServer) -> None:
    multiplexer, heard = multiplexer_of(lasting), list[str]()
    await echo(multiplexer, "connected")
    os.kill(redis.pid, signal.SIGSTOP)

    async def call() -> None:
        await echo(multiplexer, "granted", heard.append)

    task = asyncio.create_task(call())
    for _ in range(2):
        await asyncio.sleep(0.05)
        task.cancel()
    os.kill(redis.pid, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == ["granted"]


async def test_a_cancelled_caller_ends_with_the_connection(lasting: Clients, redis: EmbeddedServer) -> None:
    multiplexer = multiplexer_of(lasting)
    await echo(multiplexer, "connected")
    os.kill(redis.pid, signal.SIGSTOP)

    async def call() -> None:
        await echo(multiplexer, "lost", lambda _: None)

    task = asyncio.create_task(call())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task], timeout=0.1)
    assert not task.done(), "the command may be executed yet"
    redis.kill()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_reply_belongs_to_its_call_alone(lasting: Clients) -> None:
    multiplexer = multiplexer_of(lasting)
    calls = [echo(multiplexer, "a"), multiplexer.call(pack(("NONSENSE",))), echo(multiplexer, "b")]
    first, wrong, second = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, second) == ("a", "b")
    assert isinstance(wrong, exceptions.ResponseError)


async def test_a_silent_server_costs_one_timeout(clients: Clients, redis: EmbeddedServer) -> None:
    multiplexer = multiplexer_of(clients)
    await echo(multiplexer, "connected")
    os.kill(redis.pid, signal.SIGSTOP)
    started = time.monotonic()
    outcomes = await asyncio.gather(*(echo(multiplexer, "lost") for _ in range(200)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {NoReply}
    assert time.monotonic() - started < 10 * TIMEOUT
    os.kill(redis.pid, signal.SIGCONT)

    async def is_back() -> bool:
        try:
            return await echo(multiplexer, "back") == "back"
        except exceptions.RedisError:
            return False

    await until(is_back)


async def test_late_replies_reach_no_other_call(clients: Clients, redis: EmbeddedServer) -> None:
    multiplexer = multiplexer_of(clients)
    await echo(multiplexer, "connected")
    os.kill(redis.pid, signal.SIGSTOP)
    heard: list[str] = []
    late = [echo(multiplexer, f"late {number}", heard.append) for number in range(50)]
    patient = multiplexer.call(pack(("ECHO", "patient")))  # so that the connection is read to the end
    outcomes = await asyncio.gather(*late, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {NoReply}
    os.kill(redis.pid, signal.SIGCONT)
    assert await patient == "patient"
    for number in range(30):
        outcome = (await asyncio.gather(echo(multiplexer, str(number)), return_exceptions=True))[0]
        assert outcome == str(number) or isinstance(outcome, NoReply)
    assert heard == [], "a caller that was told that there is no reply learns of none later"


async def test_a_lost_connection_ends_its_calls_at_once(lasting: Clients, redis: EmbeddedServer) -> None:
    multiplexer = multiplexer_of(lasting)
    await echo(multiplexer, "connected")
    os.kill(redis.pid, signal.SIGSTOP)
    calls = [echo(multiplexer, "lost") for _ in range(20)]
    await asyncio.sleep(0.05)
    redis.kill()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {exceptions.ConnectionError}


async def test_an_idle_connection_that_was_closed_is_replaced(lasting: Clients, raw: Redis) -> None:
    multiplexer = multiplexer_of(lasting)
    await echo(multiplexer, "connected")
    (old,) = connections(raw)
    raw.client_kill_filter(_id=old)
    await until(lambda: not multiplexer._tasks)
    assert await echo(multiplexer, "again") == "again"
    assert connections(raw) != [old]


async def test_where_nobody_listens_all_calls_fail_at_once() -> None:
    connected = client.connect(f"redis://127.0.0.1:{free_port()}", timeout_seconds=LONG, block_seconds=1.0)
    multiplexer = multiplexer_of(connected)
    outcomes = await asyncio.gather(*(echo(multiplexer, "x") for _ in range(50)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {NotSent}
    assert len({id(outcome) for outcome in outcomes}) == 50, "each caller has an error of its own"
    await connected.close()


async def test_an_outdated_connection_serves_out_its_calls(lasting: Clients, raw: Redis) -> None:
    multiplexer = multiplexer_of(lasting)
    await echo(multiplexer, "connected")
    (old,) = connections(raw)
    raw.client_pause(300, all=True)
    earlier = echo(multiplexer, "earlier")
    await asyncio.sleep(0.05)
    lasting.failover.moved()
    later = echo(multiplexer, "later")
    assert [await earlier, await later] == ["earlier", "later"]
    await until(lambda: len(connections(raw)) == 1)
    assert connections(raw) != [old]


async def test_a_blocked_event_loop_ends_no_call(clients: Clients) -> None:
    multiplexer = multiplexer_of(clients)
    await echo(multiplexer, "connected")
    for _ in range(3):
        call = echo(multiplexer, "patient")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(2 * TIMEOUT)  # noqa: ASYNC251  this is what the test is about
        assert await call == "patient"


async def test_closing_ends_all_calls(lasting: Clients, redis: EmbeddedServer) -> None:
    multiplexer = multiplexer_of(lasting)
    await echo(multiplexer, "connected")
    os.kill(redis.pid, signal.SIGSTOP)
    calls = [echo(multiplexer, "lost", lambda _: None) for _ in range(3)]
    await asyncio.sleep(0.05)
    await multiplexer.close()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Closed}
    assert not multiplexer._tasks


async def test_a_connection_that_nobody_needs_any_more_is_closed(clients: Clients, redis: EmbeddedServer) -> None:
    multiplexer = multiplexer_of(clients)
    await echo(multiplexer, "connected")
    os.kill(redis.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * TIMEOUT):  # as its caller bounds it
            await multiplexer.call(pack(("ECHO", "unbounded")))
    await until(lambda: not multiplexer._tasks)


def test_a_second_event_loop_has_its_own_connection(redis: EmbeddedServer) -> None:
    connected = client.connect(redis.url, timeout_seconds=LONG, block_seconds=1.0)
    multiplexer = multiplexer_of(connected)

    async def use(text: str) -> str:
        return await echo(multiplexer, text)

    async def use_and_close(text: str) -> str:
        try:
            return await use(text)
        finally:
            await connected.close()

    assert asyncio.run(use("first")) == "first"
    assert asyncio.run(use_and_close("second")) == "second"


async def test_pipelines_share_the_connection(lasting: Clients, raw: Redis) -> None:
    pipeline = lasting.commands.pipeline(transaction=False)
    pipeline.hset("hash", mapping={"a": "1"})
    pipeline.hgetall("hash")
    pipeline.zadd("hash", {"member": 1})
    pipeline.get("nothing")
    first, second, wrong, last = await pipeline.execute(raise_on_error=False)
    assert (first, second, last) == (1, {"a": "1"}, None)
    assert isinstance(wrong, exceptions.ResponseError)
    assert len(connections(raw)) == 1
