"""Which responses of replicas are refused, and where the others end, however their bytes are split."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared_registry.http1.fields import Headers
from shared_registry.http1.response import LONGEST_HEAD, ReplicaBroke, ResponseReader


class Kept:
    """Takes a response."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: Headers = ()
        self.body = b""

    def begin(self, status: int, fields: Headers) -> None:
        self.status, self.fields = status, fields

    def send(self, data: bytes) -> None:
        self.body += data

    def flush(self) -> None: ...

    def end(self) -> None: ...


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Yield the data whole, until its head may be known, in two pieces at every place, and byte by byte."""
    yield from ([data] for _ in range(3))
    yield from ([data[:at], data[at:]] for at in range(1, len(data)))
    yield [data[at : at + 1] for at in range(len(data))]


def read(
    pieces: list[bytes], *, is_head_request: bool = False, is_upgrade: bool = False
) -> tuple[Kept, ResponseReader, bytes | None]:
    reader, kept, rest = ResponseReader(), Kept(), None
    reader.begin(kept, is_head_request=is_head_request, is_upgrade=is_upgrade)
    for piece in pieces:
        if rest is not None:
            rest += piece
        elif reader.is_complete:  # as a connection does: nothing was requested
            reader.may_carry_more = False
            break
        else:
            rest = reader.feed(piece)
    return kept, reader, rest


OK = b"HTTP/1.1 200 OK\r\n"
LENGTH, CHUNKED = b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"
END_OF_CHUNKS = b"\r\n2\r\nok\r\n0\r\n\r\n"
STATUS_LINE = "illegal status line"
REFUSED = {
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", STATUS_LINE),
    "RTSP": (b"RTSP/1.0 200 OK\r\n" + LENGTH + b"\r\nok", STATUS_LINE),
    "ICE": (b"ICE/1.0 200 OK\r\n" + LENGTH + b"\r\nok", STATUS_LINE),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x50", STATUS_LINE),
    "an empty line before it": (b"\r\n" + OK + LENGTH + b"\r\nok", STATUS_LINE),
    "HTTP/0.9": (b"HTTP/0.9 200 OK\r\n" + LENGTH + b"\r\nok", STATUS_LINE),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\n" + LENGTH + b"\r\nok", STATUS_LINE),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", STATUS_LINE),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", STATUS_LINE),
    "a status below 100": (b"HTTP/1.1 099 OK\r\n" + LENGTH + b"\r\nok", STATUS_LINE),
    "no colon": (OK + b"no colon\r\n\r\n", "illegal header line: "),
    "a blank before the colon": (OK + b"Content-Length : 2\r\n\r\nok", "illegal header line: "),
    "a folded header": (OK + b"X: a\r\n b\r\n" + LENGTH + b"\r\nok", "illegal header line: "),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "illegal "),
    "a zero byte": (OK + b"X: a\x00b\r\n" + LENGTH + b"\r\nok", "illegal header line: "),
    "a control character": (OK + b"X: a\x01b\r\n" + LENGTH + b"\r\nok", ""),
    "DEL": (OK + b"X: a\x7fb\r\n" + LENGTH + b"\r\nok", ""),
    "two lengths": (OK + LENGTH + b"Content-Length: 3\r\n\r\nok", "illegal header line: "),
    "the same length twice": (OK + LENGTH + LENGTH + b"\r\nok", "illegal header line: "),
    "a length with a sign": (OK + b"Content-Length: +2\r\n\r\nok", "illegal header line: "),
    "a list of lengths": (OK + b"Content-Length: 2, 2\r\n\r\nok", "illegal header line: "),
    "a length and chunks": (OK + LENGTH + CHUNKED + END_OF_CHUNKS, "illegal header line: "),
    "chunks and a length": (OK + CHUNKED + LENGTH + END_OF_CHUNKS, "illegal header line: "),
    "another encoding": (OK + b"Transfer-Encoding: gzip\r\n\r\nok", "the transfer encoding of its response"),
    "an encoding before chunks": (
        OK + b"Transfer-Encoding: gzip, chunked\r\n" + END_OF_CHUNKS,
        "the transfer encoding",
    ),
    "a chunk without a size": (OK + CHUNKED + b"\r\nhello\r\n", "illegal chunk: "),
    "a chunk with a sign": (OK + CHUNKED + b"\r\n+2\r\nok\r\n0\r\n\r\n", "illegal chunk: "),
    "a chunk that is too long": (OK + CHUNKED + b"\r\n2\r\nokk\r\n0\r\n\r\n", "illegal chunk: "),
    "a switch nobody asked for": (
        b"HTTP/1.1 101 -\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "it has switched protocols without being asked to",
    ),
}


@pytest.mark.parametrize(("response", "reason"), REFUSED.values(), ids=REFUSED)
def test_an_ambiguous_response_is_refused_however_it_is_split(response: bytes, reason: str) -> None:
    for pieces in splits(response):
        with pytest.raises(ReplicaBroke) as caught:
            read(pieces)
        assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("lines", [b"", b"Upgrade: websocket\r\n", b"Connection: upgrade\r\n"])
def test_a_switch_must_name_the_new_protocol(lines: bytes) -> None:
    for pieces in splits(b"HTTP/1.1 101 Switching\r\n" + lines + b"\r\n"):
        with pytest.raises(ReplicaBroke, match="does not name the new protocol"):
            read(pieces, is_upgrade=True)


def test_bytes_after_a_switch_are_handed_back() -> None:
    switch = b"HTTP/1.1 101 -\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    for pieces in splits(switch + b"frames"):
        kept, reader, rest = read(pieces, is_upgrade=True)
        assert (kept.status, rest, reader.is_complete) == (101, b"frames", False)


WHOLE = {
    "a length": (OK + LENGTH + b"\r\nok", b"ok"),
    "chunks": (OK + CHUNKED + END_OF_CHUNKS, b"ok"),
    "chunks with extensions and a trailer": (
        OK + CHUNKED + b"\r\n2;a=b\r\nok\r\n0\r\nX-Checksum: 1\r\n\r\n",
        b"ok",
    ),
    "interim responses before it": (b"HTTP/1.1 103 -\r\nLink: a\r\n\r\n" * 2 + OK + LENGTH + b"\r\nok", b"ok"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "no reason": (b"HTTP/1.1 200\r\n" + LENGTH + b"\r\nok", b"ok"),
}


@pytest.mark.parametrize(("response", "body"), WHOLE.values(), ids=WHOLE)
def test_a_whole_response_is_read_however_it_is_split(response: bytes, body: bytes) -> None:
    for pieces in splits(response):
        kept, reader, _ = read(pieces)
        assert (kept.status, kept.body) == (204 if b" 204 " in response else 200, body)
        assert (reader.is_complete, reader.may_carry_more) == (True, True)
        assert not [name for name, _ in kept.fields if name in (b"x-checksum", b"link")]


def test_headers_are_passed_on_in_order_however_they_are_split() -> None:
    fields = b"X-A:1\r\nx-b: \t two: 2 \r\nX-Empty:\r\nX-Blank:  \r\nSet-Cookie: a\r\nSET-COOKIE: \xe9\r\n"
    for pieces in splits(b"HTTP/1.1 103 -\r\nLink: a\r\n\r\nHTTP/1.1 200 X-Y: z\r\n" + fields + LENGTH + b"\r\nok"):
        kept, _, _ = read(pieces)
        assert list(kept.fields) == [
            (b"x-a", b"1"),
            (b"x-b", b"two: 2 "),
            (b"x-empty", b""),
            (b"x-blank", b""),
            (b"set-cookie", b"a"),
            (b"set-cookie", b"\xe9"),
            (b"content-length", b"2"),
        ]


@pytest.mark.parametrize("response", [OK + LENGTH + b"\r\nok", b"HTTP/1.1 204 -\r\n\r\n"], ids=["200", "204"])
@pytest.mark.parametrize("surplus", [b"x", b"\r\n", b"HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n", b"{}", b"H"])
def test_surplus_bytes_end_the_connection_not_the_response(response: bytes, surplus: bytes) -> None:
    for pieces in splits(response + surplus):
        kept, reader, _ = read(pieces)
        assert kept.status in (200, 204)
        assert reader.is_complete
        assert not reader.may_carry_more or surplus == b"\r\n"  # the parser skips empty lines


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED, b"Content-Length: 0\r\n"])
def test_a_response_to_head_ends_with_its_head(framing: bytes) -> None:
    reader = ResponseReader()
    for _ in range(3):
        kept = Kept()
        reader.begin(kept, is_head_request=True, is_upgrade=False)
        assert reader.feed(OK + framing + b"\r\n") is None
        assert (kept.status, reader.is_complete, reader.is_void, reader.may_carry_more) == (200, True, True, True)
    reader.begin(Kept(), is_head_request=True, is_upgrade=False)
    reader.feed(OK + LENGTH + b"\r\nok")
    assert not reader.may_carry_more


class Deaf:
    """In place of a parser, of which nothing is expected."""

    def feed_data(self, data: bytes) -> None:
        raise AssertionError(data)


def test_a_response_with_a_known_head_is_not_parsed() -> None:
    head = OK + LENGTH + b"X-Of-This-Test: 1\r\n\r\n"
    read([head + b"ok"])
    first, reader, _ = read([head + b"ok"])
    kept = Kept()
    reader._parser = Deaf()  # type: ignore[assignment]
    reader.begin(kept, is_head_request=False, is_upgrade=False)
    assert reader.feed(head + b"no") is None
    assert (kept.status, kept.fields, kept.body) == (200, first.fields, b"no")
    assert (reader.status, reader.is_begun, reader.is_complete) == (200, True, True)
    assert (reader.is_void, reader.may_carry_more) == (False, True)


def test_responses_with_and_without_known_heads_take_turns() -> None:
    head, chunked = OK + LENGTH + b"X-Of-This-Test: 2\r\n\r\n", OK + CHUNKED + END_OF_CHUNKS
    whole, reader = head + b"ok", ResponseReader()
    for pieces in ([whole], [whole], [whole], [chunked], [head, b"ok"], [whole], [head[:9], whole[9:]], [whole]):
        kept = Kept()
        reader.begin(kept, is_head_request=False, is_upgrade=False)
        for piece in pieces:
            reader.feed(piece)
        assert (kept.status, kept.body, reader.is_complete, reader.may_carry_more) == (200, b"ok", True, True)


def test_a_known_response_within_a_body_belongs_to_the_body() -> None:
    whole = OK + LENGTH + b"X-Of-This-Test: 3\r\n\r\nok"
    for _ in range(2):
        read([whole])
    for rest in (b"Content-Length: %d\r\n\r\n" % len(whole), b"\r\n"):
        kept, _, _ = read([OK + rest, whole])
        assert kept.body == whole


def test_a_known_head_is_the_whole_response_to_head() -> None:
    head = OK + b"X-Of-This-Test: 4\r\nContent-Length: 0\r\n\r\n"
    for _ in range(2):
        read([head])
    _, reader, _ = read([head], is_head_request=True)
    assert (reader.is_complete, reader.is_void) == (True, True)


def test_a_response_that_ends_its_connection_stays_the_last() -> None:
    for _ in range(3):
        _, reader, _ = read([OK + LENGTH + b"Connection: close\r\n\r\nok"])
        assert (reader.is_complete, reader.may_carry_more) == (True, False)


def test_surplus_behind_a_known_response_ends_the_connection() -> None:
    whole = OK + LENGTH + b"X-Of-This-Test: 5\r\n\r\nok"
    for surplus in (b"", b"", b"", b"x", whole):
        _, reader, _ = read([whole + surplus])
        assert (reader.is_complete, reader.may_carry_more) == (True, not surplus)


def test_only_a_body_without_framing_ends_with_the_connection() -> None:
    for head, is_whole in ((b"\r\n", True), (LENGTH + b"\r\n", False), (CHUNKED + b"\r\n", False), (b"", False)):
        _, reader, _ = read([OK + head])
        assert reader.end_with_connection() is is_whole
        assert not reader.may_carry_more


@pytest.mark.parametrize(
    "flood",
    [OK + b"x: " + b"y" * LONGEST_HEAD, (b"HTTP/1.1 100 -\r\n\r\n") * 4000, OK + CHUNKED + b"\r\n1;" + b"x" * 70_000],
)
def test_a_head_that_does_not_end_is_refused(flood: bytes) -> None:
    with pytest.raises(ReplicaBroke, match="too long"):
        read([flood[at : at + 4096] for at in range(0, len(flood), 4096)])


def test_an_error_of_the_receiver_is_raised_as_it_is() -> None:
    class Full(Kept):
        def send(self, data: bytes) -> None:
            raise KeyError("as the test wants it")

    reader = ResponseReader()
    reader.begin(Full(), is_head_request=False, is_upgrade=False)
    with pytest.raises(KeyError):
        reader.feed(OK + LENGTH + b"\r\nok")
