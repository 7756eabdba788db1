"""The cluster of docker-compose.yml, as a compose project of its own, and what its routers say."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.command import ROOT

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
        self._words = compose_command()
        self._environment = os.environ | {"COMPOSE_PROJECT_NAME": f"shared-registry-test-{secrets.token_hex(3)}"}

    def __call__(self, *words: str, seconds: float = SECONDS) -> str:
        """Run a compose command and return what it printed."""
        return self._run([*self._words, *words], seconds)

    def shell(self, line: str, seconds: float = SECONDS) -> str:
        """Run a line that a page shows on a terminal, and return what it printed; v1 of compose has another name."""
        line = line.replace("docker compose", shlex.join(self._words))
        return self._run(["script", "--quiet", "--return", "--command", line, "/dev/null"], seconds)

    def _run(self, words: list[str], seconds: float) -> str:
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
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
