"""The unit file for systemd."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared_registry.config import RouterConfig
from shared_registry.proxy.service_notices import END_SECONDS
from tests.support.command import ROOT

UNIT = ROOT / "packaging" / "systemd" / "shared-registry.service"
VERIFY = "/usr/bin/systemd-analyze"


@pytest.mark.skipif(not Path(VERIFY).exists(), reason="systemd is not installed")
def test_systemd_accepts_the_unit_file(tmp_path: Path) -> None:
    """With the interpreter in place of the program, which is not installed where the unit expects it."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/shared-registry/bin/shared-registry", sys.executable))
    done = subprocess.run([VERIFY, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_file_fits_the_defaults() -> None:
    lines = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    assert lines["Type"] == "notify"
    assert lines["KillMode"] == "mixed"
    assert int(lines["TimeoutStopSec"]) == RouterConfig().grace_seconds + END_SECONDS
    assert lines["ExecReload"] == "/bin/kill -HUP $MAINPID"
