"""The cases of the Autobahn test suite, as a table: bytes of a client, through the router to an echoing replica.

The numbers are those of the suite's sections. Sections 6 (text that is not valid) and 12 (compression) are missing:
the router does not read messages, and agrees on no compression.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from websockets.frames import Close, Opcode

from tests.proxy.conftest import SECONDS, RunningRouter
from tests.proxy.test_tunnel import End, dial, encoded

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT, BINARY, CONT, PING, PONG = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING, Opcode.PONG


@dataclass(frozen=True)
class Case:
    """What a client sends, and what it receives up to the close frame.

    Attributes:
        sent: The bytes that it sends.
        frames: The frames that it receives before the close frame.
        code: The code of the close frame; `None` if the client is to close the session itself after the frames.
    """

    sent: bytes
    frames: tuple[tuple[Opcode, bytes], ...] = ()
    code: int | None = None


def odd(first: int, data: bytes = b"") -> bytes:
    """Return a frame with any first byte."""
    return bytes((first,)) + encoded(BINARY, data, is_masked=True)[1:]


def sent(opcode: Opcode, data: bytes = b"", *, is_final: bool = True) -> bytes:
    return odd(opcode | (0x80 if is_final else 0), data)


def closed(payload: bytes) -> bytes:
    return sent(Opcode.CLOSE, payload)


def coded(code: int, reason: bytes = b"") -> bytes:
    return closed(code.to_bytes(2, "big") + reason)


HELLO = sent(TEXT, b"Hello, world!")
HELLO_BACK = (TEXT, b"Hello, world!")

CASES: dict[str, Case] = {}
# 1: messages of all sizes
for number, size in enumerate([0, 125, 126, 127, 128, 65535, 65536], 1):
    CASES[f"1.1.{number} text of {size}"] = Case(sent(TEXT, b"*" * size), ((TEXT, b"*" * size),))
    CASES[f"1.2.{number} binary of {size}"] = Case(sent(BINARY, b"\xfe" * size), ((BINARY, b"\xfe" * size),))
# 2: pings and pongs
for name, data in {"2.1": b"", "2.2": b"Hello", "2.3": b"\x00\xff\xfe\xfd", "2.4": b"\xfe" * 125}.items():
    CASES[f"{name} ping"] = Case(sent(PING, data), ((PONG, data),))
CASES["2.5 ping of 126"] = Case(sent(PING, b"\xfe" * 126), code=1002)
CASES["2.7 unasked pong"] = Case(sent(PONG) + HELLO, (HELLO_BACK,))
CASES["2.8 unasked pong with data"] = Case(sent(PONG, b"unasked") + HELLO, (HELLO_BACK,))
CASES["2.9 pong, then ping"] = Case(sent(PONG, b"unasked") + sent(PING, b"ping"), ((PONG, b"ping"),))
CASES["2.10 ten pings"] = Case(
    b"".join(sent(PING, b"%d" % at) for at in range(10)), tuple((PONG, b"%d" % at) for at in range(10))
)
# 3: reserved bits
for number, bits in enumerate([0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70], 1):
    CASES[f"3.{number} text with bits {bits:#x}"] = Case(odd(0x81 | bits, b"a"), code=1002)
    CASES[f"3.{number} ping with bits {bits:#x}"] = Case(odd(0x89 | bits), code=1002)
    CASES[f"3.{number} after a message, bits {bits:#x}"] = Case(HELLO + odd(0x82 | bits) + sent(PING), code=1002)
# 4: reserved opcodes
for opcode in (*range(3, 8), *range(0xB, 0x10)):
    CASES[f"4 opcode {opcode:#x}"] = Case(odd(0x80 | opcode), code=1002)
    CASES[f"4 opcode {opcode:#x} with data"] = Case(odd(0x80 | opcode, b"data"), code=1002)
    CASES[f"4 opcode {opcode:#x} after a message"] = Case(HELLO + odd(0x80 | opcode) + sent(PING), code=1002)
# 5: fragments
PARTS = sent(TEXT, b"fragment1", is_final=False), sent(CONT, b"fragment2")
WHOLE = (TEXT, b"fragment1fragment2")
CASES["5.1 fragmented ping"] = Case(sent(PING, b"a", is_final=False) + sent(CONT, b"b"), code=1002)
CASES["5.2 fragmented pong"] = Case(sent(PONG, b"a", is_final=False) + sent(CONT, b"b"), code=1002)
CASES["5.3 two fragments"] = Case(PARTS[0] + PARTS[1], (WHOLE,))
CASES["5.6 ping between fragments"] = Case(PARTS[0] + sent(PING, b"p") + PARTS[1], ((PONG, b"p"), WHOLE))
CASES["5.9 continuation of nothing"] = Case(sent(CONT, b"none") + HELLO, code=1002)
CASES["5.12 continuation of nothing, not final"] = Case(sent(CONT, b"none", is_final=False) + HELLO, code=1002)
CASES["5.15 continuation after a message"] = Case(
    PARTS[0] + PARTS[1] + sent(CONT, b"more", is_final=False) + HELLO, code=1002
)
CASES["5.18 text within text"] = Case(PARTS[0] + HELLO, code=1002)
CASES["5.19 five fragments and pings"] = Case(
    sent(TEXT, b"1", is_final=False)
    + b"".join(sent(PING, b"p%d" % at) + sent(CONT, b"%d" % at, is_final=at == 5) for at in range(2, 6)),
    (*((PONG, b"p%d" % at) for at in range(2, 6)), (TEXT, b"12345")),
)
# 7: closing
CASES["7.1.1 close after a message"] = Case(HELLO + coded(1000), code=1000)
CASES["7.1.2 two closes"] = Case(coded(1000) + coded(1000), code=1000)
CASES["7.1.3 ping after close"] = Case(coded(1000) + sent(PING), code=1000)
CASES["7.1.4 text after close"] = Case(coded(1000) + HELLO, code=1000)
CASES["7.1.5 close within a message"] = Case(PARTS[0] + coded(1000) + PARTS[1], code=1002)  # the replica's answer
CASES["7.3.1 no payload"] = Case(closed(b""), code=1000)
CASES["7.3.2 one byte"] = Case(closed(b"a"), code=1002)
CASES["7.3.3 a code"] = Case(coded(1000), code=1000)
CASES["7.3.4 a reason"] = Case(coded(1000, b"Hello World!"), code=1000)
CASES["7.3.5 the longest reason"] = Case(coded(1000, b"*" * 123), code=1000)
CASES["7.3.6 a longer reason"] = Case(coded(1000, b"*" * 124), code=1002)
CASES["7.5.1 a reason that is no text"] = Case(coded(1000, b"\xce\xba\xe1\xed\xa0\x80"), code=1007)
for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
    CASES[f"7.7 code {code}"] = Case(coded(code), code=code)
for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
    CASES[f"7.9 code {code}"] = Case(coded(code), code=1002)
# 9: large messages
for size in (64 * 1024, 1024 * 1024, 16 * 1024 * 1024):
    CASES[f"9.1 text of {size}"] = Case(sent(TEXT, b"*" * size), ((TEXT, b"*" * size),))
CASES["9.3 a thousand fragments"] = Case(
    b"".join(sent(CONT if at else TEXT, b"*" * 1000, is_final=at == 999) for at in range(1000)),
    ((TEXT, b"*" * 1_000_000),),
)
CASES["9.7 a thousand messages"] = Case(HELLO * 1000, (HELLO_BACK,) * 1000)


@pytest.mark.parametrize("piece", [None, 997], ids=["at once", "in pieces"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_client_is_answered_as_the_suite_wants(router: RunningRouter, case: Case, piece: int | None) -> None:
    if piece is None:
        pieces = [case.sent]
    else:
        size = max(1, min(len(case.sent) // 20, piece))
        pieces = [case.sent[at : at + size] for at in range(0, len(case.sent), size)]
    client = await dial(router)
    try:
        async with asyncio.timeout(SECONDS):
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            sending = asyncio.create_task(send_all(client, pieces))
            received = [await client.frame() for _ in case.frames]
            await sending
            assert received == list(case.frames)
            if case.code is None:
                client.close(1000)
            while (last := await client.frame())[0] is not Opcode.CLOSE:  # answers to what came before the end
                assert case.code is not None
            assert Close.parse(last[1]).code == (case.code or 1000)
    finally:
        client.writer.transport.abort()


async def send_all(client: End, pieces: list[bytes]) -> None:
    for piece in pieces:
        client.writer.write(piece)
        await client.writer.drain()
