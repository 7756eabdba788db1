"""docs/kubernetes.md: commands that need no cluster run as they stand, and the others name only what exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from shared_registry import __version__
from shared_registry.cli.app import app
from shared_registry.config import RouterConfig
from shared_registry.telemetry.families import EVERY
from tests.support.charts import Charts
from tests.support.command import ROOT
from tests.support.helm import CHART, EXAMPLES, find_helm, helm, named

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
MARK = "# in a cluster\n"
HERE = [block for block in BLOCKS if not block.startswith(MARK)]
THERE = [line for block in BLOCKS if block.startswith(MARK) for line in block.removeprefix(MARK).splitlines()]
SECONDS = 50.0


@pytest.mark.parametrize("block", HERE)
def test_commands_without_a_cluster_run(block: str, tmp_path: Path) -> None:
    programs = f"{Path(find_helm()).parent}:/usr/bin:/bin"
    for line in block.splitlines():
        done = subprocess.run(
            ["bash", "-ec", line],
            cwd=ROOT,
            env={"PATH": programs, "HOME": str(tmp_path), "KUBECONFIG": "none"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"  # bash turns it around behind an exclamation mark
        assert done.stderr if line.startswith("! ") else done.stdout


def test_the_page_has_commands_of_both_kinds() -> None:
    assert len(HERE) == 4
    assert len(THERE) > 10


@pytest.mark.parametrize("line", [line for line in THERE if "shared-registry " in line and " exec " in line])
def test_commands_inside_a_pod_exist(line: str, charts: Charts) -> None:
    before, _, words = line.partition(" -- shared-registry ")
    workload = named(charts["default"], "Deployment")
    assert f"deploy/{workload['metadata']['name']}" in before
    mounts = workload["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    name, *options = shlex.split(words)
    file = Path(options[options.index("--config") + 1])
    assert str(file.parent) in {mount["mountPath"] for mount in mounts}
    assert file.name in named(charts["default"], "ConfigMap")["data"]
    group = typer.main.get_command(app)
    with group.make_context("shared-registry", [name]) as outer:
        group.get_command(outer, name).make_context(name, options, parent=outer)  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", [line for line in THERE if line.startswith("helm ")])
def test_options_of_helm_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    verb = words[:2] if words[0] == "repo" else words[:1]
    known = helm(*verb, "--help").stdout
    for word in words:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", known), f"{line}: no {word}"
        elif word.startswith(("charts/", "examples/")):
            assert (ROOT / word).exists()


def test_the_secret_is_the_one_of_the_default_values() -> None:
    redis = yaml.safe_load((CHART / "values.yaml").read_text())["redis"]
    [line] = [line for line in THERE if "create secret" in line]
    assert f" generic {redis['existingSecret']} --from-literal={redis['key']}=redis://" in line


def test_ports_versions_and_workloads_are_those_of_the_chart(charts: Charts) -> None:
    [container] = named(charts["default"], "Deployment")["spec"]["template"]["spec"]["containers"]
    [line] = [line for line in THERE if "port-forward" in line]
    assert int(line.split()[-1]) in {port["containerPort"] for port in container["ports"]}
    assert all(line.rstrip(" .").endswith(f":{__version__}") for line in THERE if line.startswith("docker "))
    workloads = {one["metadata"]["name"] for one in charts["default"] if one["kind"] == "Deployment"}
    assert {name for line in THERE for name in re.findall(r"deploy/(\S+)", line)} == workloads


def test_the_page_names_only_values_and_metrics_that_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    metrics = {family.name for family in EVERY}
    metrics.add(
        yaml.safe_load((EXAMPLES / "prometheus-adapter.yaml").read_text())["rules"]["external"][0]["name"]["as"]
    )
    settings = set(RouterConfig.__dataclass_fields__) | {"health_check"}
    for name in set(re.findall(r"`([a-zA-Z_]+(?:\.[a-zA-Z_]+)+)(?::[^`]*)?`", PAGE)):
        at = values
        if name.endswith((".yaml", ".crt")):
            continue
        for key in name.split("."):
            if at is values["config"]:
                assert key in settings, name
                break
            assert key in at, name
            at = at[key]
    assert set(re.findall(r"`(sr_\w+)`", PAGE)) <= metrics
