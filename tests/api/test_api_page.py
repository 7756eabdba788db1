"""The examples of docs/api.md run as they stand, and a client that is killed while it holds a lease."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.foreign import find_program
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
TOKEN = "sk-lease-0123456789"
SETTINGS: dict[str, Any] = {"admin_tokens": [f"go: {TOKEN} lease"], "hold_grace_seconds": 0.3}


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def run(admin: httpx.AsyncClient, *command: str) -> str:
    variables = os.environ | {"ROUTER": str(admin.base_url).rstrip("/"), "TOKEN": TOKEN, "NO_PROXY": "*"}
    process = await asyncio.create_subprocess_exec(
        *command, env=variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    return out.decode()


async def test_each_call_of_curl_works(start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    find_program("curl")
    assert len(examples("sh")) == 3
    selected, leased, held = [await run(admin, "bash", "-euc", one) for one in examples("sh")]
    assert backend.url in selected
    assert backend.url in leased
    assert "event: lease" in held
    await until(lambda: is_free(admin), "all slots are free")


async def test_the_javascript_works(start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    [program] = examples("js")
    assert (
        await run(admin, find_program("node", "nodejs"), "--input-type=module", "--eval", program)
    ).strip() == backend.url


async def test_a_killed_client_frees_its_slot(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    process = await asyncio.create_subprocess_exec(
        *(
            find_program("curl"),
            "--silent",
            "--noproxy",
            "*",
            "--no-buffer",
            "--header",
            f"Authorization: Bearer {TOKEN}",
        ),
        str(admin.base_url.join("/v1/leases/hold")),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        await process.stdout.readuntil(b"event: lease")
    await until(lambda: is_taken(admin), "the lease counts")
    process.kill()
    await process.wait()
    await until(lambda: is_free(admin), "its slot is free")


async def is_free(admin: httpx.AsyncClient) -> bool:
    return await in_flight(admin) == 0


async def is_taken(admin: httpx.AsyncClient) -> bool:
    return await in_flight(admin) == 1


async def in_flight(admin: httpx.AsyncClient) -> int:
    found: int = (await admin.get("/v1/replicas")).json()["replicas"][0]["in_flight"]
    return found
