"""The documented rights: with them everything works, on every kind of deployment, and nothing else is allowed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, exceptions

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.errors import StoreRefused, StoreUnavailable
from shared_registry.store.rights import AT_SENTINELS, OF_READS, OF_WRITES, rights, sentinel_rights
from tests.support.command import ROOT
from tests.support.in_process import invoke
from tests.support.programs import free_port
from tests.support.replica_server import ReplicaServer
from tests.support.until import until

OwnServer = Callable[..., EmbeddedServer]
NAMESPACE = "pool"
VERBS = (
    *("status", "routers", "leases", "queue", "events", "check", "keys --show", "wait --ready 1 --timeout 5"),
    *("add http://127.0.0.1:1", "drain http://127.0.0.1:1", "disable http://127.0.0.1:1"),
    *("enable http://127.0.0.1:1", "remove http://127.0.0.1:1 --yes", "step-down --for 1", "check --repair"),
)
HARM = (
    *("FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1", "CLIENT LIST"),
    *("CONFIG SET save x", "CONFIG GET requirepass", "FUNCTION FLUSH", "SCRIPT FLUSH", "SCRIPT KILL", "KEYS *"),
    *("GET other", "SET other 1", "DEL other", "SET sr:{other}:meta 1", "HGETALL sr:{other}:meta", "MONITOR"),
    *("REPLICAOF NO ONE", "ACL LIST", "PUBLISH channel 1", "SUBSCRIBE channel", "SAVE", "SHUTDOWN"),
    *("EVAL return(redis.call('set','other','1')) 0", "EVAL return(redis.call('flushall')) 0", "CLUSTER RESET"),
)


@dataclass
class Deployment:
    """A deployment of which the owner gives others a user.

    Attributes:
        url: With the user's name and password.
        owner: May do everything at the server that has the data.
    """

    url: str
    owner: Any


def create_user(owner: Redis, rules: Sequence[str]) -> None:
    owner.execute_command("ACL", "SETUSER", "routers", "on", ">pw", *rules)


@contextlib.asynccontextmanager
async def standalone(own_server: OwnServer, binary: Path, directory: Path) -> AsyncIterator[Deployment]:
    server = own_server()
    with Redis.from_url(server.url) as owner:
        create_user(owner, rights(NAMESPACE))
        yield Deployment(f"redis://routers:pw@127.0.0.1:{server.port}/0", owner)


@contextlib.asynccontextmanager
async def cluster(own_server: OwnServer, binary: Path, directory: Path) -> AsyncIterator[Deployment]:
    try:
        server = own_server(config={"cluster-enabled": "yes"})
    except StoreUnavailable as error:
        pytest.skip(f"this server cannot form a cluster: {error}")
    with Redis.from_url(server.url) as owner:
        owner.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        await until(lambda: "cluster_state:ok" in str(owner.execute_command("CLUSTER", "INFO")).replace("': '", ":"))
        create_user(owner, rights(NAMESPACE))
        yield Deployment(f"redis+cluster://routers:pw@127.0.0.1:{server.port}", owner)


@contextlib.asynccontextmanager
async def sentinel(own_server: OwnServer, binary: Path, directory: Path) -> AsyncIterator[Deployment]:
    server, port = own_server(), free_port()
    conf = directory / "sentinel.conf"
    conf.write_text(f"bind 127.0.0.1\nport {port}\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    with (directory / "log").open("wb") as log:
        process = BoundProcess([binary, conf, "--sentinel"], cwd=directory, output=log)
    try:
        with Redis.from_url(server.url) as owner, Redis(port=port) as guard:

            def knows_master() -> bool:
                with contextlib.suppress(exceptions.RedisError):
                    return bool(guard.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"))
                return False

            await until(knows_master)
            create_user(owner, rights(NAMESPACE))
            create_user(guard, sentinel_rights())
            options = "sentinel_username=routers&sentinel_password=pw"
            yield Deployment(f"redis+sentinel://routers:pw@127.0.0.1:{port}/main/0?{options}", owner)
            assert guard.acl_log() == []
    finally:
        process.kill()


@pytest.mark.parametrize("deploy", [standalone, sentinel, cluster], ids=["standalone", "sentinel", "cluster"])
async def test_everything_works_with_the_printed_rights(
    own_server: OwnServer, redis_binary: Path, tmp_path: Path, deploy: Callable[..., Any]
) -> None:
    async with deploy(own_server, redis_binary, tmp_path) as at, ReplicaServer("127.0.0.1") as replica:
        config = RouterConfig(
            redis_url=at.url,
            namespace=NAMESPACE,
            health_check_interval_seconds=0.2,
            fast_interval_seconds=0.2,
            replicas=[ReplicaEndpoint(replica.url())],
        )
        async with SharedReplicaRegistry(config) as one, SharedReplicaRegistry(config) as other:
            assert await one.wait_ready(timeout_seconds=20)
            lease = await other.acquire(timeout=5, session="ann")
            assert lease is not None
            for verb in VERBS:
                words = [*verb.split(), "--redis", at.url, "--namespace", NAMESPACE]
                done = await asyncio.to_thread(invoke, *words)
                assert (done.code, done.err) == (0, ""), verb
            await lease.release()
        assert at.owner.acl_log() == []


async def test_nothing_else_is_allowed(own_server: OwnServer, redis_binary: Path, tmp_path: Path) -> None:
    async with standalone(own_server, redis_binary, tmp_path) as at:
        for line in HARM:
            with Redis.from_url(at.url) as user, pytest.raises(exceptions.ResponseError) as caught:
                user.execute_command(*line.split())
            assert re.search("permission|can't|unknown command", str(caught.value)), f"{line}: {caught.value}"
        assert at.owner.ping()


async def test_a_missing_right_is_named(own_server: OwnServer) -> None:
    server = own_server()
    with Redis.from_url(server.url) as owner:
        create_user(owner, [rule for rule in rights(NAMESPACE) if rule != "+info"])
    url = f"redis://routers:pw@127.0.0.1:{server.port}/0"
    with pytest.raises(StoreRefused, match=r"'info'.*shared-registry acl"):
        async with asyncio.timeout(20), SharedReplicaRegistry(RouterConfig(redis_url=url, namespace=NAMESPACE)):
            pass
    done = await asyncio.to_thread(invoke, "status", "--redis", url)
    assert done.code == 2
    assert "'info'" in done.err


def test_every_right_is_used_and_every_use_has_a_right() -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "lua").rglob("*.lua"))
    called = {name.lower() for name in re.findall(r"(?:redis\.p?call\(|= )'([A-Z]{3,})'", scripts)}
    python = "".join(path.read_text() for path in (ROOT / "shared_registry").rglob("*.py"))
    assert called <= {*OF_READS, *OF_WRITES}
    others = {*OF_READS, *OF_WRITES} - called
    assert [name for name in others if not re.search(rf"\.{name}(?:_iter)?\b|\"{name.upper()}\"", python)] == []


def test_the_command_prints_what_the_page_says() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    for rules in (rights("<namespace>"), [f"+{name}" for name in AT_SENTINELS]):
        assert all(rule in page.split() or f"`{rule}" in page or f"{rule}`" in page for rule in rules)
    done = invoke("acl", "-n", NAMESPACE, "--user", "ann")
    assert (done.code, done.err) == (0, "")
    _, servers, _, sentinels = done.out.splitlines()
    assert shlex.split(servers) == ["ACL", "SETUSER", "ann", "on", ">PASSWORD", *rights(NAMESPACE)]
    assert shlex.split(sentinels)[5:] == sentinel_rights()
