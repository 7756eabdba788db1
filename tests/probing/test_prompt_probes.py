"""Probes without a task say the same of a replica as those with one, also if they open the connection."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from shared_registry.probing import HttpProber, ProbeOutcome, budget, kept, plain_socket
from shared_registry.probing.origins import EXCHANGES_PER_CONNECTION
from shared_registry.probing.plain_response import read_plain
from shared_registry.probing.plain_socket import PlainSockets
from shared_registry.probing.prompt import DIAL_EFFORT, PromptProbe
from tests.support.prompt_probe import RESPONSES, begin_prompt, prompt, sending
from tests.support.replica_server import ReplicaServer
from tests.support.scripted_server import LONG, OK, SHORT, Peer, Script, answer_all, scripted, stay_silent
from tests.support.until import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a new connection needs a task")


@pytest.mark.parametrize("name", RESPONSES)
async def test_any_response_means_the_same_without_a_task(name: str) -> None:
    async with scripted(sending(RESPONSES[name])) as server:
        async with HttpProber() as prober:
            expected = await prober.ask(f"{server.url}/health", timeout=LONG)
        async with HttpProber() as prober:
            found = await prompt(prober, f"{server.url}/health")
    assert (found.error, found.trouble, found.address) == (expected.error, None, expected.address)
    assert server.accepted == 2


async def test_a_refused_connection_is_told_in_the_same_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/health"
    async with HttpProber() as prober:
        expected = await prober.ask(url, timeout=LONG)
        found = await prompt(prober, url)
        assert found.error == expected.error == "ConnectError: connection refused"
        assert (await prompt(prober, url)).error == expected.error, "and again"


async def test_a_timeout_says_what_the_probe_waited_for() -> None:
    async with scripted(stay_silent) as server, HttpProber() as prober:
        found = await prompt(prober, server.url, SHORT)
        assert found.error == f"timeout after {SHORT}s while waiting for the response"
        await until(lambda: server.open == 0)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        async with HttpProber() as prober:
            found = await prompt(prober, f"http://127.0.0.1:{address[1]}", SHORT)
            assert found.error == f"timeout after {SHORT}s while connecting"
        for filler in fillers:
            filler.close()


async def test_a_connection_is_opened_carries_six_and_is_replaced() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        for count in range(2 * EXCHANGES_PER_CONNECTION):
            assert (await prompt(prober, f"{server.url}/health")).error is None
            assert server.accepted == 1 + count // EXCHANGES_PER_CONNECTION
        await until(lambda: server.open == 1)
        assert (await prompt(prober, f"{server.url}/health", fresh=True)).error is None
        assert server.accepted == 3


async def test_a_response_may_arrive_in_pieces() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for at in range(len(OK)):
            await peer.send(OK[at : at + 1])
        await peer.gone()

    async with scripted(script) as server, HttpProber() as prober:
        assert (await prompt(prober, f"{server.url}/health")).error is None


async def test_no_timer_is_left_when_no_probe_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    timers, loop = list[asyncio.TimerHandle](), asyncio.get_running_loop()
    call_at = loop.call_at

    def noted(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*arguments, **options))
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", noted)
    async with scripted(answer_all) as server, scripted(stay_silent) as silent, HttpProber() as prober:
        assert (await prompt(prober, f"{server.url}/health")).error is None
        assert timers
        assert timers[-1].cancelled(), "nothing is left to be timed"
        outcomes = await asyncio.gather(prompt(prober, silent.url, SHORT), prompt(prober, server.url))
        assert [outcome.error is None for outcome in outcomes] == [False, True], "the other one is timed nevertheless"


async def test_equal_responses_are_read_once_and_others_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[bytes]()

    def noted(data: bytes) -> tuple[int, bytes] | None:
        read.append(data)
        return read_plain(data)

    moment = os.urandom(8).hex().encode()

    def saying(status: int) -> Script:
        return sending(b"HTTP/1.1 %d Told\r\nContent-Length: 16\r\n\r\n%s" % (status, moment))

    monkeypatch.setattr(kept, "read_plain", noted)
    async with scripted(saying(200)) as one, scripted(saying(200)) as two, scripted(saying(503)) as ill:
        prober = HttpProber()
        outcomes = [await prompt(prober, server.url) for server in (one, two, ill, one)]
        await prober.aclose()
    assert [outcome.error for outcome in outcomes] == [None, None, "HTTP 503", None]
    assert len(read) == 2


class _Counting(asyncio.Protocol):
    """Notes what was received, and the end of a connection."""

    is_lost = False

    def __init__(self) -> None:
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = error is None


async def test_what_a_socket_does_not_take_is_sent_later() -> None:
    size, received = 8_000_000, list[int]()

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(len(await reader.readexactly(size)))
        writer.close()

    sockets, protocol = PlainSockets(256), _Counting()
    async with await asyncio.start_server(count, "127.0.0.1", 0) as server:
        carrier = sockets.connect("127.0.0.1", server.sockets[0].getsockname()[1], protocol)
        carrier.write(b"x" * (size // 2))
        carrier.write(b"x" * (size - size // 2))
        await until(lambda: protocol.is_lost)
        assert received == [size]
        assert carrier.is_closing()
    sockets.close()


async def test_others_have_their_turn_while_much_is_received(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_socket, "READ_BYTES", 10)
    sockets, protocol = PlainSockets(256), _Counting()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        carrier = sockets.connect("127.0.0.1", listener.getsockname()[1], protocol)
        carrier.write(b"x")
        with listener.accept()[0] as peer:
            peer.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(peer, 1) == b"x", "otherwise its end would be a reset"
            peer.sendall(bytes(1000))
            lengths = [0]
            async with asyncio.timeout(LONG):
                while lengths[-1] < 1000:
                    await asyncio.sleep(0)
                    lengths.append(len(protocol.received))
            assert max(b - a for a, b in itertools.pairwise(lengths)) <= 20 * plain_socket.PIECES_AT_ONCE
        await until(lambda: protocol.is_lost)
    sockets.close()


async def test_an_ipv6_address_needs_no_task() -> None:
    async with ReplicaServer("::1") as server, HttpProber() as prober:
        assert (await prompt(prober, f"http://[::1]:{server.port}/health")).error is None


async def test_beyond_the_budget_nothing_is_kept_without_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "most_kept", lambda: 0)
    async with scripted(answer_all) as server, HttpProber() as prober:
        assert (await prompt(prober, f"{server.url}/health")).error is None
        await until(lambda: server.open == 0)


async def test_a_slow_opening_is_left_to_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(PlainSockets, "connect", refuse)
    async with scripted(answer_all) as server, HttpProber() as prober:
        assert begin_prompt(prober, f"{server.url}/health", lambda _: None) is None
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None, "nobody else has the turn"


@pytest.mark.parametrize("end", ["forget", "aclose", "cancel"])
async def test_a_connection_without_a_task_is_closed(end: str) -> None:
    async with scripted(stay_silent) as server, HttpProber() as prober:
        ended: list[object] = []
        seconds = SHORT if end == "forget" else LONG
        probe = begin_prompt(prober, f"{server.url}/health", ended.append, seconds)
        assert probe is not None
        await until(lambda: server.requests or server.open)
        if end == "aclose":
            await prober.aclose()
        elif end == "cancel":
            probe.give_up()
        else:
            prober.forget(server.url)
        await until(lambda: server.open == 0)
        assert bool(ended) is (end == "forget"), "what is forgotten still ends"


class Accepting:
    """Sockets that accept connections, and answer when the test says so, all in one moment."""

    def __init__(self, count: int) -> None:
        self.listeners = [socket.create_server((f"127.0.0.{2 + at}", 0)) for at in range(count)]
        self.urls = [f"http://{one.getsockname()[0]}:{one.getsockname()[1]}/health" for one in self.listeners]
        self.accepted: list[socket.socket] = []

    async def take_requests(self) -> None:
        for listener in self.listeners:
            listener.setblocking(False)
            peer, _ = await asyncio.get_running_loop().sock_accept(listener)
            peer.setblocking(False)
            self.accepted.append(peer)
            assert await asyncio.get_running_loop().sock_recv(peer, 65536)

    def answer(self) -> None:
        for peer in self.accepted:
            peer.send(OK)

    def close(self) -> None:
        for one in self.listeners + self.accepted:
            one.close()


@pytest.fixture
def accepting() -> Iterator[Accepting]:
    sockets = Accepting(5)
    yield sockets
    sockets.close()


class Handed:
    """Probes of these urls, and what was said of them."""

    def __init__(self, prober: HttpProber, urls: Sequence[str], *, timeout: float = LONG) -> None:
        self.well: list[list[PromptProbe]] = []
        self.ended: list[tuple[PromptProbe, ProbeOutcome | float]] = []
        together = prober.prompt_probes(timeout=timeout, on_well=self._on_well, on_ended=self._on_ended)
        assert together is not None
        self.together = together
        self.probes = [probe for at, url in enumerate(urls) if (probe := together.of(url, at)) is not None]

    def begin(self) -> list[int]:
        return [probe.begin(fresh=False) for probe in self.probes]

    def _on_well(self, probes: Sequence[PromptProbe]) -> None:
        self.well.append(list(probes))

    def _on_ended(self, probe: PromptProbe, outcome: ProbeOutcome | float) -> None:
        self.ended.append((probe, outcome))


async def test_what_succeeds_in_one_moment_is_handed_over_at_once(accepting: Accepting) -> None:
    async with HttpProber() as prober:
        handed = Handed(prober, accepting.urls)
        assert handed.begin() == [DIAL_EFFORT] * 5
        assert handed.begin() == [0] * 5, "they are under way"
        await accepting.take_requests()
        accepting.answer()
        await until(lambda: handed.well)
        assert [sorted(probe.owner for probe in probes) for probes in handed.well] == [[0, 1, 2, 3, 4]]
        assert all(0 < probe.seconds < LONG and probe.outcome.error is None for probe in handed.probes)
        assert handed.begin() == [1] * 5, "over the kept connections"
        assert not handed.ended


async def test_a_success_that_waits_is_neither_lost_nor_ended_again(accepting: Accepting) -> None:
    async with HttpProber() as prober:
        handed = Handed(prober, accepting.urls)
        handed.begin()
        await accepting.take_requests()
        accepting.answer()
        async with asyncio.timeout(LONG):
            while any(probe.is_under_way for probe in handed.probes):  # noqa: ASYNC110  each turn counts
                await asyncio.sleep(0)
        assert not handed.well
        for probe in handed.probes:
            probe.expire()
        handed.together.flush()
        handed.together.give_up()
        assert [len(probes) for probes in handed.well] == [5]
        assert not handed.ended
        assert handed.begin() == [1] * 5, "their connections were kept"


async def test_all_that_are_under_way_can_be_given_up(accepting: Accepting) -> None:
    async with HttpProber() as prober:
        handed = Handed(prober, accepting.urls, timeout=SHORT)
        handed.begin()
        await accepting.take_requests()
        handed.together.give_up()
        accepting.answer()
        await asyncio.sleep(2 * SHORT)
        assert not handed.well
        assert not handed.ended
        assert handed.begin() == [DIAL_EFFORT] * 5


async def test_each_ends_at_its_own_limit_however_many_begin(accepting: Accepting) -> None:
    async with HttpProber() as prober:
        handed = Handed(prober, accepting.urls, timeout=SHORT)
        handed.begin()
        await accepting.take_requests()
        await until(lambda: len(handed.ended) == 5)
        said = {outcome.error for _, outcome in handed.ended if isinstance(outcome, ProbeOutcome)}
        assert said == {f"timeout after {SHORT}s while waiting for the response"}


async def test_a_forgotten_replica_is_probed_over_a_new_connection() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        handed = Handed(prober, [f"{server.url}/health"])
        for count in (1, 2):
            assert handed.begin() == [DIAL_EFFORT]
            await until(lambda: len(handed.well) == count)  # noqa: B023
            prober.forget(server.url)
            await until(lambda: server.open == 0)
        assert server.accepted == 2
