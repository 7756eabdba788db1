"""Programs of others that the proxy is measured beside: found, run with a configuration, and what they have used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.rows import Row
from shared_registry.embedded.bound_process import BoundProcess
from tests.support.nginx import listens

START_SECONDS = 20.0
SECONDS_A_TICK = 1 / os.sysconf("SC_CLK_TCK")
HAPROXY = """
global
  nbthread 1
defaults
  mode http
  option http-no-delay
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  server one 127.0.0.1:{origin}
"""


def find_program(name: str) -> str:
    """Return where a program is.

    Raises:
        RuntimeError: It is missing; see `missing_programs`.
    """
    program = _which(name)
    if program is None:
        raise RuntimeError(f"{name} is not installed")
    return program


def missing_programs(*names: str) -> Row | None:
    """Return what to report instead of a measurement if programs are missing."""
    missing = [name for name in names if _which(name) is None]
    return Row("not measured", 0, "", note=f"needs {', '.join(missing)}") if missing else None


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def haproxy_before(folder: Path, origin: int, port: int) -> contextlib.AbstractAsyncContextManager[BoundProcess]:
    """Run HAProxy with one thread in front of a port of this machine."""
    return running(folder, [find_program("haproxy"), "-f"], HAPROXY.format(port=port, origin=origin), port)


@contextlib.asynccontextmanager
async def running(folder: Path, command: list[str], config: str, port: int) -> AsyncIterator[BoundProcess]:
    """Run a program with a configuration file until it listens, and for the block."""
    file = folder / f"{port}.conf"
    file.write_text(config)
    async with listening(folder, [*command, str(file)], port) as process:
        yield process


@contextlib.asynccontextmanager
async def listening(folder: Path, command: list[str], port: int) -> AsyncIterator[BoundProcess]:
    """Run a program until it listens, and for the block."""
    log = folder / f"{port}.log"
    with log.open("wb") as output:
        process = BoundProcess(command, cwd=folder, output=output)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await listens(port):
                if process.poll() is not None:
                    raise RuntimeError(f"{command[0]} has ended: {log.read_text()[-2000:]}")
                await asyncio.sleep(0.05)
        yield process
    finally:
        process.kill()


def cpu_seconds(pid: int) -> float:
    """Return how much CPU a process has used, with all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * SECONDS_A_TICK


def resident_bytes(pid: int) -> int:
    """Return how much memory of a process is resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port: int = trial.getsockname()[1]
    return port
