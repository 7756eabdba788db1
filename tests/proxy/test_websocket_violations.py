"""What breaks the protocol, from either side, and what only looks like it: one session ends, and no other.

The cases of a client alone are in test_websocket_cases.py. Here each case is sent by a client, masked, and by a
replica, unmasked; and the other side sees every byte that may pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.frames import Opcode

from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import SECONDS, router_of_its_own
from tests.proxy.test_tunnel import End, Sessions

pytestmark = pytest.mark.asyncio(loop_scope="module")

MASK = b"\x01\x02\x03\x04"
EURO = "€uro".encode()
TEXT, CONT, BINARY, CLOSE, PING, PONG = 0x81, 0x80, 0x82, 0x88, 0x89, 0x8A
NOT_FINAL = 0x7F


def raw(first: int, payload: bytes = b"", *, is_masked: bool, size: int | None = None) -> bytes:
    """Return a frame with any first byte, and its length in 0, 2 or 8 further bytes; by default in the fewest."""
    length = len(payload)
    if size is None:
        size = 0 if length < 126 else 2 if length < 65536 else 8
    bit = 0x80 if is_masked else 0
    head = bytes((first, bit | {0: length, 2: 126, 8: 127}[size])) + (length.to_bytes(size, "big") if size else b"")
    if not is_masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sessions(server: EmbeddedServer) -> AsyncIterator[Sessions]:
    sessions = Sessions()
    async with sessions.replica as replica, router_of_its_own(server, replica.url) as sessions.router:
        yield sessions


Frame = tuple[int, bytes] | tuple[int, bytes, int]
"""The first byte, the payload, and if it is not the shortest the size of the length."""
GOOD = TEXT, b"before"
PASSING: dict[str, list[Frame]] = {
    "text cut within a character": [(TEXT & NOT_FINAL, EURO[:1]), (CONT & NOT_FINAL, EURO[1:2]), (CONT, EURO[2:])],
    "empty fragments": [(TEXT & NOT_FINAL, b""), (CONT & NOT_FINAL, b""), (CONT, b"")],
    "control frames between fragments": [
        (BINARY & NOT_FINAL, b"a"),
        (PING, b"p" * 125),
        (CONT & NOT_FINAL, b"b"),
        (PONG, b""),
        (CONT, b"c"),
    ],
    "lengths at each border": [(BINARY, bytes(length)) for length in (125, 126, 127, 65535, 65536)],
    # Where such a frame ends is certain; whether it is accepted is left to its receiver.
    "lengths in more bytes than they need": [(BINARY, bytes(125), 2), (TEXT, b"a", 8), (BINARY, bytes(65535), 8)],
}
BROKEN: dict[str, tuple[list[Frame], int]] = {
    "reserved bit 1": ([(TEXT | 0x40, b"a")], 1002),
    "reserved bit 2": ([(TEXT | 0x20, b"a")], 1002),
    "reserved bit 3": ([(PING | 0x10, b"a")], 1002),
    "reserved data opcode": ([(0x83, b"a")], 1002),
    "reserved control opcode": ([(0x8B, b"a")], 1002),
    "control frame of 126": ([(PING, bytes(126))], 1002),
    "fragmented control frame": ([(PONG & NOT_FINAL, b"a")], 1002),
    "continuation of nothing": ([(CONT, b"a")], 1002),
    "message within a message": ([(TEXT & NOT_FINAL, b"a"), (BINARY, b"b")], 1002),
    "close of one byte": ([(CLOSE, b"a")], 1002),
    "close with a reason that is no text": ([(CLOSE, b"\x03\xe8\xce\xba\xe1\xed\xa0\x80")], 1007),
    **{
        f"close with {code}": ([(CLOSE, code.to_bytes(2, "big"))], 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
}
SIDES = pytest.mark.parametrize("is_client", [True, False], ids=["of the client", "of the replica"])


def encoded(frames: list[Frame], *, is_masked: bool) -> bytes:
    return b"".join(
        raw(first, payload, is_masked=is_masked, size=size[0] if size else None) for first, payload, *size in frames
    )


@SIDES
@pytest.mark.parametrize("piece", [1_000_000, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("frames", PASSING.values(), ids=PASSING)
async def test_frames_within_the_protocol_pass_unchanged(
    sessions: Sessions, frames: list[Frame], piece: int, *, is_client: bool
) -> None:
    if piece == 1 and sum(len(payload) for _, payload, *_ in frames) > 10_000:
        piece = 100
    data = encoded(frames, is_masked=is_client)
    async with sessions.session() as (client, replica):
        sender, receiver = (client, replica) if is_client else (replica, client)
        for at in range(0, len(data), piece):
            sender.writer.write(data[at : at + piece])
            await asyncio.sleep(0)
        assert await asyncio.wait_for(receiver.reader.readexactly(len(data)), SECONDS) == data
        await close(client, replica)


@SIDES
@pytest.mark.parametrize(("frames", "code"), BROKEN.values(), ids=BROKEN)
async def test_a_violation_ends_its_session_and_no_other(
    sessions: Sessions, frames: list[Frame], code: int, *, is_client: bool
) -> None:
    await ends(sessions, encoded([GOOD, *frames, GOOD], is_masked=is_client), code, is_client=is_client)


@SIDES
async def test_a_frame_with_the_other_sides_mask_ends_its_session(sessions: Sessions, *, is_client: bool) -> None:
    data = encoded([GOOD], is_masked=is_client) + encoded([GOOD, GOOD], is_masked=not is_client)
    await ends(sessions, data, 1002, is_client=is_client, is_cut_awaited=True)


@SIDES
async def test_a_length_beyond_all_bounds_ends_its_session(sessions: Sessions, *, is_client: bool) -> None:
    head = bytes((BINARY, (0x80 if is_client else 0) | 127)) + b"\xff" * 8 + (MASK if is_client else b"")
    await ends(sessions, encoded([GOOD], is_masked=is_client) + head, 1002, is_client=is_client)


async def ends(sessions: Sessions, data: bytes, code: int, *, is_client: bool, is_cut_awaited: bool = False) -> None:
    """Send what begins well and breaks the protocol then: both sides learn it, and another session goes on."""
    async with sessions.session() as (bystander, its_replica), sessions.session() as (client, replica):
        sender, receiver = (client, replica) if is_client else (replica, client)
        sender.writer.write(data)
        async with asyncio.timeout(SECONDS):
            assert await receiver.frame() == (Opcode.TEXT, b"before")
            while True:  # the first fragment of a message may pass
                opcode, payload = await receiver.frame()
                if opcode is Opcode.CLOSE or (opcode is Opcode.TEXT and payload.startswith(b"{")):
                    break
            if is_client:
                assert payload[:2] == code.to_bytes(2, "big")
                assert (await client.close_frame())[0] == code
            else:
                assert b'"worker_failed"' in payload
                assert (await client.close_frame())[0] == 1011
                assert (await replica.close_frame())[0] == code
            if is_cut_awaited:
                await client.rest()
                await replica.rest()
        bystander.send(Opcode.TEXT, b"still")
        assert await its_replica.frame() == (Opcode.TEXT, b"still")
        its_replica.send(Opcode.TEXT, b"here")
        assert await bystander.frame() == (Opcode.TEXT, b"here")
        await close(bystander, its_replica)


async def close(client: End, replica: End) -> None:
    client.close(1000)
    assert (await replica.close_frame())[0] == 1000
    replica.close(1000)
    assert (await client.close_frame())[0] == 1000
