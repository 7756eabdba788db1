"""Every example runs as it is told to be run, and does what it is there to show."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from shared_registry.config import load_yaml
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.keys import Keys
from tests.support.programs import EXAMPLES, SECONDS, answer, free_port, mock_replica, program, session
from tests.support.until import wait_for

pytestmark = pytest.mark.timeout(180)  # some start five programs, one after the other
FAST = {
    "SHARED_REGISTRY_HEALTH_CHECK_INTERVAL_SECONDS": "0.2",
    "SHARED_REGISTRY_LEASE_SECONDS": "1",
    "SHARED_REGISTRY_RENEW_INTERVAL_SECONDS": "0.3",
}


@pytest.fixture
def variables(server: EmbeddedServer, namespace: str) -> dict[str, str]:
    return {"SHARED_REGISTRY_REDIS_URL": server.url, "SHARED_REGISTRY_NAMESPACE": namespace, **FAST}


@pytest.fixture
def replicas() -> Iterator[dict[str, str]]:
    """Urls of two mock replicas, by their names."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(mock_replica(name)) for name in ("gpu-a", "gpu-b")}


def statuses(url: str) -> list[str]:
    return [one["status"] for one in answer(url).json()["replicas"]]


def until_healthy(url: str) -> None:
    deadline = time.monotonic() + SECONDS
    while statuses(url) != ["healthy", "healthy"]:
        assert time.monotonic() < deadline, statuses(url)
        time.sleep(0.02)


def test_the_starlette_app_sends_sessions_to_replicas(variables: dict[str, str], replicas: dict[str, str]) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    variables["SHARED_REGISTRY_REPLICAS"] = ",".join(replicas.values())
    app = ("-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port), "--log-level", "warning")
    with program(*app, "starlette_app:app", **variables):
        until_healthy(f"{base}/replicas")
        wait_for(lambda: answer(f"{base}/replicas").json()["is_leader"] is True, "it leads")
        sent_to = answer(f"{base}/generate", status=307, method="POST").headers["location"]
        assert sent_to == f"{replicas['gpu-a']}/v1/generate"


def test_the_starlette_app_reports_that_it_has_no_replicas(variables: dict[str, str]) -> None:
    port = free_port()
    app = ("-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port), "--log-level", "warning")
    with program(*app, "starlette_app:app", **variables):
        refused = answer(f"http://127.0.0.1:{port}/generate", status=503, method="POST")
        assert refused.headers["retry-after"] == "1"


def test_the_router_in_40_lines_routes_sessions(variables: dict[str, str], replicas: dict[str, str]) -> None:
    example = EXAMPLES / "router_in_40_lines.py"
    assert len(example.read_text().splitlines()) <= 40
    port = free_port()
    variables |= {"SHARED_REGISTRY_REPLICAS": ",".join(replicas.values()), "SHARED_REGISTRY_PORT": str(port)}
    with program(str(example), **variables):

        def is_served() -> bool:
            try:
                return session(port) == ("gpu-a", bytes(64))
            except Exception:  # noqa: BLE001  refused until it listens, closed with 1013 until a replica is healthy
                return False

        wait_for(is_served, "the first replica has the session, which may be healthy after the other one")


def test_the_fastvideo_example_runs(
    server: EmbeddedServer, variables: dict[str, str], replicas: dict[str, str], tmp_path: Path
) -> None:
    settings = (EXAMPLES / "fastvideo" / "router.yaml").read_text()
    for url, there in zip(replicas.values(), ("http://127.0.0.1:8000", "http://127.0.0.1:8001"), strict=True):
        settings = settings.replace(f"url: {there}\n", f"url: {url}\n")
    ports = [free_port(), free_port()]
    routers: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        for port in ports:
            path = tmp_path / f"router-{port}.yaml"
            path.write_text(settings.replace("port: 9000", f"port: {port}"))
            routers.append(
                stack.enter_context(program(str(EXAMPLES / "fastvideo" / "router.py"), str(path), **variables))
            )
        for port in ports:
            until_healthy(f"http://127.0.0.1:{port}/status")
            assert session(port)[0] == "gpu-a"
        with Redis.from_url(server.url) as redis:
            keys = Keys(variables["SHARED_REGISTRY_NAMESPACE"])
            wait_for(lambda: redis.zcard(keys.routers) == 2, "both routers are there")
            wait_for(lambda: redis.exists(keys.leader), "one of them leads")
            for router in routers:
                router.terminate()
                router.wait(SECONDS)
            assert (redis.zcard(keys.routers), redis.exists(keys.leader)) == (0, 0)


def test_the_diff_for_fastvideo_is_one_import() -> None:
    page = (EXAMPLES / "fastvideo" / "README.md").read_text()
    first, *_ = re.findall(r"```diff\n(.*?)```", page, re.DOTALL)
    changed = [line for line in first.splitlines() if line.startswith(("+", "-")) and line[:3] not in {"+++", "---"}]
    assert [line[0] for line in changed] == ["-", "+"]
    assert all("import" in line for line in changed)
    assert "shared_registry.fastvideo" in changed[1]


def test_the_llm_gateway_routes_requests(variables: dict[str, str], replicas: dict[str, str], tmp_path: Path) -> None:
    settings = (EXAMPLES / "llm_gateway" / "router.yaml").read_text()
    for url, there in zip(replicas.values(), ("http://127.0.0.1:8000", "http://127.0.0.1:8001"), strict=True):
        assert there in settings
        settings = settings.replace(there, url)
    path = tmp_path / "router.yaml"
    path.write_text(settings)
    port = free_port()
    gateway = f"http://127.0.0.1:{port}"
    serve = ("-m", "shared_registry", "serve", "--config", str(path), "--port", str(port))
    with program(*serve, **variables):
        until_healthy(f"{gateway}/status")
        chat = [sys.executable, str(EXAMPLES / "llm_gateway" / "chat.py"), gateway, "good morning"]
        done = subprocess.run(chat, capture_output=True, text=True, timeout=2 * SECONDS, check=False)
        assert done.stdout in {f"{name} heard: good morning\n" for name in ("gpu-a", "gpu-b")}
        assert done.stderr == ""


@pytest.mark.parametrize("name", ["fastvideo", "llm_gateway", "compose"])
def test_settings_of_examples_load_without_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert load_yaml(EXAMPLES / name / "router.yaml").replicas
    assert caplog.text == ""
