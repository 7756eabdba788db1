"""The frames of a WebSocket in a stream of bytes: found however the stream is cut, refused if they are malformed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import pytest
from websockets.frames import Close as OtherClose
from websockets.frames import CloseCode, Frame, Opcode
from websockets.streams import StreamReader

from shared_registry.proxy import frames
from shared_registry.proxy.closing import Close
from shared_registry.proxy.frames import FrameError, FrameFollower, read_head

LENGTHS = [0, 1, 124, 125, 126, 127, 65535, 65536]
LONGEST_HELD_HEAD = 13
"""One byte less than the longest head: 2 bytes, a length of 8, and a mask of 4."""
ANY_LENGTH = 2**62
DATA, CONTROL = [Opcode.TEXT, Opcode.BINARY], [Opcode.PING, Opcode.PONG]
CLOSE_CODES = [CloseCode.NORMAL_CLOSURE, CloseCode.SERVICE_RESTART, 3000, 4999]
Cuts = Callable[[int], list[int]]


def encoded(opcode: int, payload: bytes, *, is_masked: bool, is_final: bool = True) -> bytes:
    """Return a frame as another implementation writes it."""
    return Frame(Opcode(opcode), payload, is_final).serialize(mask=is_masked)


def random_frames(rng: random.Random, *, is_masked: bool) -> list[bytes]:
    """Return the frames of some messages, whole and in fragments, with control frames between them."""
    found: list[bytes] = []
    for _ in range(rng.randint(1, 6)):
        fragments = rng.choice([1, 1, 2, 5])
        for at in range(fragments):
            opcode = rng.choice(DATA) if at == 0 else Opcode.CONT
            payload = rng.randbytes(rng.choice(LENGTHS))
            found.append(encoded(opcode, payload, is_masked=is_masked, is_final=at == fragments - 1))
            if rng.random() < 0.3:
                control = rng.randbytes(rng.choice([0, 1, 125]))
                found.append(encoded(rng.choice(CONTROL), control, is_masked=is_masked))
    return found


def pieces_of(stream: bytes, rng: random.Random, longest: int) -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        size = rng.randint(1, longest)
        yield stream[at : at + size]
        at += size


def borders_of(parts: Iterable[bytes]) -> set[int]:
    at, found = 0, {0}
    for part in parts:
        at += len(part)
        found.add(at)
    return found


def follow_all(follower: FrameFollower, pieces: Iterable[bytes], borders: set[int]) -> bytes:
    """Follow pieces, check after each one what is held back and what is left, and return what was passed on."""
    passed = bytearray()
    received = 0
    for piece in pieces:
        received += len(piece)
        passed += follower.follow(piece)
        assert 0 <= received - len(passed) <= LONGEST_HELD_HEAD
        assert (follower.left == 0) is (len(passed) in borders)
        if follower.left:
            assert received == len(passed)
            assert len(passed) + follower.left in borders
    return bytes(passed)


@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("longest", [1, 7, 200, 70_000, 10**7])
def test_a_stream_is_passed_on_however_it_is_cut(longest: int, *, is_masked: bool) -> None:
    rng = random.Random(longest)
    for _ in range(2 if longest == 1 else 20):
        parts = random_frames(rng, is_masked=is_masked)
        stream = b"".join(parts)
        follower = FrameFollower(is_masked=is_masked, longest=ANY_LENGTH)
        assert follow_all(follower, pieces_of(stream, rng, longest), borders_of(parts)) == stream
        assert (follower.left, follower.close) == (0, None)


@pytest.mark.parametrize("is_masked", [True, False])
def test_every_length_is_followed_at_every_cut(*, is_masked: bool) -> None:
    for length in LENGTHS:
        one = encoded(Opcode.BINARY, bytes(length), is_masked=is_masked)
        parts = [one, encoded(Opcode.PING, b"p", is_masked=is_masked), one]
        stream, borders = b"".join(parts), borders_of(parts)
        near = sorted({at + by for at in borders for by in range(-2, 16) if 0 < at + by < len(stream)})
        for cut in near:
            follower = FrameFollower(is_masked=is_masked, longest=ANY_LENGTH)
            assert follow_all(follower, [stream[:cut], stream[cut:]], borders) == stream


@pytest.mark.parametrize("is_masked", [True, False])
def test_a_close_frame_is_held_until_it_is_whole(*, is_masked: bool) -> None:
    reason = "because of ü" + "a" * 100
    before = encoded(Opcode.TEXT, b"before", is_masked=is_masked)
    last = encoded(Opcode.CLOSE, OtherClose(1012, reason).serialize(), is_masked=is_masked)
    for cut in range(len(before), len(before) + len(last)):
        stream = before + last
        follower = FrameFollower(is_masked=is_masked, longest=ANY_LENGTH)
        assert follower.follow(stream[:cut]) == before
        assert (follower.close, follower.is_closed, follower.left) == (None, False, 0)
        assert follower.follow(stream[cut:] + before) == b""
        assert (follower.close, follower.left) == (Close(1012, reason), 0)


@pytest.mark.parametrize("is_masked", [True, False])
def test_a_close_frame_byte_by_byte_is_read_once(*, is_masked: bool) -> None:
    follower = FrameFollower(is_masked=is_masked, longest=ANY_LENGTH)
    last = encoded(Opcode.CLOSE, OtherClose(3000, "x" * 123).serialize(), is_masked=is_masked)
    for at in range(len(last)):
        assert follower.close is None
        assert follower.follow(last[at : at + 1]) == b""
    assert follower.close == Close(3000, "x" * 123)


def test_a_close_frame_may_have_no_code() -> None:
    follower = FrameFollower(is_masked=False, longest=ANY_LENGTH)
    assert follower.follow(b"\x88\x00") == b""
    assert follower.close == Close(1005)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
@pytest.mark.parametrize("is_masked", [True, False])
def test_a_close_frame_with_a_code_not_allowed_is_refused(code: int, *, is_masked: bool) -> None:
    last = encoded(Opcode.CLOSE, code.to_bytes(2, "big") + b"why", is_masked=is_masked)
    assert refused(b"", last, is_masked=is_masked) == 1002


@pytest.mark.parametrize(
    ("payload", "code"), [(b"\x03", 1002), (b"\x03\xe8\xff\xfe", 1007), (b"\x03\xe8ok \xce\xba\xe1", 1007)]
)
@pytest.mark.parametrize("is_masked", [True, False])
def test_a_malformed_close_payload_is_refused(payload: bytes, code: int, *, is_masked: bool) -> None:
    assert refused(b"", encoded(Opcode.CLOSE, payload, is_masked=is_masked), is_masked=is_masked) == code


def refused(before: bytes, bad: bytes, *, is_masked: bool, longest: int = ANY_LENGTH) -> int:
    """Return the code with which the second part is refused, at every cut; check that the first part is passed on."""
    codes = set()
    for cut in range(len(before) + len(bad)):
        follower = FrameFollower(is_masked=is_masked, longest=longest)
        stream = before + bad
        passed = bytearray()
        with pytest.raises(FrameError) as caught:  # noqa: PT012  any of the pieces
            for piece in (stream[:cut], stream[cut:]):
                passed += follower.follow(piece)
        assert passed + caught.value.before == before
        assert bad.startswith(caught.value.rest)
        assert caught.value.rest
        assert (follower.left, follower.close) == (0, None)
        codes.add(caught.value.code)
    [code] = codes
    return code


def malformed_heads() -> dict[str, bytes]:
    found = {f"reserved bits {bits:#x}": bytes((0x82 | bits, 0)) for bits in (0x10, 0x20, 0x40, 0x70)}
    found |= {f"opcode {code:#x}": bytes((0x80 | code, 0)) for code in (*range(3, 8), *range(0xB, 0x10))}
    found |= {f"long control frame {code:#x}": bytes((0x80 | code, 126, 0, 126)) for code in (8, 9, 0xA)}
    found |= {f"fragmented control frame {code:#x}": bytes((code, 0)) for code in (8, 9, 0xA)}
    found["continuation without a start"] = b"\x80\x00"
    found["continuation that goes on without a start"] = b"\x00\x00"
    found["a length with the highest bit"] = b"\x82\x7f\x80" + bytes(7)
    found["the greatest length"] = b"\x82\x7f" + b"\xff" * 8
    return found


@pytest.mark.parametrize("head", malformed_heads().values(), ids=malformed_heads())
@pytest.mark.parametrize("is_masked", [True, False])
def test_a_malformed_head_is_refused(head: bytes, *, is_masked: bool) -> None:
    if is_masked:
        head = head[:1] + bytes((head[1] | 0x80,)) + head[2:] + b"mask"
    before = encoded(Opcode.TEXT, b"before", is_masked=is_masked)
    assert refused(before, head, is_masked=is_masked) == 1002


@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.PING, Opcode.CLOSE])
def test_a_frame_with_the_other_sides_mask_is_refused(opcode: Opcode, *, is_masked: bool) -> None:
    assert refused(b"", encoded(opcode, b"", is_masked=not is_masked), is_masked=is_masked) == 1002


@pytest.mark.parametrize("is_masked", [True, False])
def test_a_message_within_another_is_refused(*, is_masked: bool) -> None:
    start = encoded(Opcode.TEXT, b"a", is_masked=is_masked, is_final=False)
    ping = encoded(Opcode.PING, b"", is_masked=is_masked)
    again = encoded(Opcode.BINARY, b"b", is_masked=is_masked)
    assert refused(start + ping, again, is_masked=is_masked) == 1002


@pytest.mark.parametrize("is_masked", [True, False])
def test_a_message_is_limited_over_all_its_fragments(*, is_masked: bool) -> None:
    start = encoded(Opcode.TEXT, bytes(60), is_masked=is_masked, is_final=False)
    middle = encoded(Opcode.CONT, bytes(40), is_masked=is_masked, is_final=False)
    ping = encoded(Opcode.PING, bytes(100), is_masked=is_masked)
    one_more = encoded(Opcode.CONT, b"1", is_masked=is_masked)
    assert refused(start + ping + middle, one_more, is_masked=is_masked, longest=100) == 1009
    follower = FrameFollower(is_masked=is_masked, longest=100)
    whole = start + middle + encoded(Opcode.CONT, b"", is_masked=is_masked)
    assert follower.follow(whole * 3) == whole * 3


@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("is_final", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_dropped_large_message_is_followed_to_its_end(*, is_masked: bool, is_final: bool, is_first: bool) -> None:
    start = b"" if is_first else encoded(Opcode.TEXT, b"1", is_masked=is_masked, is_final=False)
    large = encoded(Opcode.TEXT if is_first else Opcode.CONT, bytes(1000), is_masked=is_masked, is_final=is_final)
    end = b"" if is_final else encoded(Opcode.CONT, bytes(1000), is_masked=is_masked)
    last = encoded(Opcode.CLOSE, OtherClose(1000, "").serialize(), is_masked=is_masked)
    follower = FrameFollower(is_masked=is_masked, longest=10)
    with pytest.raises(FrameError) as caught:
        follower.follow(start + large[:20])
    assert caught.value.code == 1009
    follower.allow_any_length()
    for piece in (caught.value.rest, large[20:], end, last):
        follower.follow(piece)
    assert follower.close == Close(1000)


# What the router writes itself


def read_by_other(data: bytes, *, is_masked: bool) -> Frame:
    """Return the frame that another implementation reads."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    parsing = Frame.parse(reader.read_exact, mask=is_masked)
    with pytest.raises(StopIteration) as stopped:  # at the first step, because all is there
        next(parsing)
    assert reader.buffer == b""
    found: Frame = stopped.value.value
    return found


@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
def test_others_read_the_routers_frames(length: int, *, is_masked: bool) -> None:
    payload = random.Random(length).randbytes(length)
    for opcode in [*DATA, *(CONTROL if length <= 125 else [])]:
        data = frames.frame(opcode, payload, is_masked=is_masked)
        read = read_by_other(data, is_masked=is_masked)
        assert (read.opcode, read.data, read.fin) == (opcode, payload, True)
        head = read_head(data, 0, is_masked=is_masked)
        assert head is not None
        assert head.size + head.length == len(data)
        assert frames.unmasked(data[head.size :], head.mask) == payload


@pytest.mark.parametrize("is_masked", [True, False])
def test_others_read_the_routers_close_frames(*, is_masked: bool) -> None:
    for code in CLOSE_CODES:
        for reason in ("", "why", "ü" * 61):
            data = frames.close_frame(Close(code, reason), is_masked=is_masked)
            read = read_by_other(data, is_masked=is_masked)
            assert OtherClose.parse(read.data) == OtherClose(code, reason)
    read = read_by_other(frames.close_frame(Close(None), is_masked=is_masked), is_masked=is_masked)
    assert (read.opcode, read.data) == (Opcode.CLOSE, b"")


def test_no_mask_is_used_twice() -> None:
    written = [frames.frame(Opcode.TEXT, b"a" * 20, is_masked=True) for _ in range(5)]
    assert all(one != other for one, other in pairwise(written))
