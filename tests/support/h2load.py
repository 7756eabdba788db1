"""Load over HTTP/2 from h2load, which nobody here wrote."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.foreign import find_program

CONNECTIONS, STREAMS = 4, 4
SECONDS = 50.0


@contextlib.asynccontextmanager
async def load(url: str, body: Path, *, requests: int) -> AsyncIterator[asyncio.Task[int]]:
    """Post a file again and again, over some connections; yield what tells how many requests got a 2xx."""
    program = find_program("h2load", "nghttp2-client")
    command = [f"-n{requests}", f"-c{CONNECTIONS}", f"-m{STREAMS}", "-d", str(body), url]
    process = await asyncio.create_subprocess_exec(
        program, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )

    async def succeeded() -> int:
        async with asyncio.timeout(SECONDS):
            output = (await process.communicate())[0].decode()
        found = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", output)
        assert found, output
        assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in output, output
        return int(found[1])

    result = asyncio.create_task(succeeded())
    try:
        yield result
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait((result,))
