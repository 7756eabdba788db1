"""Java's HttpClient before a router: it offers HTTP/2 with every request that is not encrypted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.proxy.conftest import SECONDS, RunningRouter
from tests.support.backend import Backend
from tests.support.foreign import find_program

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOURCE = Path(__file__).parents[2] / "support" / "java" / "Post.java"


async def test_posts_and_a_websocket_of_java_are_served(router: RunningRouter, backend: Backend) -> None:
    find_program("javac", "default-jdk-headless")  # a runtime alone cannot run a source file
    process = await asyncio.create_subprocess_exec(
        find_program("java"), SOURCE, router.url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(2 * SECONDS):
            lines = (await process.communicate())[0].decode().splitlines()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert [line.split()[:2] for line in lines[:2]] == [["HTTP_1_1", "200"]] * 2, lines
    assert all(int(line.split()[2]) > 100_000 for line in lines[:2])
    assert lines[2:] == ["hello"]
    posts = [scope for scope in backend.scopes if scope["type"] == "http"]
    assert [scope["path"] for scope in posts] == ["/v1/java"] * 2
    assert not any(name == b"upgrade" for scope in posts for name, _ in scope["headers"])
