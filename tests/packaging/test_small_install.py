"""What runs beside a replica needs no part of the proxy: an environment with few packages announces one.

The packages are those that the wheel asks for, linked from the environment that runs the tests: nothing is downloaded.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from redis import Redis

from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.packaging.test_install import Environment, checkout, run, wheel
from tests.support.programs import free_port
from tests.support.until import wait_for

__all__ = ["checkout", "wheel"]  # fixtures
URL = "http://127.0.0.1:9"
ANNOUNCING = """
import asyncio, sys
from shared_registry import Announcement, ReplicaEndpoint, RouterConfig

async def main():
    config = RouterConfig(redis_url=sys.argv[1], namespace=sys.argv[2])
    async with Announcement(config, ReplicaEndpoint(sys.argv[3]), owner="pod-1") as announcement:
        await announcement.wait_held(timeout_seconds=20)
        print("announced")

asyncio.run(main())
"""


def needed(extra: str) -> set[str]:
    """Return the distributions that an installation with this extra has, without the package itself."""
    asked, found = [("shared-registry", extra)], set[tuple[str, str]]()
    while asked:
        name, wanted = one = asked.pop()
        if one in found:
            continue
        found.add(one)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": it}) for it in {"", wanted}):
                asked += [(requirement.name, it) for it in {"", *requirement.extras}]
    return {name for name, _ in found} - {"shared-registry"}


@pytest.fixture
def environment(request: pytest.FixtureRequest, tmp_path: Path, wheel: Path) -> Environment:
    """An environment with the wheel and what it needs with the extra that the test names."""
    made = Environment(tmp_path / "environment")
    (made.site_packages / "borrowed.pth").unlink()
    for name in needed(request.param):
        for file in importlib.metadata.files(name) or []:
            top = Path(file).parts[0]
            linked = made.site_packages / top
            if top not in {"..", "__pycache__"} and not linked.exists():
                linked.symlink_to(Path(str(file.locate())).parents[len(Path(file).parts) - 1] / top)
    made.install(wheel)
    return made


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def packages(environment: Environment) -> set[str]:
    code = "import importlib.metadata as m; print(*(one.metadata['Name'] for one in m.distributions()))"
    return {name.lower() for name in run([environment.python, "-c", code], cwd=environment.home).split()}


@pytest.mark.parametrize("environment", [""], indirect=True, ids=["core"])
def test_core_dependencies_are_enough_to_announce(
    environment: Environment, server: EmbeddedServer, namespace: str
) -> None:
    assert not packages(environment) & {"starlette", "uvicorn", "uvloop", "typer", "prometheus-client", "httpx"}
    said = run([environment.python, "-c", ANNOUNCING, server.url, namespace, URL], cwd=environment.home)
    assert said == "announced\n"


@pytest.mark.parametrize("environment", ["cli"], indirect=True)
def test_join_needs_no_part_of_the_proxy(
    environment: Environment, server: EmbeddedServer, namespace: str, started: list[subprocess.Popen[str]]
) -> None:
    """Its command is a replica that needs nothing but Python."""
    assert not packages(environment) & {"starlette", "uvicorn", "uvloop", "prometheus-client", "httpx", "dnspython"}
    port = free_port()
    join = [str(environment.home / "bin" / "shared-registry"), "join", "--redis", server.url, "--namespace", namespace]
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    (environment.home / "health").write_text("ok")  # what probes request
    process = subprocess.Popen(
        [
            *join,
            "--url",
            f"http://127.0.0.1:{port}",
            "--",
            environment.python,
            "-m",
            "http.server",
            "--bind",
            "127.0.0.1",
            str(port),
        ],
        cwd=environment.home,
        env=settings,
        text=True,
    )
    started.append(process)
    key = Keys(namespace).replica(f"http://127.0.0.1:{port}")
    with Redis.from_url(server.url, decode_responses=True) as raw:
        wait_for(lambda: raw.hget(key, "admin") == "active", "it is announced")
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
        assert raw.hget(key, "admin") == "removed"
