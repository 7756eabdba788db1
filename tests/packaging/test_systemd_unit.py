"""The unit files for systemd."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.cli.app import app
from shared_registry.embedded import EmbeddedServer
from shared_registry.proxy.service_notices import END_SECONDS
from tests.support.command import ROOT, command, environment
from tests.support.programs import free_port
from tests.support.until import until

FOLDER = ROOT / "packaging" / "systemd"
ROUTER, REPLICA = FOLDER / "shared-registry.service", FOLDER / "shared-registry-replica@.service"
UNITS = {ROUTER: ROUTER.name, REPLICA: REPLICA.name.replace("@", "@gpu-a")}
PROGRAM = "/opt/shared-registry/bin/shared-registry"
VERIFY = "/usr/bin/systemd-analyze"
SECONDS = 30.0


@pytest.mark.skipif(not Path(VERIFY).exists(), reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit_file(unit: Path, tmp_path: Path) -> None:
    """With the interpreter in place of the program, which is not installed where the unit expects it."""
    copy = tmp_path / UNITS[unit]
    copy.write_text(unit.read_text().replace(PROGRAM, sys.executable))
    done = subprocess.run([VERIFY, "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def lines_of(unit: Path) -> dict[str, str]:
    """Return the settings of a unit; of several with one name the last."""
    return dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and line[0] != "#")


def test_the_unit_of_routers_fits_the_defaults() -> None:
    lines = lines_of(ROUTER)
    assert lines["Type"] == "notify"
    assert lines["KillMode"] == "mixed"
    assert int(lines["TimeoutStopSec"]) == RouterConfig().grace_seconds + END_SECONDS
    assert lines["ExecReload"] == "/bin/kill -HUP $MAINPID"


def words_of(variables: Mapping[str, str]) -> list[str]:
    """Return the command of the replica's unit, after its program, as systemd makes it of these variables."""
    words = []
    for word in lines_of(REPLICA)["ExecStart"].replace("%i", "gpu-a").split():
        if found := re.fullmatch(r"\$(\w+)", word):
            words += shlex.split(variables[found[1]])
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], word))
    assert words[0] == PROGRAM
    return words[1:]


def shown_variables() -> dict[str, str]:
    """Return the variables that the head of the replica's unit shows."""
    return dict(re.findall(r"^#     (REPLICA_\w+)=(.*)$", REPLICA.read_text(), re.MULTILINE))


def test_the_unit_of_replicas_leaves_time_to_drain() -> None:
    lines, words = lines_of(REPLICA), words_of(shown_variables())
    drain, stop = (float(words[words.index(f"--{kind}-seconds") + 1]) for kind in ("drain", "stop"))
    assert int(lines["TimeoutStopSec"]) == drain + stop + END_SECONDS
    assert lines["KillMode"] == "mixed"


def test_options_of_the_unit_of_replicas_exist() -> None:
    group = typer.main.get_command(app)
    name, *words = words_of(shown_variables())
    with group.make_context("shared-registry", [name]) as outer:
        context = group.get_command(outer, name).make_context(name, words, parent=outer)  # type: ignore[attr-defined]
    assert context.params["command"][:2] == ["/opt/vllm/bin/vllm", "serve"]
    assert (context.params["name"], context.params["capacity"]) == ("gpu-a", 4)


async def test_the_unit_of_replicas_joins_and_stops_cleanly(
    server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    port = free_port()
    variables = shown_variables() | {
        "REPLICA_URL": f"http://127.0.0.1:{port}",
        "REPLICA_COMMAND": f'"{sys.executable}" -m tests.support.replica_server --port {port}',
    }
    config = tmp_path / "router.yaml"
    config.write_text(f"router: {{namespace: '{namespace}', health_check: {{interval_seconds: 0.2}}}}\n")
    words = [word.replace("/etc/shared-registry/router.yaml", str(config)) for word in words_of(variables)]
    async with SharedReplicaRegistry(RouterConfig(redis_url=server.url, namespace=namespace)) as registry:
        process = await asyncio.create_subprocess_exec(
            *command(*words), cwd=ROOT, env=environment(SHARED_REGISTRY_REDIS_URL=server.url), start_new_session=True
        )
        try:
            await until(registry.select, "the replica takes sessions")
            [replica] = registry.all()
            assert (replica.name, replica.record.endpoint.capacity) == ("gpu-a", 4)
            process.terminate()
            code = await asyncio.wait_for(process.wait(), SECONDS)
            assert code in {0, *map(int, lines_of(REPLICA)["SuccessExitStatus"].split())}
            await until(lambda: not registry.all(), "it has left")
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
