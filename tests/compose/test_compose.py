"""docker-compose.yml, really run: built, started, used, hurt, and taken down. `make test-compose`, not `make test`.

Takes whatever compose answers, v2 (`docker compose`) or v1 (`docker-compose`), and ports 9001 to 9003 of this machine.
The tests share one cluster, and each leaves it whole.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator

import pytest

from tests.support.command import ROOT
from tests.support.compose_cluster import (
    BUILD_SECONDS,
    REPLICAS,
    ROUTERS,
    Stack,
    healthy,
    is_whole,
    leader,
    status,
    wait_for,
)
from tests.support.programs import session

pytestmark = [pytest.mark.compose, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    stack = Stack()
    is_up = False
    try:
        stack("up", "--build", "--detach", seconds=BUILD_SECONDS)
        wait_for(lambda: all(is_whole(port) for port in ROUTERS.values()), "four healthy replicas on each router")
        is_up = True
        yield stack
    finally:
        try:
            if not is_up or request.session.testsfailed:
                sys.stderr.write(stack("logs", "--tail", "30"))
        finally:
            stack("down", "--volumes", "--remove-orphans", seconds=60)


def test_every_router_serves_sessions_on_the_primary(stack: Stack) -> None:
    assert [session(port)[0] for port in ROUTERS.values()] == ["replica-1"] * 3
    assert leader() in ROUTERS


def test_no_container_runs_as_root(stack: Stack) -> None:
    assert {stack("exec", "-T", service, "id", "-u").strip() for service in ("router-1", "replica-1")} == {"10001"}


def test_health_checks_of_the_containers_pass(stack: Stack) -> None:
    services = [*ROUTERS, *REPLICAS, "redis"]
    wait_for(lambda: all(stack.health(service) == "healthy" for service in services), "all containers healthy")


def test_redis_holds_what_the_documentation_says(stack: Stack) -> None:
    page = (ROOT / "docs" / "redis-keys.md").read_text(encoding="utf-8")
    lines = re.findall(r"^redis-cli (.*)$", page.replace("{default}", "{compose}"), re.MULTILINE)
    commands = [shlex.split(line.replace("127.0.0.1:8000", "replica-1:8000")) for line in lines]
    assert len(commands) >= 7
    shown = {" ".join(words): stack.redis_cli(*words) for words in commands}
    assert all(shown[one] for one in shown if ":leases:" not in one), shown  # nobody holds one just now
    replicas = shown["ZRANGE sr:{compose}:replicas 0 -1 WITHSCORES"]
    assert replicas[::2] == [f"http://{name}:8000" for name in REPLICAS]
    assert shown["ZRANGE sr:{compose}:ready:primary 0 -1 WITHSCORES"] == ["http://replica-1:8000", "0"]
    fields = shown["HGETALL sr:{compose}:replica:http://replica-1:8000"]
    record = dict(zip(fields[::2], fields[1::2], strict=True))
    assert [record[name] for name in ("name", "primary", "status", "admin")] == ["replica-1", "1", "healthy", "active"]
    assert len(shown["ZRANGE sr:{compose}:routers 0 -1 WITHSCORES"]) == 6
    assert stack.redis_cli("CONFIG", "GET", "maxmemory-policy") == ["maxmemory-policy", "noeviction"]


def test_the_command_works_inside(stack: Stack) -> None:
    shown = json.loads(stack("exec", "-T", "router-1", "shared-registry", "status", "--json"))
    assert (shown["namespace"], shown["live_routers"], len(shown["replicas"])) == ("compose", 3, 4)
    stack("exec", "-T", "router-1", "shared-registry", "drain", "replica-1", "--reason", "trial")
    wait_for(lambda: "replica-1" not in {session(port)[0] for port in ROUTERS.values()}, "no session on it")
    stack("exec", "-T", "router-1", "shared-registry", "enable", "replica-1")
    wait_for(lambda: {session(port)[0] for port in ROUTERS.values()} == {"replica-1"}, "sessions on it again")


def test_the_lead_moves_when_the_leading_container_is_killed(stack: Stack) -> None:
    victim = leader()
    assert victim is not None
    others = [port for service, port in ROUTERS.items() if service != victim]
    epoch = (status(others[0]) or {})["leader"]["epoch"]
    stack("kill", victim)
    took = wait_for(lambda: leader() not in (victim, None), "another leader")
    assert took < 20
    assert all((status(port) or {})["leader"]["epoch"] > epoch for port in others)
    assert [session(port)[0] for port in others] == ["replica-1"] * 2
    stack("start", victim)
    wait_for(lambda: is_whole(ROUTERS[victim]) and session(ROUTERS[victim])[0] == "replica-1", "the killed router back")


def test_a_paused_replica_leaves_and_comes_back(stack: Stack) -> None:
    stack.docker("pause", "replica-1")
    try:
        gone = [name for name in REPLICAS if name != "replica-1"]
        wait_for(lambda: all(healthy(port) == gone for port in ROUTERS.values()), "the paused replica unhealthy")
        assert {session(port)[0] for port in ROUTERS.values()} <= set(gone)
    finally:
        stack.docker("unpause", "replica-1")
    wait_for(lambda: all(is_whole(port) for port in ROUTERS.values()), "the replica healthy again")
    assert {session(port)[0] for port in ROUTERS.values()} == {"replica-1"}
