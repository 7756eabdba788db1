"""wrk before a router: as many requests as it can send, over more connections than there are slots."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import StartRouter, all_healthy, until_idle
from tests.support.backend import Backend
from tests.support.foreign import find_program
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECTIONS, SLOTS = 64, 8
SCRIPT = 'wrk.method = "POST"\nwrk.body = "{}"\n'


async def test_many_clients_share_few_slots_without_an_error(start_router: StartRouter, tmp_path: Path) -> None:
    script = tmp_path / "post.lua"
    script.write_text(SCRIPT)
    command = ["--threads", "2", "--connections", str(CONNECTIONS), "--duration", "3s", "--timeout", "30s"]
    async with Backend() as replica:
        endpoints = [ReplicaEndpoint(replica.url, primary=True, capacity=SLOTS)]
        router = await start_router(is_awaited=False, replicas=endpoints, queue_timeout_seconds=30.0)
        await until(lambda: all_healthy(router, 1), "the replica is healthy")
        process = await asyncio.create_subprocess_exec(
            find_program("wrk"), *command, "--script", script, f"{router.url}/v1/x", stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(40):
                output = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert re.search(r"[1-9]\d* requests in", output), output
        assert "Non-2xx" not in output
        assert "Socket errors" not in output
        await until_idle(router)
