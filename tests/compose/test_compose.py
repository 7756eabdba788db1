"""docker-compose.yml, really run: built, started, used, hurt, and taken down. `make test-compose`, not `make test`.

Takes whatever compose answers, v2 (`docker compose`) or v1 (`docker-compose`), and ports 9001 to 9003 of this machine.
The tests share one cluster, and each leaves it whole.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.command import ROOT
from tests.support.programs import session

pytestmark = [pytest.mark.compose, pytest.mark.timeout(240)]

ROUTERS = {f"router-{number}": 9000 + number for number in (1, 2, 3)}
REPLICAS = [f"replica-{number}" for number in (1, 2, 3, 4)]
SECONDS = 60.0
BUILD_SECONDS = 180.0


def compose_command() -> list[str]:
    """Return how compose is called here; fail where it is not there, for whoever runs this wants it tested."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]):
            done = subprocess.run([*words, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return words
    pytest.fail("neither `docker compose` nor `docker-compose` works here; install one")


class Stack:
    """The cluster of docker-compose.yml, as a project of its own."""

    def __init__(self) -> None:
        self._words = [*compose_command(), "--project-name", f"shared-registry-test-{secrets.token_hex(3)}"]

    def __call__(self, *words: str, seconds: float = SECONDS) -> str:
        """Run a compose command and return what it printed."""
        done = subprocess.run(
            [*self._words, *words], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def docker(self, verb: str, service: str) -> None:
        """Do something to a service's container."""
        container = self("ps", "-q", service).strip()
        subprocess.run(["docker", verb, container], check=True, capture_output=True, timeout=SECONDS)

    def health(self, service: str) -> str:
        """Return what the container's own health check says."""
        container = self("ps", "-q", service).strip()
        words = ["docker", "inspect", "--format", "{{.State.Health.Status}}", container]
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=SECONDS).stdout.strip()

    def redis_cli(self, *words: str) -> list[str]:
        """Run redis-cli where Redis is, and return its lines."""
        return self("exec", "-T", "redis", "redis-cli", *words).splitlines()


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


def wait_for(condition: Callable[[], object], what: str) -> float:
    """Return after how many seconds the condition held; fail if it did not in time."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < SECONDS, f"not within {SECONDS:g} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - begun


def status(port: int) -> dict[str, Any] | None:
    """Return what a router tells of itself; `None` where nobody answers."""
    try:
        document: dict[str, Any] = httpx.get(f"http://127.0.0.1:{port}/status", trust_env=False, timeout=2).json()
    except httpx.TransportError:
        return None
    return document


def healthy(port: int) -> list[str]:
    return sorted(one["name"] for one in (status(port) or {"replicas": []})["replicas"] if one["status"] == "healthy")


def is_whole(port: int) -> bool:
    return healthy(port) == REPLICAS


def leader() -> str | None:
    """Return which service leads, where all that answer agree."""
    shown = [one for one in map(status, ROUTERS.values()) if one]
    keys = {one["leader"]["router"] if one["leader"] else None for one in shown}
    [key] = keys if len(keys) == 1 else [None]
    return key.partition("~")[0] if key else None


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
