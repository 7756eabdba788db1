"""Runs a page as a reader does: writes the files that it shows, and gives a shell its commands, in their order.

The shell has a network of its own, so that the page's ports are free, and an environment with the built wheel only.

- A block in a language other than `sh`, whose paragraph before begins with a name in backticks, is that file.
- A block `sh` is run, except where the paragraph before it is the comment `<!-- not run: reason -->`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"`([\w.-]+\.\w+)`[^`]*\Z")
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")
SHOW = "printf '\\n### %s\\n' "


@dataclass(frozen=True)
class Page:
    """What a page shows: files by name, and pieces for a shell.

    Attributes:
        script: All of it as one shell script, which ends with the first command that fails.
        commands: The pieces that are run.
        omitted: The pieces that the page says are not run.
    """

    script: str
    commands: list[str]
    omitted: list[str]


def read_page(text: str) -> Page:
    """Return the files and commands of a page."""
    parts = ["set -eu"]
    commands: list[str] = []
    omitted: list[str] = []
    for found in BLOCK.finditer(text):
        language, body = found.groups()
        before = text[: found.start()].rstrip()
        if language == "sh":
            (omitted if NOT_RUN.search(before) else commands).append(body)
            if not NOT_RUN.search(before):
                parts.append(f"{SHOW}{shlex.quote(body.strip().splitlines()[0])}\n{body}")
        elif (named := FILE.search(before.rpartition("\n\n")[2])) and language:
            parts.append(f"cat >{named[1]} <<'END_OF_FILE'\n{body}END_OF_FILE")
    return Page("\n".join(parts), commands, omitted)


def make_environment(home: Path, wheel: Path, redis_server: Path) -> dict[str, str]:
    """Make an environment that can install only this wheel; return the variables with which its commands are found."""
    venv.create(home, with_pip=False, symlinks=True)
    [site_packages] = home.glob("lib/python*/site-packages")
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed))
    pip = home / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {home}/bin/python -m pip "$@"\n')
    pip.chmod(0o755)
    (home / "bin" / "redis-server").symlink_to(redis_server)
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    offline = {
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_IGNORE_INSTALLED": "1",
        "PIP_FIND_LINKS": str(wheel.parent),
    }
    return (
        settings | offline | {"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", "PIP_CONFIG_FILE": os.devnull}
    )


def run_script(
    script: str, folder: Path, variables: dict[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a script in a network of its own, and end all that it leaves behind."""
    alone = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", "bash", "-c", script]
    output = folder / "output.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(
            alone,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return subprocess.CompletedProcess(alone, code, output.read_text(), "")


def build_wheel(folder: Path) -> Path:
    """Build this checkout's wheel there."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel
