"""HTTP requests and responses pass as they are, as they come, and never look complete when they are not."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import quote

import httpx
import pytest
from redis import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import PATIENT, SECONDS, RunningRouter, StartRouter
from tests.support.backend import CHUNK, Backend, RawBackend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


async def exchange(router: RunningRouter, request: bytes) -> bytes:
    """Send bytes on a connection of their own; return all that comes until the router closes it."""
    reader, writer = await asyncio.open_connection(*router.address)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), SECONDS)
    finally:
        writer.close()


# Requests


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_methods_targets_and_bodies_pass_unchanged(router: RunningRouter, method: str) -> None:
    body = "" if method in ("GET", "OPTIONS") else "ü" * 1000
    target = "//a//b%2Fc;d/./e?x=1&x=2&y=%20+"
    request = router.http.build_request(method, router.url + "/", content=body.encode() or None)
    request.extensions["target"] = target.encode()
    seen = (await router.http.send(request)).json()
    assert (seen["method"], seen["target"], seen["body"].encode("latin-1")) == (method, target, body.encode())


async def test_connection_headers_are_removed_and_forwarding_headers_added(router: RunningRouter) -> None:
    headers = [
        ("Connection", "keep-alive, X-Secret"),
        ("X-Secret", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "x"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-For", "10.0.0.2"),
        ("X-Forwarded-Proto", "https"),
        ("Authorization", "Bearer x"),
        ("Accept-Encoding", "gzip"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
    ]
    response = await router.http.get("/", headers=headers)
    seen = response.json()["headers"]
    names = [name for name, _ in seen]
    assert not {"connection", "x-secret", "keep-alive", "proxy-authorization", "te", "upgrade"} & set(names)
    host = router.url.removeprefix("http://")
    assert [pair for pair in seen if pair[0].startswith("x-") or pair[0] in ("host", "authorization")] == [
        ["host", host],
        ["authorization", "Bearer x"],
        ["x-twice", "1"],
        ["x-twice", "2"],
        ["x-forwarded-for", "10.0.0.1, 10.0.0.2, 127.0.0.1"],
        ["x-forwarded-proto", "https"],
        ["x-forwarded-host", host],
        ["x-request-id", response.headers["x-request-id"]],
    ]


async def test_a_body_of_unknown_length_is_streamed_in_chunks(router: RunningRouter, backend: Backend) -> None:
    async def chunks() -> Any:
        for _ in range(50):
            yield CHUNK

    response = await router.http.post("/upload", content=chunks())
    assert response.json() == {"bytes": 50 * len(CHUNK)}
    seen = dict(backend.scopes[-1]["headers"])
    assert seen[b"transfer-encoding"] == b"chunked"
    assert b"content-length" not in seen


async def test_a_client_expecting_100_continue_receives_it(router: RunningRouter) -> None:
    reader, writer = await asyncio.open_connection(*router.address)
    writer.write(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"body")
    assert b" 200 " in await reader.readline()
    writer.close()


async def test_without_a_replica_no_body_is_requested(start_router: StartRouter) -> None:
    router = await start_router()
    request = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    answer = await exchange(router, request)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in answer


async def test_http_1_0_and_pipelining_are_supported(router: RunningRouter) -> None:
    answer = await exchange(router, b"GET /answer?status=200&body=old HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nold")
    get = b"GET /answer?status=200&body=%d HTTP/1.1\r\nHost: a\r\n"
    pipelined = get % 0 + b"\r\n" + get % 1 + b"\r\n" + get % 2 + b"Connection: close\r\n\r\n"
    answer = await exchange(router, pipelined)
    assert [part[-1:] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"0", b"1", b"2"]


# Responses


@pytest.mark.parametrize("status", [200, 201, 204, 301, 304, 400, 404, 418, 500, 503])
async def test_statuses_pass_and_redirects_are_not_followed(router: RunningRouter, status: int) -> None:
    headers = [["location", "http://10.255.255.1/"], ["etag", '"1"'], ["set-cookie", "a=1"], ["set-cookie", "b=2"]]
    headers.append(["date", "Thu, 01 Jan 1970 00:00:00 GMT"])
    body = "" if status in (204, 304) else "text"
    target = f"/answer?status={status}&body={body}&headers={quote(json.dumps(headers))}"
    response = await router.http.get(target)
    assert (response.status_code, response.text) == (status, body)
    assert response.headers["location"] == "http://10.255.255.1/"
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers.get_list("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert (await router.http.get("/answer?status=200&body=next")).text == "next"


async def test_a_head_response_has_the_length_and_no_body(router: RunningRouter) -> None:
    response = await router.http.head("/answer?status=200&body=12345")
    assert (response.headers["content-length"], response.content) == ("5", b"")
    assert (await router.http.get("/answer?status=200&body=next")).text == "next"


async def test_a_304_with_a_length_has_no_body(start_router: StartRouter) -> None:
    async def not_modified(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b'HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: "1"\r\n\r\n')

    async with RawBackend(not_modified) as replica:
        router = await start_router(replica.url)
        for _ in range(2):
            assert (await router.http.get("/")).status_code == 304


async def test_encoded_bodies_pass_unchanged(start_router: StartRouter) -> None:
    async def compressed(head: bytes, reader: Reader, writer: Writer) -> None:
        lines = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: X-Gone\r\nX-Gone: 1\r\n"
        writer.write(lines + b"Content-Length: %d\r\n\r\n" % len(content) + content)

    content = gzip.compress(b"a" * 1000)
    async with RawBackend(compressed) as replica:
        router = await start_router(replica.url)
        async with router.http.stream("GET", "/") as response:
            assert b"".join([chunk async for chunk in response.aiter_raw()]) == content
        assert response.headers["content-encoding"] == "gzip"
        assert "x-gone" not in response.headers


async def test_a_response_that_ends_with_its_connection_arrives_whole(start_router: StartRouter) -> None:
    async def old_fashioned(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"text")
        await writer.drain()
        writer.close()

    async with RawBackend(old_fashioned) as replica:
        router = await start_router(replica.url)
        assert (await router.http.get("/")).text == "text"


async def test_server_sent_events_arrive_as_they_are_sent(router: RunningRouter, backend: Backend) -> None:
    async with router.http.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        for number in range(3):
            backend.events.put_nowait(str(number))
            assert await asyncio.wait_for(anext(lines), SECONDS) == f"data: {number}"
            assert await asyncio.wait_for(anext(lines), SECONDS) == ""
    await asyncio.wait_for(backend.left.wait(), SECONDS)


async def test_a_replica_may_answer_while_the_request_still_arrives(start_router: StartRouter) -> None:
    async def echo(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % much)
        left = much
        while left:
            data = await reader.read(65536)
            left -= len(data)
            writer.write(data)
            await writer.drain()

    much = 20_000_000  # more than all buffers on the way together
    async with RawBackend(echo) as replica:
        router = await start_router(replica.url)
        reader, writer = await asyncio.open_connection(*router.address)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % much + bytes(much))
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert await asyncio.wait_for(reader.readexactly(much), SECONDS) == bytes(much)
        writer.close()


async def test_an_early_answer_ends_the_request(start_router: StartRouter) -> None:
    async def refuse(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await asyncio.Event().wait()

    async with RawBackend(refuse) as replica:
        router = await start_router(replica.url)
        reader, writer = await asyncio.open_connection(*router.address)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nbody")
        answer = await asyncio.wait_for(reader.readuntil(b"big"), SECONDS)
        assert answer.startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_a_replica_that_reads_no_request_is_504(start_router: StartRouter) -> None:
    async def take_nothing(head: bytes, reader: Reader, writer: Writer) -> None:
        await asyncio.Event().wait()

    async with RawBackend(take_nothing) as replica:
        router = await start_router(replica.url, response_timeout_seconds=0.3)
        response = await router.http.post("/", content=bytes(30_000_000))
        assert (response.status_code, response.json()["code"]) == (504, "worker_failed")


async def test_a_surplus_response_does_not_answer_the_next_request(start_router: StartRouter) -> None:
    async def answer_twice(head: bytes, reader: Reader, writer: Writer) -> None:
        path = head.split()[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")

    async with RawBackend(answer_twice) as replica:
        router = await start_router(replica.url)
        for path in ("/a", "/b", "/c"):
            assert (await router.http.get(path)).text == path


async def test_interim_responses_are_skipped(start_router: StartRouter) -> None:
    async def hint(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with RawBackend(hint) as replica:
        router = await start_router(replica.url)
        assert (await router.http.get("/")).text == "ok"


# What breaks off


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_leaves_ends_its_request(router: RunningRouter, backend: Backend, method: str) -> None:
    asking = asyncio.create_task(router.http.request(method, "/wait", content=b"1" if method == "POST" else None))
    await until(lambda: backend.scopes, "the replica has the request")
    asking.cancel()
    await asyncio.wait([asking])
    await asyncio.wait_for(backend.left.wait(), SECONDS)


async def test_a_client_leaving_within_its_body_ends_its_request(router: RunningRouter, backend: Backend) -> None:
    _, writer = await asyncio.open_connection(*router.address)
    writer.write(b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbody")

    async def has_come() -> bool:
        return bool(backend.scopes)

    await until(has_come, "the request has come")
    writer.transport.abort()
    await asyncio.wait_for(backend.left.wait(), SECONDS)

    async def is_over() -> bool:
        return bool((await router.status())["sessions"] == 0)

    await until(is_over, "the request is over")


@pytest.mark.parametrize(
    "framing", [b"Transfer-Encoding: chunked\r\n\r\n4\r\ntext\r\n", b"Content-Length: 9\r\n\r\ntext"]
)
@pytest.mark.parametrize("is_reset", [True, False])
async def test_a_response_that_breaks_off_never_looks_complete(
    start_router: StartRouter, framing: bytes, is_reset: bool
) -> None:
    async def break_off(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing)
        await writer.drain()
        await may_break.wait()
        if is_reset:
            writer.transport.abort()
        writer.close()

    may_break = asyncio.Event()
    async with RawBackend(break_off) as replica:
        router = await start_router(replica.url)
        async with router.http.stream("GET", "/") as response:
            chunks = response.aiter_raw()
            assert await anext(chunks) == b"text"
            may_break.set()
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(chunks)


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", 502), (b"HTTP/1.1 2", 502), (b"gibberish\r\n\r\n", 502), (b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", 502)],
)
async def test_a_replica_that_does_not_speak_http_is_502(start_router: StartRouter, sent: bytes, status: int) -> None:
    async def speak(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()

    async with RawBackend(speak) as replica:
        router = await start_router(replica.url)
        response = await router.http.post("/")
        assert (response.status_code, response.json()["code"]) == (status, "worker_failed")


async def test_a_replica_that_hangs_is_504_or_cut_off(start_router: StartRouter) -> None:
    """Cut off if the response has begun."""

    async def hang(head: bytes, reader: Reader, writer: Writer) -> None:
        if b" /later " in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ntext")
        await asyncio.Event().wait()

    async with RawBackend(hang) as replica:
        router = await start_router(replica.url, response_timeout_seconds=0.2)
        response = await router.http.get("/")
        assert (response.status_code, response.json()["code"]) == (504, "worker_failed")
        with pytest.raises(httpx.RemoteProtocolError):
            await router.http.get("/later")


async def test_without_a_replica_the_answer_is_503(start_router: StartRouter) -> None:
    router = await start_router()
    response = await router.http.get("/")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json() == {
        "type": "error",
        "code": "gpu_unavailable",
        "message": "no healthy replica can take the session; try again soon",
        "retryable": True,
    }


@pytest.mark.parametrize("is_locked_out", [False, True], ids=["away", "locked out"])
async def test_a_refusal_during_an_outage_names_redis(
    own_server: Callable[..., EmbeddedServer], start_router: StartRouter, backend: Backend, is_locked_out: bool
) -> None:
    server = own_server()
    settings = {"redis_url": server.url, "degraded_placement": "off"}
    router = await start_router(backend.url, **settings)
    if is_locked_out:
        with Redis.from_url(server.url) as raw:
            raw.execute_command("ACL", "SETUSER", "default", "-eval", "-evalsha")
    else:
        server.kill()
    response = await router.http.get("/")
    trouble = "refuses this router" if is_locked_out else "is unavailable"
    reason = f"Redis {trouble}, and no slot can be given without it; try again soon"
    assert (response.status_code, response.json()["code"]) == (503, "gpu_unavailable")
    assert response.json()["message"] == reason
    assert "127.0.0.1" not in response.text
    async with connect(router.ws, proxy=None) as client:
        error = json.loads(await client.recv())
        assert (error["code"], error["message"], error["retryable"]) == ("gpu_unavailable", reason, True)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, "gpu_unavailable")


@pytest.mark.timeout(180)
async def test_two_hundred_requests_at_once_are_served(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url, **PATIENT)
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, limits=limits, timeout=60) as client:
        responses = await asyncio.gather(*(client.post("/", content=str(n)) for n in range(200)))
    assert [response.json()["body"] for response in responses] == [str(n) for n in range(200)]
