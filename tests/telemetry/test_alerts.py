"""Drills: real routers, a real Redis, a real Prometheus. Each fault makes its alerts fire, and the log tells of it.

For what most often wakes people, the first line of `status` and the dashboard's sentence are asserted too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from redis.exceptions import RedisError

from shared_registry.demo import replica
from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import RouterProcess, StartProcess
from tests.support.backend import Backend
from tests.support.command import ROOT, environment
from tests.support.programs import program
from tests.support.prometheus import Prometheus, alert_rules, prometheus_of
from tests.support.until import SECONDS, until

pytestmark = pytest.mark.timeout(400)


class Stage:
    """Routers, replicas, their Redis, and Prometheus that watches them."""

    def __init__(
        self,
        server: EmbeddedServer,
        namespace: str,
        routers: list[RouterProcess],
        prometheus: Prometheus,
        start: Callable[[], Awaitable[RouterProcess]],
    ) -> None:
        self.server = server
        self.namespace = namespace
        self.routers = routers
        self.prometheus = prometheus
        self._start = start

    async def add_router(self) -> RouterProcess:
        """Start another router with the common settings. Prometheus does not watch it."""
        self.routers.append(await self._start())
        return self.routers[-1]

    async def command(self, *words: str) -> str:
        """Run a command of an operator."""
        done = await self.attempt(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command that may fail."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "shared_registry", "--redis", self.server.url, "-n", self.namespace, *words],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    async def tells(self, level: str, *parts: str, of: RouterProcess, is_redis_there: bool = True) -> None:
        """Wait until `status` and the dashboard of a router both begin with a sentence that has these parts.

        Args:
            level: The colour of the dashboard's sentence.
            parts: What the sentence begins with, and what else is in it.
            of: The router whose dashboard is read.
            is_redis_there: Whether `status` asks Redis; otherwise it asks the router, with `--from`.
        """
        words = ["status"] if is_redis_there else ["status", "--from", of.admin_url]
        heard: dict[str, str] = {}

        def fits(sentence: str) -> bool:
            return sentence.startswith(parts[0]) and all(part in sentence for part in parts)

        async def both_fit() -> bool:
            if not fits(heard.get("status", "")):
                done = await self.attempt(*words)  # it may fail, such as when Redis was slow to answer
                heard["status"] = done.stderr if done.returncode else done.stdout.splitlines()[0]
            if not fits(heard.get("dashboard", "")) or heard["colour"] != level:
                heard["colour"], heard["dashboard"] = await dashboard_sentence(of)
            return fits(heard["status"]) and fits(heard["dashboard"]) and heard["colour"] == level

        try:
            await until(both_fit, "they tell of it")
        except AssertionError:
            raise AssertionError(f"not {level} {parts}: {heard}") from None

    async def leader(self) -> RouterProcess:
        """Return the router that leads, once one does."""
        found: list[RouterProcess] = []

        async def leads(router: RouterProcess) -> bool:
            async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http:
                return bool((await http.get(f"{router.admin_url}/status")).json()["is_leader"])

        async def is_found() -> bool:
            living = [one for one in self.routers if one.command.process.poll() is None]
            found[:] = [one for one in living if await leads(one)]
            return len(found) == 1

        await until(is_found, "one router leads")
        return found[0]


async def dashboard_sentence(router: RouterProcess) -> tuple[str, str]:
    """Return the colour and the sentence that a browser gets first."""
    async with (
        asyncio.timeout(SECONDS),
        httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http,
        http.stream("GET", f"{router.admin_url}/events") as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                [pool] = json.loads(line.removeprefix("data: "))["pools"]
                return pool["head"]["level"], pool["head"]["text"]
    raise AssertionError("the stream has ended")


Set = Callable[..., contextlib.AbstractAsyncContextManager[Stage]]


@pytest.fixture
def stage(
    start_process: StartProcess, own_server: Callable[..., EmbeddedServer], tmp_path: Path, namespace: str
) -> Set:
    """Set up a stage: routers as processes before some replicas, given by url, with settings in common."""

    @contextlib.asynccontextmanager
    async def setting(
        *replicas: str,
        wanted: int = 0,
        routers: int = 3,
        capacity: int = 0,
        each: Sequence[dict[str, Any]] = (),
        **settings: Any,
    ) -> AsyncIterator[Stage]:
        server = own_server()
        listed = [{"url": url, "name": f"gpu-{at}", "capacity": capacity} for at, url in enumerate(replicas)]
        common = {
            "redis_url": server.url,
            "admin_port": 0,
            "redis_timeout_seconds": 0.5,
            "replicas": json.dumps(listed),
            "lease_seconds": 3.0,
            "router_expiry_seconds": 5.0,
            **settings,
        }

        async def start(**own: Any) -> RouterProcess:
            return await start_process(wanted="has joined", words=["--host", "127.0.0.1"], **{**common, **own})

        started = [await start(**own) for own in [*each, *[{}] * (routers - len(each))]]
        targets = [one.admin_url.removeprefix("http://") for one in started]
        async with prometheus_of(targets, tmp_path) as prometheus:
            await prometheus.has_scraped(len(targets))
            await until(lambda: are_healthy(prometheus, wanted or len(replicas)), "all replicas are healthy")
            yield Stage(server, namespace, started, prometheus, start)

    return setting


async def are_healthy(prometheus: Prometheus, count: int) -> bool:
    found = await prometheus.query('min(sum by (instance) (sr_replicas{status="healthy", admin="active"}))')
    return bool(found) and float(found[0]["value"][1]) == count


@contextlib.asynccontextmanager
async def waiting(router: RouterProcess, count: int, path: str = "/wait") -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Keep so many requests under way; one that is refused is made again."""
    limits = httpx.Limits(max_connections=None)

    async def ask() -> None:
        status = 503
        while status == 503:
            status = (await http.get(path)).status_code

    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=170, limits=limits) as http:
        tasks = [asyncio.create_task(ask()) for _ in range(count)]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def again(act: Callable[[], Awaitable[object]], *, until_done: Awaitable[Any]) -> Any:
    """Do something again and again until something else is done; return that."""
    waited = asyncio.ensure_future(until_done)
    try:
        while not waited.done():
            await act()
        return waited.result()
    finally:
        waited.cancel()


async def test_the_leader_is_killed(stage: Set) -> None:
    async with Backend() as backend, stage(backend.url, routers=2) as there:
        barred = await there.leader()
        await there.command("step-down", "--for", "300")
        leader = next(router for router in there.routers if router is not barred)

        async def has_passed_on() -> bool:
            return await there.leader() is leader

        await until(has_passed_on, "the other router leads")
        await there.tells("green", "Serving: 1 of 1 replicas healthy", " leads since ", of=barred)
        async with waiting(leader, 2):
            await until(lambda: count_of(there, "sum(sr_leases)", 2), "two sessions run there")
            leader.command.process.kill()
        await there.tells("red", "Nobody leads since ", "1 of 1 replicas healthy", of=barred)
        fired = await there.prometheus.fires("NobodyLeads", "RouterDown", "RouterLost")
        assert fired["RouterDown"]["labels"]["instance"] == leader.admin_url.removeprefix("http://")
        assert fired["NobodyLeads"]["labels"]["severity"] == "page"
        for said in ("there is no leader", "has expired and was reaped"):
            await until(functools.partial(barred.has_said, said), f"it says: {said}")
        ended = 'sr_leases_ended_total{cause="router_expired"}'
        await until(lambda: count_of(there, ended, 2), "its sessions are counted as ended")
        successor = await there.add_router()
        assert await there.leader() is successor
        await there.tells("green", "Serving: 1 of 1 replicas healthy", " leads since ", of=barred)


async def test_a_replica_is_paused(stage: Set) -> None:
    with program("-I", str(replica.__file__), "--name", "paused") as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        async with Backend() as well, stage(well.url, url, routers=2) as there:
            router = there.routers[0]
            await there.tells("green", "Serving: 2 of 2 replicas healthy", of=router)
            process.send_signal(signal.SIGSTOP)
            try:
                await there.tells("yellow", "Serving: 1 of 2 replicas healthy", of=router)
                trouble = (await there.command("status", "--unhealthy")).split("gpu-1", 1)[1]
                assert "unhealthy since" in trouble
                assert "no sessions" in trouble
                fired = await there.prometheus.fires("ReplicasDown")
                assert "50%" in fired["ReplicasDown"]["annotations"]["summary"]
                told = 'min(sr_replica_transitions_total{replica="gpu-1", to="unhealthy", cause="timeout"}) >= bool 1'
                await until(lambda: count_of(there, told, 1), "the cause is counted")
                await until(lambda: all(one.has_said("is unhealthy") for one in there.routers), "all have noticed")
            finally:
                process.send_signal(signal.SIGCONT)
            await there.tells("green", "Serving: 2 of 2 replicas healthy", of=router)
            await there.prometheus.is_quiet("ReplicasDown")


async def test_a_replica_dies_and_flaps(stage: Set) -> None:
    async with (
        Backend() as first,
        Backend() as second,
        Backend() as third,
        stage(first.url, second.url, third.url) as there,
    ):
        for _ in range(5):
            await first.__aexit__(None, None, None)
            await until(lambda: are_healthy(there.prometheus, 2), "one is down")
            await first.__aenter__()
            await until(lambda: are_healthy(there.prometheus, 3), "it is back")
        fired = await there.prometheus.fires("ReplicaFlaps")
        assert fired["ReplicaFlaps"]["labels"]["replica"] == "gpu-0"
        await first.__aexit__(None, None, None)
        await second.__aexit__(None, None, None)
        fired = await there.prometheus.fires("ReplicasDown", "HalfOfTheReplicasAreDown")
        assert "33.33%" in fired["HalfOfTheReplicasAreDown"]["annotations"]["summary"]
        await until(lambda: all(router.has_said("is unhealthy") for router in there.routers), "all have noticed")
        await first.__aenter__()
        await second.__aenter__()
        await there.prometheus.is_quiet("ReplicasDown", "HalfOfTheReplicasAreDown")


async def test_the_fleet_is_full(stage: Set) -> None:
    async with Backend() as backend, stage(backend.url, capacity=1, queue_timeout_seconds=4.0) as there:
        async with waiting(there.routers[0], 3):
            await there.prometheus.fires("NoFreeSlot", "QueueTooSlow", "SessionsRefused")
            await there.tells("yellow", "Full: 1 of 1 replicas healthy", "1 of 1 slots taken", of=there.routers[1])
            assert there.routers[0].has_said("refused a request: 503 gpu_unavailable")
        backend.go_on.set()
        await there.prometheus.is_quiet("NoFreeSlot", "QueueTooSlow")
        await there.tells("green", "Serving: ", "0 of 1 slots taken", "nobody waits", of=there.routers[1])


async def test_redis_is_away(stage: Set) -> None:
    async with Backend() as backend, stage(backend.url) as there:
        os.kill(there.server.pid, signal.SIGSTOP)
        try:
            fired = await there.prometheus.fires("ViewTooOld", "WritesTooOld", "RedisErrors", "NobodyLeads")
            assert fired["ViewTooOld"]["labels"]["severity"] == "page"
            kept = "redis: keeping the last view"
            await until(lambda: all(router.has_said(kept) for router in there.routers), "all have noticed")
            shown = 'max(sr_replica_up{replica="gpu-0"})'
            await until(lambda: count_of(there, shown, 1), "the last view is shown")
            sentence = ("Redis is away for ", ", serving: 1 of 1 replicas healthy")
            await there.tells("yellow", *sentence, of=there.routers[0], is_redis_there=False)
            asked = await there.attempt("status")
            assert asked.returncode != 0
            assert "redis" in asked.stderr.lower()
        finally:
            os.kill(there.server.pid, signal.SIGCONT)
        await there.prometheus.is_quiet("ViewTooOld", "WritesTooOld", "NobodyLeads")
        await there.tells("green", "Serving: 1 of 1 replicas healthy", " leads since ", of=there.routers[0])


async def test_redis_comes_back_empty(stage: Set) -> None:
    async with Backend() as backend, stage(backend.url, router_expiry_seconds=120.0) as there:
        leader = await there.leader()
        silent = next(router for router in there.routers if router is not leader)
        silent.command.process.send_signal(signal.SIGSTOP)  # the others wait for the sessions that it may have
        try:
            with Redis.from_url(there.server.url) as redis:
                redis.flushall()
            lost = "Redis lost its data, and new sessions wait"
            await there.tells("yellow", lost, "1 of 1 replicas healthy", of=leader)
            await there.tells("yellow", lost, "1 of 1 replicas healthy", of=leader, is_redis_there=False)
            fired = await there.prometheus.fires("HistoryLost")
            assert fired["HistoryLost"]["labels"]["severity"] == "ticket"
        finally:
            silent.command.process.send_signal(signal.SIGCONT)

        async def is_counted() -> bool:
            lost = await there.prometheus.query("min(sr_history_losses_total)")
            restored = await there.prometheus.query('sum(sr_restored_total{kind="view"})')
            return bool(lost and restored) and float(lost[0]["value"][1]) >= 1 and float(restored[0]["value"][1]) >= 1

        await until(is_counted, "the loss and its repair are counted", 60)
        await until(lambda: all(router.has_said("another history") for router in there.routers), "all have noticed")
        assert "all invariants hold" in await there.command("check")
        await until(lambda: are_healthy(there.prometheus, 1), "the replicas are there again")
        await there.prometheus.is_quiet("NobodyLeads", "HalfOfTheReplicasAreDown")
        await there.tells("green", "Serving: 1 of 1 replicas healthy", " leads since ", of=there.routers[0])


async def test_redis_is_slow(stage: Set) -> None:
    busy = "local n = 0; while n < tonumber(ARGV[1]) do n = n + 1 end"
    async with Backend() as backend, stage(backend.url, routers=1, redis_timeout_seconds=3.0) as there:
        with Redis.from_url(there.server.url) as redis:

            async def keep_busy() -> None:
                with contextlib.suppress(RedisError):
                    await asyncio.to_thread(redis.eval, busy, 0, 4_000_000)

            await again(keep_busy, until_done=there.prometheus.fires("RedisSlow"))


async def test_leadership_passes_on_too_often(stage: Set) -> None:
    async with Backend() as backend, stage(backend.url) as there:
        for _ in range(6):
            await there.leader()
            await there.command("step-down", "--for", "1")
        await there.prometheus.fires("LeadershipUnstable")


async def test_a_source_of_discovery_fails(stage: Set, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    source = {"kind": "file", "name": "fleet", "path": str(fleet), "interval_seconds": 0.1}
    async with Backend() as backend, Backend() as found:
        text = f"replicas:\n- {{url: {found.url}}}\n"
        fleet.write_text(text)
        async with stage(backend.url, wanted=2, discovery=json.dumps([source])) as there:
            fleet.unlink()
            fired = await there.prometheus.fires("DiscoveryFails")
            assert fired["DiscoveryFails"]["annotations"]["summary"].startswith("file:fleet gives no answer")
            kept = "the replicas stay as they are"
            await until(lambda: any(router.has_said(kept) for router in there.routers), "the leader says so")
            fleet.write_text(text)
            await there.prometheus.is_quiet("DiscoveryFails")


async def test_routers_are_set_up_differently(stage: Set) -> None:
    strays = [{"namespace": "another"}, {"failure_threshold": 5}]
    async with Backend() as backend, stage(backend.url, each=strays) as there:
        fired = await there.prometheus.fires("SeveralLeaders", "SettingsDiffer")
        assert fired["SeveralLeaders"]["annotations"]["summary"].startswith("2 routers")


async def test_an_operator_forgets_what_was_begun(stage: Set) -> None:
    async with Backend() as first, Backend() as second, stage(first.url, second.url) as there:
        async with waiting(there.routers[0], 4):
            await until(lambda: count_of(there, "max(sum by (instance) (sr_replica_in_flight))", 4))
            await there.command("add", first.url, "--capacity", "1")
            await there.command("drain", second.url, "--yes")
            fired = await there.prometheus.fires("ReplicaOverCapacity", "ReplicaForgotten")
        assert fired["ReplicaOverCapacity"]["labels"]["replica"] == "gpu-0"
        assert fired["ReplicaForgotten"]["annotations"]["summary"].startswith("gpu-1 is draining")


async def count_of(there: Stage, expression: str, wanted: float) -> bool:
    found = await there.prometheus.query(expression)
    return bool(found) and float(found[0]["value"][1]) == wanted


async def test_a_router_stands_still(stage: Set) -> None:
    async with Backend() as backend, stage(backend.url, routers=1) as there:
        process = there.routers[0].command.process

        async def hold_up() -> None:
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.3)

        await again(hold_up, until_done=there.prometheus.fires("EventLoopLags"))


async def test_probes_cannot_keep_up(stage: Set) -> None:
    async with Backend() as backend, stage(backend.url, routers=1, health_check_interval_seconds=0.2) as there:
        process = there.routers[0].command.process

        async def hold_up() -> None:
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.6)
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.3)

        await again(hold_up, until_done=there.prometheus.fires("ProbesLate"))


async def test_descriptors_run_out(stage: Set) -> None:
    async with (
        Backend() as backend,
        stage(backend.url, routers=1, each=[{"open_files": "-n 700"}]) as there,
        waiting(there.routers[0], 290),
    ):
        await there.prometheus.fires("DescriptorsRunOut")


def test_every_alert_has_a_drill() -> None:
    drilled = Path(__file__).read_text()
    for rule in alert_rules():
        assert f'"{rule["alert"]}"' in drilled, f"no drill makes {rule['alert']} fire"
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "command"}
