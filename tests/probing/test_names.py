"""Names of replicas: looked up beside each other, the last answer kept, a hanging one alone with its trouble."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shared_registry.probing import Evidence, HttpProber, guarded
from shared_registry.probing import names as module
from shared_registry.probing.names import Names, NameUnknown
from shared_registry.probing.own_trouble import RESOLVER_REASON, OwnTrouble
from tests.support.descriptors import out_of_descriptors
from tests.support.replica_server import ReplicaServer
from tests.support.scripted_server import LONG, SHORT, answer_all, scripted
from tests.support.until import until

Answer = list[str] | Exception
HERE: Answer = ["127.0.0.1"]
GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
SILENT = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
needs_linux = pytest.mark.skipif(not hasattr(socket, "SO_BINDTODEVICE"), reason="only Linux has all of 127.x.y.z")


class Resolver:
    """A resolver that answers as a test says, from any thread. `hanging` names are answered after `release`."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.hanging: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most_at_once = 0
        self.release = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, host: str) -> Sequence[str]:
        with self._lock:
            self.asked[host] += 1
            self.at_once[host] += 1
            self.most_at_once = max(self.most_at_once, self.at_once.total())
            assert self.at_once[host] == 1, "one lookup of a name at a time"
        if host in self.hanging:
            self.release.wait(60)
        with self._lock:
            self.at_once[host] -= 1
        answer = self.answers.get(host, HERE)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    resolver = Resolver()
    yield resolver
    resolver.release.set()


@pytest.fixture
def names(resolver: Resolver) -> Names:
    return Names(resolver)


@pytest.fixture
def is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared_registry.probing.own_trouble.has_route", lambda: True)


@pytest.fixture
def is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a probe wait for each lookup, however long its thread takes on a busy machine."""
    monkeypatch.setattr(module, "PATIENCE_SECONDS", LONG)


async def look_up(names: Names, host: str) -> None:
    """Look up a name, and wait for the answer although there is an earlier one."""
    await names.addresses(host, max_age_seconds=0.0)
    await until(lambda: names._names[host].ended is None)


@pytest.mark.usefixtures("is_patient")
async def test_many_probes_share_one_lookup(names: Names, resolver: Resolver) -> None:
    found = await asyncio.gather(*(names.addresses("a.test", max_age_seconds=0.0) for _ in range(50)))
    assert set(found) == {("127.0.0.1",)}
    assert resolver.asked["a.test"] == 1
    await names.addresses("a.test", max_age_seconds=60)
    assert resolver.asked["a.test"] == 1, "the answer is young enough"
    await names.addresses("a.test", max_age_seconds=0.0)
    assert resolver.asked["a.test"] == 2


async def test_the_last_answer_serves_while_a_lookup_hangs(names: Names, resolver: Resolver) -> None:
    await names.addresses("a.test", max_age_seconds=0.0)
    resolver.hanging.add("a.test")
    resolver.answers["a.test"] = ["127.0.0.9"]
    began = time.monotonic()
    for _ in range(20):
        assert await names.addresses("a.test", max_age_seconds=0.0) == ("127.0.0.1",)
    assert time.monotonic() - began < 10 * module.PATIENCE_SECONDS, "only the first waits"
    assert resolver.asked["a.test"] == 2
    resolver.release.set()
    await until(lambda: names._names["a.test"].ended is None)
    assert await names.addresses("a.test", max_age_seconds=60.0) == ("127.0.0.9",)


@pytest.mark.usefixtures("is_connected")
async def test_the_last_answer_serves_while_the_resolver_fails(names: Names, resolver: Resolver) -> None:
    await names.addresses("a.test", max_age_seconds=0.0)
    resolver.answers["a.test"] = SILENT
    assert await names.addresses("a.test", max_age_seconds=0.0) == ("127.0.0.1",)


@pytest.mark.usefixtures("is_patient")
async def test_a_name_that_is_gone_loses_its_last_answer(names: Names, resolver: Resolver) -> None:
    await names.addresses("a.test", max_age_seconds=0.0)
    resolver.answers["a.test"] = GONE
    with pytest.raises(NameUnknown, match=r"^name or service not known$"):
        await names.addresses("a.test", max_age_seconds=0.0)
    resolver.answers["a.test"] = []
    with pytest.raises(NameUnknown, match=r"^the name has no address$"):
        await names.addresses("a.test", max_age_seconds=60.0)


@pytest.mark.usefixtures("is_connected")
async def test_a_silent_resolver_is_ones_own_trouble(names: Names, resolver: Resolver) -> None:
    resolver.answers["a.test"] = SILENT
    with pytest.raises(OwnTrouble, match=RESOLVER_REASON):
        await names.addresses("a.test", max_age_seconds=0.0)


@pytest.mark.usefixtures("is_connected")
@pytest.mark.parametrize(("other", "is_own"), [("b.test", False), ("localhost", True)])
async def test_a_resolver_that_answers_for_others_is_well(
    names: Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch, other: str, is_own: bool
) -> None:
    """What the hosts file answers is no sign of the resolver."""
    resolver.answers["a.test"] = SILENT
    with monkeypatch.context() as together:
        together.setattr(module, "TOGETHER_SECONDS", LONG)
        with pytest.raises(OwnTrouble):
            await names.addresses("a.test", max_age_seconds=0.0)
        await names.addresses(other, max_age_seconds=0.0)
        with pytest.raises(OwnTrouble):
            await names.addresses("a.test", max_age_seconds=0.0)  # the resolver may have broken between the two
    await asyncio.sleep(module.TOGETHER_SECONDS)
    await look_up(names, other)
    with pytest.raises(OwnTrouble if is_own else NameUnknown):
        await names.addresses("a.test", max_age_seconds=0.0)


@pytest.mark.usefixtures("is_connected")
async def test_another_name_is_looked_up_to_find_out(names: Names, resolver: Resolver) -> None:
    await names.addresses("b.test", max_age_seconds=0.0)
    await names.addresses("localhost", max_age_seconds=0.0)
    resolver.answers["a.test"] = SILENT
    with pytest.raises(OwnTrouble):
        await names.addresses("a.test", max_age_seconds=0.0)
    await until(lambda: resolver.asked["b.test"] == 2 and names._names["b.test"].ended is None)
    with pytest.raises(NameUnknown):
        await names.addresses("a.test", max_age_seconds=0.0)
    assert (resolver.asked["b.test"], resolver.asked["localhost"]) == (2, 1), "not one of the hosts file"


@pytest.mark.usefixtures("is_connected")
async def test_one_lookup_at_once_finds_out(names: Names, resolver: Resolver) -> None:
    others = [f"other-{n}.test" for n in range(10)]
    for name in others:
        await names.addresses(name, max_age_seconds=0.0)
    failing = [f"failing-{n}.test" for n in range(10)]
    resolver.hanging = set(others)
    resolver.answers = dict.fromkeys(failing, SILENT)
    for _ in range(3):
        for name in failing:
            with pytest.raises(OwnTrouble):
                await names.addresses(name, max_age_seconds=0.0)
        await asyncio.sleep(module.TOGETHER_SECONDS)
    assert sorted(resolver.asked[name] for name in others) == [1] * 9 + [2]


async def test_hanging_names_leave_threads_to_all_others(names: Names, resolver: Resolver) -> None:
    good = [f"good-{n}.test" for n in range(40)]
    for name in good:
        await names.addresses(name, max_age_seconds=0.0)
    resolver.hanging = {f"hanging-{n}.test" for n in range(500)}
    stuck = [asyncio.create_task(names.addresses(name, max_age_seconds=0.0)) for name in sorted(resolver.hanging)]
    try:
        await until(lambda: resolver.at_once.total() >= 64)
        for name in good:
            await names.addresses(name, max_age_seconds=0.0)
        await until(lambda: all(resolver.asked[name] == 2 for name in good))
        assert resolver.at_once.total() > 0, "while others hang"
        assert resolver.most_at_once <= module.MOST_THREADS
    finally:
        resolver.release.set()
        results = await asyncio.gather(*stuck)
    assert set(results) == {("127.0.0.1",)}, "each was looked up in the end"


async def test_a_new_name_passes_some_that_hang(names: Names, resolver: Resolver) -> None:
    resolver.hanging = {f"hanging-{n}.test" for n in range(100)}
    stuck = [asyncio.create_task(names.addresses(name, max_age_seconds=0.0)) for name in sorted(resolver.hanging)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        assert await names.addresses("new.test", max_age_seconds=0.0) == ("127.0.0.1",)
    await until(lambda: resolver.at_once.total() == 100)
    resolver.release.set()
    await asyncio.gather(*stuck)


async def test_thousands_of_names_are_looked_up(names: Names, resolver: Resolver) -> None:
    hosts = [f"replica-{n}.test" for n in range(3000)]
    await asyncio.gather(*(names.addresses(host, max_age_seconds=0.0) for host in hosts))
    assert set(resolver.asked.values()) == {1}
    assert resolver.most_at_once <= module.MOST_THREADS
    names.retain(hosts[:10])
    assert len(names._names) == 10


async def test_a_want_of_threads_is_ones_own_trouble(
    names: Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "start_call", refuse)
    with pytest.raises(OwnTrouble, match="can't start new thread"):
        await names.addresses("a.test", max_age_seconds=0.0)
    monkeypatch.undo()
    assert await names.addresses("a.test", max_age_seconds=0.0) == ("127.0.0.1",)


async def test_the_systems_resolver_knows_the_hosts_file() -> None:
    names = Names()
    assert set(await names.addresses("localhost", max_age_seconds=0.0)) & {"127.0.0.1", "::1"}
    with pytest.raises((NameUnknown, OwnTrouble)):
        await names.addresses("no-such-host.invalid", max_age_seconds=0.0)


# Probes of replicas with names.


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


async def test_a_probe_of_a_name_reports_its_address(resolver: Resolver) -> None:
    async with scripted(answer_all) as server, HttpProber(names=Names(resolver)) as prober:
        url = f"http://a.test:{port_of(server.url)}/health"
        for _ in range(3):
            outcome = await guarded(prober, url, LONG)
            assert (outcome.evidence, outcome.address) == (Evidence.OK, "127.0.0.1")
        assert server.accepted == 1
        assert resolver.asked["a.test"] == 1
        assert b"\r\nHost: a.test:" in server.requests[0]


@needs_linux
@pytest.mark.usefixtures("is_patient")
async def test_a_name_that_moved_takes_the_probe_along(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ReplicaServer("0.0.0.0") as server, HttpProber(names=Names(resolver)) as prober:
        url = f"http://a.test:{server.port}/health"
        resolver.answers["a.test"] = ["127.0.0.2"]
        assert (await guarded(prober, url, LONG)).address == "127.0.0.2"
        resolver.answers["a.test"] = ["127.0.0.3"]
        assert (await guarded(prober, url, LONG)).address == "127.0.0.2", "the answer is young"
        monkeypatch.setattr("shared_registry.probing.prober.LOOKUP_AGAIN_SECONDS", 0.0)
        assert (await guarded(prober, url, LONG)).address == "127.0.0.3"
        await until(lambda: not server.replica("127.0.0.2").open_connections)
        assert server.replica("127.0.0.3").connections == 1
        resolver.answers["a.test"] = ["127.0.0.2", "127.0.0.3"]
        assert (await guarded(prober, url, LONG)).address == "127.0.0.3", "the name still has it"
        resolver.answers["a.test"] = GONE
        outcome = await guarded(prober, url, LONG)
        assert outcome.error == "ConnectError: name or service not known"
        await until(lambda: not server.replica("127.0.0.3").open_connections)


@needs_linux
@pytest.mark.usefixtures("is_patient")
async def test_one_address_of_several_may_be_dead(names: Names, resolver: Resolver) -> None:
    async with scripted(answer_all) as server, HttpProber(names=names) as prober:
        url = f"http://a.test:{port_of(server.url)}/health"
        resolver.answers["a.test"] = ["127.0.0.7", "127.0.0.1"]
        assert (await guarded(prober, url, LONG)).address == "127.0.0.1"
        outcome = await guarded(prober, url, LONG, address="127.0.0.7")
        assert (outcome.error, outcome.address) == ("ConnectError: connection refused", "127.0.0.7")
        outcome = await guarded(prober, url, LONG, address="127.0.0.8")
        assert (outcome.error, outcome.address) == (None, "127.0.0.1"), "the name does not have that one"
        resolver.answers["a.test"] = ["127.0.0.7", "127.0.0.8"]
        await names.addresses("a.test", max_age_seconds=0.0)
        outcome = await guarded(prober, url, LONG, fresh=True)
        assert (outcome.error, outcome.address) == ("ConnectError: connection refused", ""), "none of them accepts"


@pytest.mark.usefixtures("is_connected")
async def test_a_first_lookup_that_hangs_is_unsure(resolver: Resolver) -> None:
    resolver.hanging.add("a.test")
    async with HttpProber(names=Names(resolver)) as prober:
        outcome = await guarded(prober, "http://a.test:9/health", SHORT)
        assert (outcome.evidence, str(outcome.trouble)) == (Evidence.UNSURE, RESOLVER_REASON)
        assert (await guarded(prober, "http://b.test:9/health", LONG)).evidence is Evidence.FAILED
        outcome = await guarded(prober, "http://a.test:9/health", SHORT)
        assert outcome.error == f"timeout after {SHORT}s while looking up the name", "others are answered"


NO_DESCRIPTOR = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.usefixtures("is_connected")
@pytest.mark.parametrize("first", [NO_DESCRIPTOR, SILENT])
async def test_a_name_is_not_blamed_for_an_earlier_trouble(resolver: Resolver, first: Exception) -> None:
    """Between two troubles of this router other names are answered, and this one is not looked up."""
    resolver.answers["a.test"] = first
    async with HttpProber(names=Names(resolver)) as prober:
        assert (await guarded(prober, "http://a.test:9/health", LONG)).evidence is Evidence.UNSURE
        await asyncio.sleep(module.TOGETHER_SECONDS)
        assert (await guarded(prober, "http://b.test:9/health", LONG)).evidence is Evidence.FAILED, "nobody listens"
        resolver.hanging = {"a.test", "b.test"}
        for _ in range(2):
            outcome = await guarded(prober, "http://a.test:9/health", SHORT)
            assert (outcome.evidence, str(outcome.trouble)) == (Evidence.UNSURE, RESOLVER_REASON)


@pytest.mark.usefixtures("is_connected")
async def test_a_lack_of_descriptors_blames_no_name(names: Names, resolver: Resolver) -> None:
    """Without one, the system's resolver fails as it does where no server responds."""
    resolver.answers["a.test"] = SILENT
    for _ in range(2):
        with out_of_descriptors(), pytest.raises(OwnTrouble, match="too many open files"):
            await names.addresses("a.test", max_age_seconds=0.0)
        await asyncio.sleep(module.TOGETHER_SECONDS)
        await names.addresses("b.test", max_age_seconds=0.0)


@pytest.mark.usefixtures("is_connected")
async def test_an_answer_between_two_outages_blames_a_name_once(names: Names, resolver: Resolver) -> None:
    """The name failed before and after that answer, as it does where only its own server is dead."""
    await names.addresses("b.test", max_age_seconds=0.0)
    resolver.answers = {"a.test": SILENT, "b.test": SILENT}
    with pytest.raises(OwnTrouble):
        await names.addresses("a.test", max_age_seconds=0.0)
    await asyncio.sleep(module.TOGETHER_SECONDS)
    await until(lambda: names._names["b.test"].ended is None, "it was looked up to find out")
    resolver.answers["b.test"] = HERE
    await look_up(names, "b.test")
    resolver.answers["b.test"] = SILENT
    with pytest.raises(NameUnknown):
        await names.addresses("a.test", max_age_seconds=0.0)
    for _ in range(2):
        with pytest.raises(OwnTrouble):
            await names.addresses("a.test", max_age_seconds=0.0)
        await asyncio.sleep(module.TOGETHER_SECONDS)


@pytest.mark.usefixtures("is_connected")
async def test_lookups_that_begin_together_do_not_blame_a_name(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver breaks after it has answered some of them."""
    monkeypatch.setattr(module, "TOGETHER_SECONDS", module.SLOW_SECONDS / 2)  # threads may take long to begin
    urls = [f"http://{name}.test:9/health" for name in "abcd"]
    resolver.hanging = {"a.test", "c.test"}
    async with HttpProber(names=Names(resolver)) as prober:
        together = [asyncio.create_task(guarded(prober, url, module.SLOW_SECONDS + 1)) for url in urls]
        await until(lambda: resolver.asked.total() == 4 and resolver.at_once.total() == 2)
        resolver.hanging |= {"b.test", "d.test"}
        outcomes = await asyncio.gather(*together)
        assert [one.evidence for one in outcomes] == [Evidence.UNSURE, Evidence.FAILED] * 2, "nobody listens at b and d"
        assert str(outcomes[0].trouble) == RESOLVER_REASON


@pytest.mark.usefixtures("is_connected")
async def test_one_hanging_name_is_found_out_within_a_probe(resolver: Resolver) -> None:
    resolver.hanging = {"a.test"}
    async with HttpProber(names=Names(resolver)) as prober:
        await guarded(prober, "http://b.test:9/health", SHORT)
        outcome = await guarded(prober, "http://a.test:9/health", module.SLOW_SECONDS + 1)
    assert (outcome.evidence, outcome.error) == (Evidence.FAILED, "timeout after 2.0s while looking up the name")
    assert resolver.asked["b.test"] == 2


async def test_a_hanging_lookup_does_not_hold_up_the_end() -> None:
    """Neither the prober's nor the event loop's end, nor that of the process."""
    program = """
import asyncio, time
from shared_registry.probing import HttpProber, guarded
from shared_registry.probing.names import Names

began = time.monotonic()
begun = []

def hang(host):
    begun.append(host)
    time.sleep(600)

async def main():
    async with HttpProber(names=Names(hang)) as prober:
        await guarded(prober, "http://a.test:9/health", 0.2)

asyncio.run(main())
assert begun
print(time.monotonic() - began)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert float(output) < 20


async def test_after_the_end_no_waiting_lookup_begins(names: Names, resolver: Resolver) -> None:
    resolver.hanging = {f"hanging-{n}.test" for n in range(300)}
    stuck = [asyncio.create_task(names.addresses(name, max_age_seconds=0.0)) for name in sorted(resolver.hanging)]
    await until(lambda: resolver.at_once.total() >= 64)
    names.close()
    begun = sum(name.ended is not None for name in names._names.values())
    resolver.release.set()
    results = await asyncio.gather(*stuck, return_exceptions=True)
    assert sum(isinstance(result, NameUnknown) for result in results) == 300 - begun
    assert resolver.asked.total() == begun < 300


async def test_a_lookup_that_ends_after_its_loop_harms_nobody(resolver: Resolver) -> None:
    resolver.hanging.add("a.test")

    async def give_up() -> None:
        async with HttpProber(names=Names(resolver)) as prober:
            await guarded(prober, "http://a.test:9/health", 0.1)

    await asyncio.to_thread(lambda: asyncio.run(give_up()))
    resolver.release.set()
    await until(lambda: resolver.at_once["a.test"] == 0)
