"""A fleet in which some routers only probe, and the others never lead: real processes of the command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import Redis

from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.command import Running, run, running
from tests.support.replica_server import ReplicaServer
from tests.support.until import until


@pytest.fixture
async def replica() -> AsyncIterator[ReplicaServer]:
    async with ReplicaServer() as server:
        yield server


def variables(server: EmbeddedServer, namespace: str, *, replicas: str = "") -> dict[str, str]:
    return {
        "SHARED_REGISTRY_REDIS_URL": server.url,
        "SHARED_REGISTRY_NAMESPACE": namespace,
        "SHARED_REGISTRY_REPLICAS": replicas,
        "SHARED_REGISTRY_HEALTH_CHECK_INTERVAL_SECONDS": "0.2",
        "SHARED_REGISTRY_HOST": "127.0.0.1",
        "SHARED_REGISTRY_PORT": "0",
    }


async def is_ready(settings: dict[str, str]) -> bool:
    done = await asyncio.to_thread(run, "wait", "--ready", "1", "--timeout", "1", **settings)
    return done.code == 0


async def routers(settings: dict[str, str]) -> list[dict[str, object]]:
    done = await asyncio.to_thread(run, "routers", "--json", **settings)
    found: list[dict[str, object]] = json.loads(done.out)["routers"]
    return found


def has_joined(router: Running) -> bool:
    return " has joined " in router.err or " probes for namespace " in router.err


def leader(raw: Redis, keys: Keys) -> str:
    return str(raw.hget(keys.leader, "router") or "")


def listens(pid: int) -> bool:
    """Return whether a process listens on a TCP port."""
    files = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # what the process has closed meanwhile
            files.add(str(link.readlink()))
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return bool(files & {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"})


async def test_a_router_that_only_probes_leads_and_listens_nowhere(
    tmp_path: Path, server: EmbeddedServer, namespace: str, replica: ReplicaServer
) -> None:
    settings = variables(server, namespace, replicas=replica.url())
    with running(tmp_path, "probe", "--json", **settings) as prober:
        await until(lambda: is_ready(settings))
        assert replica.replica().requests
        (router,) = await routers(settings)
        assert router["is_leader"]
        assert not listens(prober.process.pid)
        done = prober.ends(signal.SIGTERM)
    assert done.code == 0
    assert json.loads(done.err_lines[-1])["message"] == "router: stopped"
    assert await routers(settings) == []


async def test_a_router_that_never_leads_leaves_it_to_others(
    tmp_path: Path, server: EmbeddedServer, namespace: str, replica: ReplicaServer
) -> None:
    settings, keys = variables(server, namespace, replicas=replica.url()), Keys(namespace)
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(Redis.from_url(server.url, decode_responses=True))
        serving = stack.enter_context(running(tmp_path, "serve", "--never-lead", **settings))
        await until(lambda: has_joined(serving))
        prober = stack.enter_context(running(tmp_path, "probe", **settings))
        await until(lambda: leader(raw, keys) != "")
        first = leader(raw, keys)
        await until(lambda: f"{first} probes for namespace" in prober.err)  # it may lead before it has logged this
        await until(lambda: is_ready(settings))
        prober.ends(signal.SIGKILL)
        second = stack.enter_context(running(tmp_path, "probe", **settings))
        await until(lambda: leader(raw, keys) not in ("", first))
        await until(lambda: f"{leader(raw, keys)} probes for namespace" in second.err)
        assert "leading in epoch" not in serving.err
        assert serving.ends(signal.SIGTERM).code == 0


async def test_a_prober_without_redis_exits_in_the_given_time(tmp_path: Path) -> None:
    settings = {"SHARED_REGISTRY_REDIS_URL": "redis://127.0.0.1:1", "SHARED_REGISTRY_REPLICAS": ""}
    with running(tmp_path, "probe", "--wait-redis", "0.3", **settings) as prober:
        done = prober.ends()
    assert done.code == 3
    assert done.err_lines[-1].startswith("error: ")
    assert "Traceback" not in done.err
