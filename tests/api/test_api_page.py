"""The examples of docs/api.md run as they stand, and a client that is killed while it holds a lease."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
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
SETTINGS: dict[str, Any] = {"admin_tokens": [f"go: {TOKEN} lease announce operate"], "hold_grace_seconds": 0.3}


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
    assert len(examples("sh")) == 6
    selected, leased, held, changed, announced, events = [
        await run(admin, "bash", "-euc", one) for one in examples("sh")
    ]
    assert backend.url in selected
    assert backend.url in leased
    assert "event: lease" in held
    assert re.findall(r'"outcome": "(\w+)"', changed) == ["registered", "draining", "draining", "removed"]
    assert re.findall(r'"state": "(\w+)"', announced) == ["held", "held", "removed"]
    assert '"kind": "replica_deregistered"' in events
    assert "event: change" in events
    await until(lambda: is_free(admin), "all slots are free")


async def test_the_javascript_works(start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend) -> None:
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    [program] = examples("js")
    assert (
        await run(admin, find_program("node", "nodejs"), "--input-type=module", "--eval", program)
    ).strip() == backend.url


@pytest.mark.timeout(180)  # a compiler takes its time on a busy machine
@pytest.mark.parametrize(("language", "compiler"), [("go", "go build -o"), ("rust", "rustc -o")])
async def test_the_compiled_programs_work(
    start_with_admin: StartRouter,
    admin_of: AdminOf,
    backend: Backend,
    tmp_path: Path,
    language: str,
    compiler: str,
) -> None:
    if shutil.which(compiler.split(maxsplit=1)[0]) is None:
        pytest.skip(f"no compiler of {language} is installed")
    admin = admin_of(await start_with_admin(backend.url, **SETTINGS))
    source, program = tmp_path / f"hold.{'go' if language == 'go' else 'rs'}", tmp_path / "hold"
    source.write_text(examples(language)[0])
    await run(admin, *compiler.split(), str(program), str(source))
    assert 'lease {"id": "' in (await run(admin, str(program)))
    await until(lambda: is_free(admin), "all slots are free")


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
