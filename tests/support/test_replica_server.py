"""The mock replicas as a process of their own, which tests of several processes lean on."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import quote

from shared_registry.config import RouterConfig
from shared_registry.probing import HttpProber
from tests.support.scripted_server import LONG
from tests.support.until import until

ROOT = Path(__file__).parents[2]


async def read_json(port: int, path: str) -> object:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()
    return json.loads(body)


async def test_a_replica_process_is_controlled_and_counted_from_outside() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.replica_server", "--host", "127.0.0.1", "--warming"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        port = int((await process.stdout.readline()).split()[-1])
        url = f"http://127.0.0.1:{port}"
        async with HttpProber(RouterConfig(health_check_expect={"status": "ready"})) as prober:
            assert (await prober(f"{url}/readyz", timeout=LONG))[1] == "body: status is 'warming', expected 'ready'"
            ready = quote('{"status": "ready"}')
            assert await read_json(port, f"/set?ready=1&latency_ms=20&body={ready}") == {}
            assert (await prober(f"{url}/readyz", timeout=LONG))[1] is None
            latency_ms, error = await prober(f"{url}/health", timeout=LONG)
            assert (error, latency_ms >= 20) == (None, True)
            await read_json(port, "/set?status=503&latency_ms=0")
            assert (await prober(f"{url}/health", timeout=LONG))[1] == "HTTP 503"
            # After each failure the next probe connects anew.
            expected = {"requests": 4, "connections": 2, "open_connections": 0}

            async def is_counted() -> bool:
                return await read_json(port, "/counts") == expected

            await until(is_counted)
    finally:
        process.terminate()
        await process.wait()
