"""Thousands of requests, put together at random, whose bodies are requests: no replica ever sees one of those.

Each has one framing that RFC 9112 6 defines, spelled in many ways, and headers that parsers are known to stumble over.
It is sent in a few pieces, and gets exactly one final response: the replica's or a refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from dataclasses import dataclass

import pytest

from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import SECONDS, router_of_its_own
from tests.support.backend import RawBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: inner\r\n\r\n"
METHODS = b"POST PUT PATCH DELETE GET OPTIONS HEAD TRACE PROPFIND SEARCH QUERY CONNECT PRI M-SEARCH".split()
TARGETS = b"/a /a?x=1 http://x/a //a /a%2f * x:80 /a#f /%73muggle https://x/a".split()
LENGTHS = [
    b"Content-Length: %d",
    b"Content-Length:%d",
    b"Content-Length: %d ",
    b"content-length:\t%d",
    b"CONTENT-LENGTH: 0%d",
]
CODINGS = [b"Transfer-Encoding: chunked", b"transfer-encoding: Chunked", b"Transfer-Encoding:chunked ", b"TE\x00: x"]
CODINGS += [b"Transfer-Encoding: chunked,", b"Transfer-Encoding: ,chunked", b"Transfer-Encoding: chunked, chunked"]
SIZES = [b"%x", b"%X", b"0%x", b"%x;ext=1", b'%x;ext="a b"', b"%x ", b"%x;"]
ENDS = [b"0\r\n\r\n", b"0\r\nX-T: 1\r\n\r\n", b"000\r\n\r\n", b"0;a=b\r\n\r\n", b"0\r\nContent-Length: 3\r\n\r\n"]
NOISE = b"""Connection: Upgrade
Connection: close
Connection: keep-alive
Connection: Upgrade, HTTP2-Settings
Connection: content-length
Connection: transfer-encoding
Connection: host, x
Connection: ,,upgrade,
Upgrade: h2c
Upgrade: websocket
Upgrade: websocket, h2c
Upgrade: WebSocket/13
Upgrade:
Upgrade: TLS/1.2
HTTP2-Settings: AAMAAABk
Expect: 100-continue
Expect: bogus
TE: trailers
Trailer: x
Keep-Alive: timeout=5
Proxy-Connection: keep-alive
Content-Encoding: gzip
Max-Forwards: 0
Content_Length: 3
Transfer_Encoding: chunked
X-HTTP-Method-Override: DELETE
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Version: 13""".split(b"\n")
REQUESTS, AT_ONCE = 1200, 8
AGAIN, TIMES = 200, 3
"""How many are sent again in one piece, and how often: then some of their heads are known."""


@dataclass(frozen=True)
class Sent:
    """A request, and where it is cut when it is sent."""

    data: bytes
    cuts: tuple[int, ...]


def mutated(chance: random.Random) -> Sent:
    body = chance.choice([b"", b"x", b"\r\n"]) + SMUGGLED + chance.choice([b"", SMUGGLED, b"x"])
    if chance.random() < 0.5:
        framing = chance.choice(LENGTHS) % len(body)
    else:
        framing, body = chance.choice(CODINGS), in_chunks(chance, body)
    fields = [
        b"Host: x",
        framing,
        *(in_any_case(chance, field) for field in chance.sample(NOISE, chance.randint(0, 5))),
    ]
    chance.shuffle(fields)
    if chance.random() < 0.05:
        fields.insert(chance.randrange(len(fields)), b" folded: x")
    version = chance.choice([*[b"HTTP/1.1"] * 6, b"HTTP/1.0"])
    line = b" ".join((chance.choice(METHODS), chance.choice(TARGETS), version))
    data = b"\r\n".join((line, *fields, b"", body))
    return Sent(data, tuple(sorted(chance.sample(range(1, len(data)), chance.choice([0, 0, 1, 2])))))


def in_chunks(chance: random.Random, body: bytes) -> bytes:
    pieces = []
    while body:
        piece = body[: chance.randint(1, len(body))]
        body = body[len(piece) :]
        pieces.append(chance.choice(SIZES) % len(piece) + b"\r\n" + piece + b"\r\n")
    return b"".join([*pieces, chance.choice(ENDS)])


def in_any_case(chance: random.Random, field: bytes) -> bytes:
    return bytes(byte ^ 32 if chr(byte).isalpha() and chance.random() < 0.1 else byte for byte in field)


def framing_of(head: bytes) -> tuple[list[bytes], list[bytes]]:
    lengths = re.findall(rb"(?im)^content-length: *(.*?) *\r$", head)
    return lengths, re.findall(rb"(?im)^transfer-encoding: *(.*?) *\r$", head)


async def answer_strictly(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the body by its only framing, and answer."""
    lengths, codings = framing_of(head)
    if codings:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    elif lengths:
        await reader.readexactly(int(lengths[0]))
    body = b"" if head.startswith(b"HEAD ") else b"ok"
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)


async def received(address: tuple[str, int], sent: Sent) -> bytes:
    """Return what the router answers until it closes, or is idle with a response sent."""
    reader, writer = await asyncio.open_connection(*address)
    answer = b""
    try:
        for start, end in zip((0, *sent.cuts), (*sent.cuts, len(sent.data)), strict=True):
            writer.write(sent.data[start:end])
            await asyncio.sleep(0.002)
        while piece := await asyncio.wait_for(reader.read(65536), SECONDS if not final(answer) else 0.1):
            answer += piece
    except TimeoutError:
        pass  # the connection is kept
    except ConnectionError as error:
        return answer or repr(error).encode()
    finally:
        writer.close()
    return answer


def final(answer: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 ([2-5]\d\d) ", answer)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_no_body_becomes_a_request(server: EmbeddedServer, seed: int) -> None:
    chance = random.Random(seed)
    requests = [mutated(chance) for _ in range(REQUESTS)]
    requests += [Sent(sent.data, ()) for _ in range(TIMES) for sent in requests[:AGAIN]]
    room = asyncio.Semaphore(AT_ONCE)
    async with RawBackend(answer_strictly) as replica, router_of_its_own(server, replica.url) as router:

        async def answer_to(sent: Sent) -> bytes:
            async with room:
                return await received(router.address, sent)

        answers = await asyncio.gather(*(answer_to(sent) for sent in requests))
    wrong = [(sent, answer) for sent, answer in zip(requests, answers, strict=True) if len(final(answer)) != 1]
    assert not wrong, f"{len(wrong)}: {wrong[0]}"
    for head in replica.heads:
        lengths, codings = framing_of(head)
        assert b"/smuggled" not in head
        assert (len(lengths) == 1 and lengths[0].isdigit() and not codings) or (not lengths and codings == [b"chunked"])
    statuses = Counter(status for answer in answers for status in final(answer))
    assert min(statuses[b"200"], statuses[b"400"]) > REQUESTS / 10, statuses


async def test_a_refusal_reaches_a_client_still_sending(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection closed while bytes wait to be read is reset, and the refusal could be lost on the way."""
    monkeypatch.setattr("shared_registry.proxy.client.LINGER_SECONDS", SECONDS)
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with RawBackend(answer_strictly) as replica, router_of_its_own(server, replica.url) as router:
        reader, writer = await asyncio.open_connection(*router.address)
        try:
            writer.write(request)
            for _ in range(200):
                writer.write(bytes(10_000))
                await writer.drain()
            answer = await asyncio.wait_for(reader.read(), SECONDS)
        finally:
            with contextlib.suppress(ConnectionError):
                writer.close()
                await writer.wait_closed()
    assert final(answer) == [b"400"], answer
