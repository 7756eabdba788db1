"""The files of examples/monitoring: what they ask for exists, and what they say can be done."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry.telemetry.families import EVERY
from tests.support.command import run
from tests.support.foreign import find_program
from tests.support.prometheus import EXAMPLES, alert_rules, prometheus_of

PARTS = ("_bucket", "_count", "_sum")
OF_PYTHON = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
}
BOARD: dict[str, Any] = json.loads((EXAMPLES / "grafana.json").read_text())


def expressions() -> Iterator[str]:
    """Return all expressions, as Grafana would ask them."""
    yield from (rule["expr"] for rule in alert_rules())
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m").replace("$job", "shared-registry")


def test_promtool_accepts_the_configuration_and_the_alerts() -> None:
    promtool = find_program("promtool", "prometheus")
    for words in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        done = subprocess.run(
            [promtool, "check", *words], cwd=EXAMPLES, capture_output=True, text=True, timeout=50, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expression", [*expressions()])
def test_expressions_use_metrics_and_labels_that_exist(expression: str) -> None:
    known = {family.name: {*family.all_labels, "job", "instance"} for family in EVERY}
    for family in EVERY:
        if family.kind == "histogram":
            known |= {family.name + part: {*known[family.name], "le"} for part in PARTS}
    known |= {name: {"job", "instance"} for name in OF_PYTHON}
    names = set(re.findall(r"\b(?:sr|process)_[a-z_]+", expression))
    assert names <= known.keys()
    allowed = set().union({"job", "instance"}, *(known[name] for name in names))
    used = set(re.findall(r"(\w+)\s*=~?\s*\"", expression))
    for group in re.findall(r"(?:by|on|without) \(([^)]*)\)", expression):
        used |= {label.strip() for label in group.split(",")}
    assert used <= allowed


async def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    async with prometheus_of(["127.0.0.1:1"], tmp_path) as prometheus:
        for expression in expressions():
            await prometheus.query(expression)


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.parametrize(
    "command", sorted({rule["annotations"]["command"] for rule in alert_rules()} - {"redis-cli --latency"})
)
def test_the_first_command_of_an_alert_exists(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "shared-registry":
        done = run(*words[1:], "--help")
        assert done.code == 0, done.err
