"""What the image's HEALTHCHECK says of a router: whether its process lives, whatever else is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from shared_registry.api.address import ABOVE_PORT
from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import RouterProcess, StartProcess
from tests.support.certificates import Authority
from tests.support.command import ROOT, environment

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def is_healthy(router: RouterProcess, *, host: str = "127.0.0.1", **variables: str) -> bool:
    """Run the command of the Dockerfile as a container of this router would."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    [words] = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", text, re.MULTILINE)
    port = str(httpx.URL(router.url).port)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = environment(**{"PATH": path, "SHARED_REGISTRY_HOST": host, "SHARED_REGISTRY_PORT": port, **variables})
    done = await asyncio.to_thread(
        subprocess.run, json.loads(words), env=given, capture_output=True, timeout=20, check=False
    )
    assert done.returncode in (0, 1)  # Docker reserves all others
    return done.returncode == 0


async def test_the_image_is_healthy_without_replicas_or_redis(
    start_process: StartProcess, own_server: Callable[..., EmbeddedServer]
) -> None:
    redis = own_server()
    router = await start_process(redis_url=redis.url)
    assert await is_healthy(router)
    assert await is_healthy(router, host="0.0.0.0")
    assert await is_healthy(router, host="", http_proxy="http://127.0.0.1:1")
    await asyncio.to_thread(redis.kill)
    assert await is_healthy(router)


async def test_the_image_is_healthy_while_waiting_for_redis(
    start_process: StartProcess, own_server: Callable[..., EmbeddedServer]
) -> None:
    redis = own_server()
    redis.stop()
    assert await is_healthy(await start_process(redis_url=redis.url, wanted="waiting for"))


async def test_the_check_starts_no_python(start_process: StartProcess, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    (tmp_path / "bash").symlink_to(bash)
    assert await is_healthy(await start_process(), PATH=str(tmp_path))


async def test_a_router_with_tls_is_healthy(start_process: StartProcess, tmp_path: Path) -> None:
    certificate, key = (str(file) for file in Authority(tmp_path).sign("router"))
    router = await start_process(tls_certificate_file=certificate, tls_key_file=key)
    assert router.url.startswith("https://")
    assert await is_healthy(router, SHARED_REGISTRY_TLS_CERTIFICATE_FILE=certificate)
    assert not await is_healthy(router)
    router.command.process.send_signal(signal.SIGSTOP)
    assert not await is_healthy(router, SHARED_REGISTRY_TLS_CERTIFICATE_FILE=certificate)
    router.command.process.send_signal(signal.SIGCONT)


async def test_the_check_of_a_router_with_tls_starts_no_python(start_process: StartProcess, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    (tmp_path / "bash").symlink_to(bash)
    certificate, key = (str(file) for file in Authority(tmp_path).sign("router"))
    router = await start_process(tls_certificate_file=certificate, tls_key_file=key, admin_port=0)
    variables = {
        "PATH": str(tmp_path),
        "SHARED_REGISTRY_TLS_CERTIFICATE_FILE": certificate,
        "SHARED_REGISTRY_ADMIN_PORT": str(httpx.URL(router.admin_url).port),
    }
    assert await is_healthy(router, **variables)
    assert await is_healthy(router, **variables, SHARED_REGISTRY_ADMIN_HOST="0.0.0.0")
    usual = {
        **variables,
        "SHARED_REGISTRY_PORT": str(int(variables["SHARED_REGISTRY_ADMIN_PORT"]) - ABOVE_PORT),
        "SHARED_REGISTRY_ADMIN_PORT": "auto",
    }
    assert await is_healthy(router, **usual)
    router.command.process.send_signal(signal.SIGSTOP)
    assert not await is_healthy(router, **variables)
    router.command.process.send_signal(signal.SIGCONT)
    router.command.process.kill()
    router.command.process.wait()
    del variables["PATH"]
    assert not await is_healthy(router, **variables)


async def test_a_frozen_or_dead_process_is_unhealthy(start_process: StartProcess) -> None:
    router = await start_process()
    router.command.process.send_signal(signal.SIGSTOP)
    assert not await is_healthy(router)
    router.command.process.send_signal(signal.SIGCONT)
    assert await is_healthy(router)
    router.command.process.kill()
    router.command.process.wait()
    assert not await is_healthy(router)
