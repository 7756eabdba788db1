"""curl before a router: what it offers, announces and asks for, in every version that it speaks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conftest import SECONDS, RunningRouter, until_idle
from tests.support.backend import Backend
from tests.support.foreign import find_program
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b"0123456789abcdef" * 100_000


async def curl(*words: str | Path, stdin: bytes | None = None) -> tuple[dict[str, Any], bytes]:
    """Run curl, which must succeed; return what it says about the transfer, and the body."""
    report = [
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        f"{SECONDS:g}",
        "--write-out",
        "%{stderr}%{json}",
    ]
    process = await asyncio.create_subprocess_exec(
        find_program("curl"),
        *report,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate(stdin or b"")
    assert process.returncode == 0, errors
    return json.loads(errors), out


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(BODY)
    return path


async def test_an_offer_of_http2_is_served_as_http1(router: RunningRouter, upload: Path) -> None:
    for words in ([], ["--request", "POST"], ["--data-binary", "hello"], ["--data-binary", f"@{upload}"]):
        told, body = await curl("--http2", *words, f"{router.url}/v1/x")
        assert (told["http_version"], told["http_code"]) == ("1.1", 200)
        sent = json.loads(body)
        assert not {"upgrade", "http2-settings", "connection"} & {name for name, _ in sent["headers"]}
        assert len(sent["body"]) == (0 if not words or "--request" in words else len(BODY) if len(words[1]) > 5 else 5)
    told, body = await curl(
        "--http2", "--data-binary", f"@{upload}", f"{router.url}/upload", "--next", f"{router.url}/v1/y"
    )
    assert body.startswith(b'{"bytes":%d}' % len(BODY))
    await until_idle(router)


async def test_an_announced_body_is_asked_for_and_arrives(router: RunningRouter, upload: Path) -> None:
    words = ["--include", "--header", "Expect: 100-continue", "--expect100-timeout", "60"]
    _, body = await curl(*words, "--data-binary", f"@{upload}", f"{router.url}/upload")
    assert body.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert body.endswith(b'{"bytes":%d}' % len(BODY))


async def test_a_body_of_unknown_length_arrives_whole(router: RunningRouter) -> None:
    told, body = await curl("--request", "PUT", "--upload-file", "-", f"{router.url}/upload", stdin=BODY)
    assert (told["http_code"], json.loads(body)) == (200, {"bytes": len(BODY)})
    assert told["size_upload"] >= len(BODY)


async def test_a_head_request_has_no_body_and_keeps_the_connection(router: RunningRouter) -> None:
    _, body = await curl(
        "--head", f"{router.url}/download?bytes=10", "--next", "--silent", f"{router.url}/download?bytes=10"
    )
    assert body.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body.endswith(b"\r\n\r\n" + bytes(10))


async def test_a_client_of_http_1_0_gets_a_whole_response(router: RunningRouter, upload: Path) -> None:
    told, body = await curl("--http1.0", f"{router.url}/download?bytes=1000000")
    assert (told["http_code"], body) == (200, bytes(1_000_000))
    told, body = await curl("--http1.0", "--data-binary", f"@{upload}", f"{router.url}/upload")
    assert (told["http_code"], json.loads(body)) == (200, {"bytes": len(BODY)})


async def test_a_range_is_asked_of_the_replica(router: RunningRouter, backend: Backend) -> None:
    _, body = await curl("--range", "100-199", "--compressed", f"{router.url}/v1/file")
    headers = dict(json.loads(body)["headers"])
    assert headers["range"] == "bytes=100-199"
    assert "gzip" in headers["accept-encoding"]
    answer = json.dumps([["content-range", "bytes 100-102/500"], ["accept-ranges", "bytes"]])
    told, body = await curl(
        "--range",
        "100-102",
        "--include",
        "--get",
        "--data",
        "status=206&body=abc",
        "--data-urlencode",
        f"headers={answer}",
        f"{router.url}/answer",
    )
    assert told["http_code"] == 206
    assert b"content-range: bytes 100-102/500\r\n" in body.lower()
    assert body.endswith(b"abc")


async def test_a_transfer_that_curl_gives_up_frees_its_slot(router: RunningRouter, backend: Backend) -> None:
    process = await asyncio.create_subprocess_exec(
        find_program("curl"), "--silent", "--noproxy", "*", "--request", "POST", f"{router.url}/wait"
    )
    try:
        await until(lambda: backend.scopes, "the replica has the request")
    finally:
        process.kill()
        await process.wait()
    await until(backend.left.is_set, "the replica knows that the client has left")
    await until_idle(router)
