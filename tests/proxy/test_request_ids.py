"""Each request has one id: the client's own if it is well-formed, and the same one everywhere."""

from __future__ import annotations

import asyncio
import re

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from shared_registry.proxy.request_ids import MOST_CHARACTERS, RequestIds
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend, RawBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

MADE = re.compile(r"[0-9a-f]{12}-[0-9a-f]+")
NAME = b"x-request-id"


@pytest.mark.parametrize(
    "given", [b"a", b"01J9Z.~A_b-c", b"urn:uuid:4d3f", b"Root=1-67/891+233@x", b"x" * MOST_CHARACTERS]
)
async def test_a_well_formed_id_is_kept(given: bytes) -> None:
    assert RequestIds().of([(b"host", b"a"), (NAME, given)]) == given


@pytest.mark.parametrize(
    "given", [b"", b"a b", b"a\tb", b'a"b', b"a\\b", b"a,b", b"a;b", b"<b>", b"\xc3\xbc", b"x" * (MOST_CHARACTERS + 1)]
)
async def test_any_other_id_is_replaced(given: bytes) -> None:
    assert MADE.fullmatch(RequestIds().of([(NAME, given)]).decode())


@pytest.mark.parametrize("second", [b"a", b"b", b""])
async def test_of_two_ids_neither_is_kept(second: bytes) -> None:
    assert MADE.fullmatch(RequestIds().of([(NAME, b"a"), (NAME, second)]).decode())


async def test_no_id_is_made_twice() -> None:
    first, second = RequestIds(), RequestIds()
    assert len({ids.new() for ids in (first, second) for _ in range(1000)}) == 2000


async def answer_to(router: RunningRouter, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*router.address)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), SECONDS)
    finally:
        writer.close()


def ids_in(head: bytes) -> list[str]:
    return [line.partition(b": ")[2].decode() for line in head.split(b"\r\n") if line.lower().startswith(NAME + b":")]


@pytest.mark.parametrize("given", [[], ["mine-1"], ["not mine"], ["one", "two"]])
async def test_replica_and_client_get_the_same_single_id(router: RunningRouter, given: list[str]) -> None:
    response = await router.http.get("/", headers=[("X-Request-Id", one) for one in given])
    seen = [value for name, value in response.json()["headers"] if name == NAME.decode()]
    assert seen == response.headers.get_list("x-request-id")
    assert len(seen) == 1
    assert seen == given if given == ["mine-1"] else MADE.fullmatch(seen[0])


@pytest.mark.parametrize("name", ["x_request_id", "X-Request_Id", "X_Request-ID"])
async def test_a_replica_never_sees_a_look_alike(router: RunningRouter, name: str) -> None:
    response = await router.http.get("/", headers={name: "forged"})
    seen = [pair for pair in response.json()["headers"] if pair[0].replace("_", "-") == NAME.decode()]
    assert seen == [[NAME.decode(), response.headers["x-request-id"]]]


async def test_naming_the_id_in_connection_does_not_remove_it(router: RunningRouter) -> None:
    response = await router.http.get("/", headers={"Connection": "X-Request-Id", "X-Request-Id": "mine"})
    assert [NAME.decode(), "mine"] in response.json()["headers"]
    assert response.headers.get_list("x-request-id") == ["mine"]


async def test_an_id_of_the_replica_is_replaced(router: RunningRouter) -> None:
    wanted = '[["x-request-id", "theirs"], ["x-other", "1"]]'
    response = await router.http.get(
        "/answer", params={"status": "200", "headers": wanted}, headers={"X-Request-Id": "mine"}
    )
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert response.headers["x-other"] == "1"


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/status", "/sleep"])
async def test_own_answers_have_the_id(start_router: StartRouter, path: str) -> None:
    router = await start_router(routes="[]")
    response = await router.http.post(path, headers={"X-Request-Id": "mine"})
    assert response.headers.get_list("x-request-id") == ["mine"]


@pytest.mark.parametrize(
    "request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"]
)
async def test_an_unreadable_request_is_answered_with_a_new_id(router: RunningRouter, request_: bytes) -> None:
    [found] = ids_in(await answer_to(router, request_))
    assert MADE.fullmatch(found)


async def test_a_websocket_handshake_is_answered_with_the_id(router: RunningRouter, backend: Backend) -> None:
    mine = {"X-Request-Id": "mine"}
    async with connect(f"{router.ws}/v1/stream", proxy=None, additional_headers=mine) as client:
        assert client.response is not None
        assert client.response.headers.get_all("x-request-id") == ["mine"]
    [scope] = backend.scopes
    assert [value for name, value in scope["headers"] if name == NAME] == [b"mine"]
    for target in ("/v1/stream?reject=403", "/healthz"):
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{router.ws}{target}", proxy=None, additional_headers=mine)
        assert caught.value.response.headers.get_all("x-request-id") == ["mine"]


async def test_a_client_that_waits_is_accepted_with_the_id(start_router: StartRouter) -> None:
    router = await start_router(is_awaited=False, queue_timeout_seconds=0.5)
    mine = {"X-Request-Id": "mine"}
    async with connect(f"{router.ws}/v1/stream", proxy=None, additional_headers=mine) as client:
        assert client.response is not None
        assert client.response.headers.get_all("x-request-id") == ["mine"]


async def test_warnings_about_a_request_name_it(start_router: StartRouter, caplog: pytest.LogCaptureFixture) -> None:
    async def hang_up(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"Upgrade" in head:
            writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with RawBackend(hang_up) as replica:
        router = await start_router(replica.url)
        assert (await router.http.get("/x", headers={"X-Request-Id": "mine-1"})).status_code == 502
        mine = {"X-Request-Id": "mine-2"}
        async with connect(f"{router.ws}/v1/stream", proxy=None, additional_headers=mine) as client:
            await client.wait_closed()
    for name in ("mine-1", "mine-2"):
        assert any(f"(request {name})" in one.getMessage() for one in caplog.records if one.levelname == "WARNING")
