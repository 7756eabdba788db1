"""One connection per origin: kept for some probes, replaced when it ended, never shared, never left half-read."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from shared_registry.errors import ConfigError
from shared_registry.http1.connection import ReplicaConnection
from shared_registry.probing import Evidence, HttpProber, budget, guarded, names
from shared_registry.probing.origins import EXCHANGES_PER_CONNECTION
from tests.support.pauses import Pauses
from tests.support.prompt_probe import begin_prompt
from tests.support.replica_server import ReplicaServer
from tests.support.scripted_server import (
    LONG,
    OK,
    SHORT,
    Peer,
    ScriptedServer,
    answer_all,
    answer_once,
    scripted,
    several_turns,
    stay_silent,
)
from tests.support.until import until


async def test_one_origin_has_one_connection_in_every_spelling() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        for path in ("/health", "/readyz", "", "/", "?deep=1", "/health"):
            assert (await prober(f"{server.url}{path}", timeout=LONG))[1] is None
            assert (await prober(f"{server.url.upper()}{path}", timeout=LONG))[1] is None
    assert server.accepted == 12 // EXCHANGES_PER_CONNECTION
    targets = [request.split(b" ")[1] for request in server.requests]
    assert targets == [b"/health"] * 2 + [b"/readyz"] * 2 + [b"/"] * 4 + [b"/?deep=1"] * 2 + [b"/health"] * 2


@pytest.mark.skipif(not hasattr(socket, "SO_BINDTODEVICE"), reason="only Linux answers on all of 127.x.y.z")
async def test_every_origin_has_its_own_connection() -> None:
    hosts = [f"127.0.1.{number}" for number in range(1, 41)]
    async with ReplicaServer("0.0.0.0") as server, HttpProber() as prober:
        server.replica(hosts[7]).status = 503
        for _ in range(3):
            results = await asyncio.gather(*(prober(f"{server.url(host)}/health", timeout=LONG) for host in hosts))
            assert [error for _, error in results] == ["HTTP 503" if n == 7 else None for n in range(40)]
        failing = server.replica(hosts.pop(7))
        assert (failing.connections, failing.requests) == (3, 3)
        assert {(server.replica(host).connections, server.replica(host).requests) for host in hosts} == {(1, 3)}


@pytest.mark.skipif(not hasattr(socket, "SO_BINDTODEVICE"), reason="only Linux answers on all of 127.x.y.z")
async def test_connections_beyond_the_budget_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "most_kept", lambda: 3)
    hosts = [f"127.0.1.{number}" for number in range(1, 9)]

    def kept() -> int:
        return sum(len(server.replica(host).open_connections) for host in hosts)

    async with ReplicaServer("0.0.0.0") as server, HttpProber() as prober:
        for _ in range(3):
            for host in hosts:
                assert (await prober(f"{server.url(host)}/health", timeout=LONG))[1] is None
            await until(lambda: kept() == 3)
        assert sorted(server.replica(host).connections for host in hosts) == [1] * 3 + [3] * 5
        server.replica(hosts[0]).drop_connections()
        await until(lambda: kept() == 2)
        for host in hosts[1:]:
            assert (await prober(f"{server.url(host)}/health", timeout=LONG))[1] is None
        await until(lambda: kept() == 3, "another one has its place")


async def test_a_new_connection_says_when_its_name_was_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the resolver hangs, it is made by the last answer."""
    answers = threading.Event()
    answers.set()

    def lookup(_: str) -> list[str]:
        assert answers.wait(LONG)
        return ["127.0.0.1"]

    async with scripted(answer_all) as server, HttpProber() as prober:
        prober._origins.names.lookup = lookup
        url = server.url.replace("127.0.0.1", "replica.test")
        began_at: list[float] = []
        found = []
        for hangs in (False, False, True):
            monkeypatch.setattr(names, "PATIENCE_SECONDS", 0.25 if hangs else LONG)
            if hangs:
                answers.clear()
                await asyncio.sleep(0.2)
            began_at.append(time.monotonic())
            found.append(await prober.ask(f"{url}/health", timeout=LONG, fresh=True))
        assert [outcome.error for outcome in found] == [None] * 3
        late = [outcome.looked_up_at > at - 0.1 for outcome, at in zip(found, began_at, strict=True)]
        assert late == [True, True, False]
        assert (await prober.ask(f"{server.url}/health", timeout=LONG, fresh=True)).looked_up_at == math.inf
        answers.set()


# Kept connections must not hide that new ones are refused.


async def test_every_sixth_probe_uses_a_new_connection() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        counts = []
        for _ in range(13):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
            counts.append(server.accepted)
        await until(lambda: server.open == 1)
    assert counts == [1] * 6 + [2] * 6 + [3]


async def test_a_fresh_probe_uses_a_new_connection() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        for number in range(1, 4):
            outcome = await guarded(prober, f"{server.url}/health", LONG, fresh=True)
            assert (outcome.evidence, outcome.address, server.accepted) == (Evidence.OK, "127.0.0.1", number)
        await until(lambda: server.open == 1)


async def test_a_forgotten_replica_is_probed_like_a_new_one() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        url = f"{server.url}/health"
        assert (await prober(url, timeout=LONG))[1] is None
        prober.forget(url)
        for _ in range(3):
            assert (await prober(url, timeout=LONG))[1] is None
        assert server.accepted == 2


async def test_a_dead_listener_is_found_behind_a_kept_connection() -> None:
    async def script(peer: Peer) -> None:
        await answer_all(peer)

    handler = ScriptedServer(script)
    listener = await asyncio.start_server(handler.handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/health"
    try:
        async with HttpProber() as prober:
            assert (await prober(url, timeout=LONG))[1] is None
            listener.close()
            await several_turns()
            errors = [(await prober(url, timeout=LONG))[1] for _ in range(8)]
            assert errors == [None] * 5 + ["ConnectError: connection refused"] * 3
    finally:
        await handler.end()


# Connections that the replica closes between two probes.


async def test_a_connection_closed_while_idle_is_replaced() -> None:
    async with ReplicaServer() as server, HttpProber() as prober:
        for round_number in range(1, 4):
            assert (await prober(f"{server.url()}/health", timeout=LONG))[1] is None
            assert server.replica().connections == round_number
            server.replica().drop_connections()
            await until(lambda: not server.replica().open_connections)
            await several_turns()


async def test_a_connection_just_closed_while_idle_is_replaced() -> None:
    """The close has not been noticed yet."""
    async with ReplicaServer() as server, HttpProber() as prober:
        assert (await prober(f"{server.url()}/health", timeout=LONG))[1] is None
        server.replica().drop_connections()
        assert (await prober(f"{server.url()}/health", timeout=LONG))[1] is None
        assert server.replica().connections == 2


def _by_close(_: Peer) -> None:
    """The script's end closes."""


@pytest.mark.parametrize("closing", [_by_close, Peer.reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("limit", [1, 3])
async def test_a_replica_may_limit_the_requests_of_a_connection(closing: Callable[[Peer], None], limit: int) -> None:
    async def script(peer: Peer) -> None:
        for _ in range(limit):
            await peer.request()
            await peer.send(OK)
        await peer.request()  # takes one more, and closes instead of an answer
        closing(peer)

    async with scripted(script) as server, HttpProber() as prober:
        for _ in range(9):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
    assert server.accepted == -(-9 // limit)


async def test_only_one_fresh_connection_is_tried() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(OK)
            await peer.request()

    async with scripted(script) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        _, error = await prober(f"{server.url}/health", timeout=LONG)
        assert error == "RemoteProtocolError: server disconnected without sending a response"
        assert server.accepted == 2


async def test_a_fresh_connection_has_the_remaining_timeout() -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            await peer.send(OK)
            await peer.request()
            await asyncio.sleep(0.8)
        else:
            await peer.gone()

    async with scripted(script) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        async with Pauses() as pauses:
            latency_ms, error = await prober(f"{server.url}/health", timeout=1.0)
        assert server.accepted == 2
        assert error == "timeout after 1.0s while waiting for the response"
        assert latency_ms < 1600 + 1000 * pauses.seconds, "the second try had a timeout of its own"


async def test_a_timeout_names_connecting_or_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object, **options: object) -> ReplicaConnection:
        await asyncio.Event().wait()
        raise AssertionError

    async with ReplicaServer() as server, HttpProber() as prober:
        assert (await prober(f"{server.url()}/health", timeout=LONG))[1] is None
        server.replica().is_hanging = True
        waiting = await prober(f"{server.url()}/health", timeout=SHORT)
        monkeypatch.setattr(ReplicaConnection, "open", hang)
        connecting = await prober(f"{server.url()}/health", timeout=SHORT)
    assert waiting[1] == f"timeout after {SHORT}s while waiting for the response"
    assert connecting[1] == f"timeout after {SHORT}s while connecting"


async def test_a_broken_response_on_a_kept_connection_is_a_failure() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(OK[:20])

    async with scripted(script) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] == (
            "RemoteProtocolError: peer unexpectedly closed connection"
        )
        assert server.accepted == 1


async def test_a_stopped_replica_is_refused_and_later_noticed_again() -> None:
    async with ReplicaServer() as server, HttpProber() as prober:
        assert (await prober(f"{server.url()}/health", timeout=LONG))[1] is None
        await server.stop()
        assert (await prober(f"{server.url()}/health", timeout=LONG))[1] == "ConnectError: connection refused"
        await server.start()
        assert (await prober(f"{server.url()}/health", timeout=LONG))[1] is None


# Answers must belong to their questions.


async def test_a_surplus_response_never_answers_the_next_probe() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(OK + b"HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n")
        else:
            await peer.send(OK)
        await peer.gone()

    async with scripted(script) as server, HttpProber() as prober:
        for _ in range(2):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        assert server.accepted == 2


async def test_data_between_probes_ends_the_connection() -> None:
    may_speak = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            await may_speak.wait()
            await peer.send(b"HTTP/1.1 408 -\r\nContent-Length: 0\r\n\r\n")
        await peer.gone()

    async with scripted(script) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        may_speak.set()
        await until(lambda: server.open == 0)
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        assert server.accepted == 2


@pytest.mark.parametrize("head", [b"", OK[:10], OK[:-1]], ids=["no byte", "half the headers", "half the body"])
async def test_a_cancelled_probe_closes_its_connection(head: bytes) -> None:
    """The next probe opens its own."""
    has_sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if peer.number == 1 and len(server.requests) == 2:
                await peer.send(head)
                has_sent.set()
                await peer.gone()
                return
            await peer.send(OK if peer.number == 1 else OK.replace(b"200", b"418"))

    async with scripted(script) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        task = asyncio.create_task(prober(f"{server.url}/health", timeout=LONG))
        await has_sent.wait()
        await several_turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.open == 0)
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] == "HTTP 418"
        assert server.accepted == 2


async def test_a_probe_cancelled_in_the_tls_handshake_closes_its_connection() -> None:
    async with scripted(stay_silent) as server, HttpProber() as prober:
        task = asyncio.create_task(prober(f"{server.url.replace('http', 'https')}/health", timeout=LONG))
        await until(lambda: server.open == 1)
        await several_turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.open == 0)


async def test_probes_of_one_origin_take_turns() -> None:
    running = most = 0

    async def script(peer: Peer) -> None:
        nonlocal running, most
        while True:
            await peer.request()
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.005)
            running -= 1
            await peer.send(OK)

    async with scripted(script) as server, HttpProber() as prober:
        results = await asyncio.gather(*(prober(f"{server.url}/health", timeout=LONG) for _ in range(8)))
    assert [error for _, error in results] == [None] * 8
    assert (server.accepted, most) == (2, 1)


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "timed out"])
async def test_a_probe_that_gives_up_its_turn_disturbs_no_other(*, is_cancelled: bool) -> None:
    may_answer = asyncio.Event()
    async with scripted(answer_once(may_answer)) as server, HttpProber() as prober:
        first = asyncio.create_task(prober(f"{server.url}/health", timeout=LONG))
        await until(lambda: len(server.requests) == 1)
        second = asyncio.create_task(prober(f"{server.url}/health", timeout=LONG if is_cancelled else SHORT))
        await several_turns()
        if is_cancelled:
            second.cancel()
        await asyncio.wait([second])
        assert second.cancelled() == is_cancelled
        assert is_cancelled or (second.result()[1] or "").startswith(f"timeout after {SHORT}s")
        may_answer.set()
        assert (await first)[1] is None
        assert (server.accepted, server.open) == (1, 1)


# Connections of replicas that are gone.


Parting = Callable[[HttpProber, str], Awaitable[None]]


async def _forget(prober: HttpProber, url: str) -> None:
    prober.forget(url)


async def _forget_by_another_spelling(prober: HttpProber, url: str) -> None:
    prober.forget(f"{url.upper()}/health")


async def _retain_another(prober: HttpProber, url: str) -> None:
    prober.retain(["http://10.9.9.9"])


async def _close(prober: HttpProber, url: str) -> None:
    await prober.aclose()


@pytest.mark.parametrize("part", [_forget, _forget_by_another_spelling, _retain_another, _close])
async def test_the_connection_of_a_removed_replica_is_closed(part: Parting) -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        await part(prober, server.url)
        await until(lambda: server.open == 0)


async def test_the_connection_of_a_remaining_replica_is_kept() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        for _ in range(3):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
            prober.retain([f"{server.url.upper()}/", "http://10.9.9.9"])
            prober.forget("http://10.9.9.9")
        assert (server.accepted, server.open) == (1, 1)


async def test_retain_refuses_an_invalid_url_and_forgets_nothing() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        with pytest.raises(ConfigError, match="no http"):
            prober.retain(["http://10.0.0.1", "10.0.0.2"])
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        assert server.accepted == 1


async def test_a_probe_in_progress_outlives_its_replica_and_closes() -> None:
    may_answer = asyncio.Event()
    async with scripted(answer_once(may_answer)) as server, HttpProber() as prober:
        task = asyncio.create_task(prober(f"{server.url}/health", timeout=LONG))
        await until(lambda: len(server.requests) == 1)
        prober.retain([])
        may_answer.set()
        assert (await task)[1] is None
        await until(lambda: server.open == 0)


async def test_closing_the_prober_fails_probes_in_progress() -> None:
    async with scripted(stay_silent) as server, HttpProber() as prober:
        task = asyncio.create_task(prober(f"{server.url}/health", timeout=LONG))
        await until(lambda: server.open == 1)
        await several_turns()
        await prober.aclose()
        assert (await task)[1] is not None
        await until(lambda: server.open == 0)


async def test_a_probe_without_a_task_is_alone_at_its_replica() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        url, ended = f"{server.url}/health", list[object]()
        for _ in range(EXCHANGES_PER_CONNECTION):
            assert begin_prompt(prober, url, ended.append) is not None
            assert begin_prompt(prober, url, ended.append) is None, "one is under way"
            count = len(ended)
            await until(lambda: len(ended) > count)  # noqa: B023
        assert [getattr(outcome, "error", "") for outcome in ended] == [None] * EXCHANGES_PER_CONNECTION


async def test_a_probe_without_a_task_ends_at_its_limit() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.gone()

    async with scripted(script) as server, HttpProber() as prober:
        url, ended = f"{server.url}/health", list[object]()
        assert (await prober(url, timeout=LONG))[1] is None
        assert begin_prompt(prober, url, ended.append, SHORT) is not None
        await until(lambda: ended)
        assert getattr(ended[0], "error", "") == f"timeout after {SHORT}s while waiting for the response"
        await until(lambda: server.open == 0)


async def test_a_probe_without_a_task_asks_for_another_try() -> None:
    """The replica had closed the connection, which says nothing of it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()

    async with scripted(script) as server, HttpProber() as prober:
        url, ended = f"{server.url}/health", list[object]()
        assert (await prober(url, timeout=LONG))[1] is None
        assert begin_prompt(prober, url, ended.append) is not None
        await until(lambda: ended)
        assert isinstance(ended[0], float)


async def test_a_cancelled_probe_without_a_task_closes_its_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.gone()

    async with scripted(script) as server, HttpProber() as prober:
        url, ended = f"{server.url}/health", list[object]()
        assert (await prober(url, timeout=LONG))[1] is None
        probe = begin_prompt(prober, url, ended.append)
        assert probe is not None
        probe.give_up()
        await until(lambda: server.open == 0)
        assert ended == []
        assert (await prober(url, timeout=LONG))[1] is None, "the next one has its turn"
