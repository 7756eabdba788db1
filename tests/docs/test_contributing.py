"""What CONTRIBUTING.md tells people to do: its files exist, its programs run, its workflow calls what CI runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.selection import policies
from tests.support.until import until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LIGHT, HEAVY = "http://127.0.0.1:8001", "http://127.0.0.1:8002"


@pytest.fixture(autouse=True)
def known_policies() -> Iterator[None]:
    before = dict(policies._policies)
    yield
    policies._policies.clear()
    policies._policies.update(before)


def program(number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number], found)
    return found


def test_every_file_that_it_names_exists() -> None:
    named = set(re.findall(r"\b((?:shared_registry|tests|lua|docs|examples)/[\w/.-]*\w/?)", PAGE))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


async def test_its_policy_and_its_listener_work(server: EmbeddedServer, namespace: str) -> None:
    down: set[str] = set()

    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.0, "refused" if any(url.startswith(one) for one in down) else None

    program(0)
    listening = program(1)
    config = RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        policy="heaviest",
        replicas=[ReplicaEndpoint(LIGHT, weight=1), ReplicaEndpoint(HEAVY, weight=3)],
        health_check_interval_seconds=0.1,
        health_check_timeout_seconds=0.1,
        failure_threshold=1,
    )
    registry = SharedReplicaRegistry(config, http_get=probe)
    registry.subscribe(listening["count"])
    async with registry:
        await until(lambda: chosen(registry) == HEAVY, "the heavier one")
        down.add(HEAVY)
        await until(lambda: chosen(registry) == LIGHT, "the other one, while the heavier one is down")
    assert sum(listening["failures"].values()) == 1


def chosen(registry: SharedReplicaRegistry) -> str | None:
    found = registry.select()
    return None if found is None else found.url


def test_the_workflow_runs_ci_and_every_python() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert any(".ci/run" in command for command in commands)
    tested = {"3.11", *jobs["tests"]["strategy"]["matrix"]["python"]}
    classifiers = re.findall(r"Python :: (3\.\d+)\"", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(classifiers) <= tested


def test_the_forms_for_issues_are_valid() -> None:
    for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[bw]*.yml")):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        for part in form["body"]:
            assert part["type"] in ("textarea", "dropdown")
            assert part["attributes"]["label"]


def test_hooks_run_what_the_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    check = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ncheck: ")[1].split("\n\n")[0]
    for one in ("ruff check", "ruff format", "mypy", "lint-imports", "tests.tools.lua_lint"):
        assert one in check.replace("$(BIN)/", "")
        assert any(one in hook["entry"] for hook in hooks)
