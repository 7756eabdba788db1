"""What a proxy does to headers: a table of what passes, what ends here, and what is refused."""

from __future__ import annotations

import pytest

from shared_registry.proxy.headers import CHUNKED as IN_CHUNKS
from shared_registry.proxy.headers import (
    HOP_BY_HOP,
    AmbiguousRequest,
    body_length,
    is_websocket_handshake,
    to_client,
    to_replica,
)

Pairs = list[tuple[bytes, bytes]]
HOST = (b"host", b"a:1")
CHUNKED = (b"transfer-encoding", b"chunked")
FORWARDED = [(b"x-forwarded-proto", b"http"), (b"x-forwarded-host", b"a:1")]


def length(text: bytes) -> tuple[bytes, bytes]:
    return b"content-length", text


@pytest.mark.parametrize("headers", [[HOST], [HOST, length(b"0")], [HOST, length(b"5")], [HOST, CHUNKED]])
def test_one_framing_and_one_host_are_accepted(headers: Pairs) -> None:
    body_length(headers, "1.1")


def test_an_old_client_need_not_name_a_host() -> None:
    body_length([length(b"5")], "1.0")


@pytest.mark.parametrize(
    ("headers", "version", "why"),
    [
        ([HOST, length(b"5"), CHUNKED], "1.1", "both"),
        ([HOST, length(b"5"), length(b"5")], "1.1", "one decimal number"),
        ([HOST, length(b"5, 5")], "1.1", "one decimal number"),
        ([HOST, length(b"+5")], "1.1", "one decimal number"),
        ([HOST, length(b"")], "1.1", "one decimal number"),
        ([HOST, length(b"\xb2")], "1.1", "one decimal number"),
        ([HOST, length(b"9" * 19)], "1.1", "one decimal number"),
        ([HOST, (b"transfer-encoding", b"gzip, chunked")], "1.1", "must be chunked"),
        ([HOST, (b"transfer-encoding", b"identity")], "1.1", "must be chunked"),
        ([HOST, CHUNKED, CHUNKED], "1.1", "must be chunked"),
        ([HOST, CHUNKED], "1.0", "must be chunked"),
        ([HOST, HOST], "1.1", "one Host"),
        ([], "1.1", "one Host"),
        ([HOST, (b"a b", b"c")], "1.1", "name is malformed"),
        ([HOST, (b"", b"c")], "1.1", "name is malformed"),
        ([HOST, (b"a", b"c\r\nd: e")], "1.1", "control characters"),
        ([HOST, (b"a", b"\x00")], "1.1", "control characters"),
        ([HOST, (b"content_length", b"5")], "1.1", "some servers take its header content_length"),
        ([HOST, (b"transfer_encoding", b"chunked")], "1.1", "some servers take"),
        ([HOST, (b"x-forwarded_for", b"6.6.6.6")], "1.1", "some servers take"),
        ([HOST], "0.9", "version"),
        ([HOST], "2.0", "version"),
    ],
)
def test_an_ambiguous_head_is_refused(headers: Pairs, version: str, why: str) -> None:
    with pytest.raises(AmbiguousRequest, match=why):
        body_length(headers, version)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], 0),
        ([length(b"0")], 0),
        ([length(b"15")], 15),
        ([CHUNKED], IN_CHUNKS),
        ([(CHUNKED[0], b"Chunked")], IN_CHUNKS),
    ],
)
def test_a_body_exists_only_where_it_is_announced(headers: Pairs, expected: int) -> None:
    assert body_length([HOST, *headers], "1.1") == expected


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"transfer-encoding"} | {b"expect"}))
def test_headers_of_one_connection_are_not_passed_on(name: bytes) -> None:
    assert to_replica([HOST, (name, b"x")], client=None, scheme="http") == [HOST, *FORWARDED]


def test_headers_named_by_connection_are_removed_except_essential_ones() -> None:
    named = (b"connection", b"close, X-Gone ,host, Content-Length,X-Forwarded-For")
    headers = [HOST, named, (b"x-gone", b"1"), (b"x-stays", b"1"), length(b"5"), (b"x-forwarded-for", b"6.6.6.6")]
    passed = to_replica(headers, client="10.0.0.1", scheme="http")
    assert passed == [HOST, (b"x-stays", b"1"), length(b"5"), (b"x-forwarded-for", b"10.0.0.1"), *FORWARDED]


def test_forwarding_headers_of_proxies_are_kept_and_added_to() -> None:
    told = [(b"x-forwarded-for", b"1.1.1.1, 2.2.2.2"), (b"x-forwarded-for", b"3.3.3.3")]
    more = [(b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"public")]
    assert to_replica([HOST, *told, *more], client="::1", scheme="http", is_trusted=True) == [
        HOST,
        (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2, 3.3.3.3, ::1"),
        *more,
    ]


@pytest.mark.parametrize(
    ("scheme", "told"), [("http", b"http"), ("ws", b"http"), ("https", b"https"), ("wss", b"https")]
)
def test_websocket_schemes_are_forwarded_as_http_schemes(scheme: str, told: bytes) -> None:
    assert (b"x-forwarded-proto", told) in to_replica([HOST], client=None, scheme=scheme)


def test_a_chunked_body_stays_chunked() -> None:
    assert to_replica([HOST, CHUNKED], client=None, scheme="http") == [HOST, *FORWARDED, CHUNKED]


def test_a_response_keeps_its_headers_except_connection_headers() -> None:
    """Their order is kept too."""
    headers = [(b"connection", b"X-Gone"), (b"x-gone", b"1"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
    kept = [(b"set-cookie", b"a"), (b"set-cookie", b"b")]
    assert to_client([*headers, length(b"5")], status=200) == [*kept, length(b"5")]
    assert to_client([*headers, CHUNKED], status=200) == kept


def test_a_chunked_response_has_no_length() -> None:
    assert to_client([length(b"5"), CHUNKED], status=200) == []


@pytest.mark.parametrize(("status", "is_kept"), [(200, True), (204, False), (304, False), (404, True)])
def test_a_length_without_a_following_body_is_dropped(status: int, is_kept: bool) -> None:
    assert bool(to_client([length(b"5")], status=status)) is is_kept


def offer(*upgrades: bytes, connection: tuple[bytes, ...] = (b"Upgrade",)) -> Pairs:
    return [HOST, *((b"connection", value) for value in connection), *((b"upgrade", value) for value in upgrades)]


@pytest.mark.parametrize(
    "headers",
    [
        offer(b"websocket"),
        offer(b"WebSocket"),
        offer(b"websocket", connection=(b"keep-alive, upgrade",)),
        offer(b"websocket", connection=(b"Upgrade", b"keep-alive")),
        offer(b"websocket", connection=(b"keep-alive", b" UPGRADE ,")),
    ],
)
def test_a_handshake_is_recognized_in_any_spelling(headers: Pairs) -> None:
    assert is_websocket_handshake(headers, method="GET", http_version="1.1")


@pytest.mark.parametrize(
    ("headers", "method", "version"),
    [
        (offer(b"h2c"), "GET", "1.1"),
        (offer(b"websocket, h2c"), "GET", "1.1"),
        (offer(b"websocket", b"h2c"), "GET", "1.1"),
        (offer(b"websocket", b"websocket"), "GET", "1.1"),
        (offer(b"websocket/13"), "GET", "1.1"),
        (offer(b""), "GET", "1.1"),
        (offer(), "GET", "1.1"),
        (offer(b"websocket", connection=()), "GET", "1.1"),
        (offer(b"websocket", connection=(b"upgrades",)), "GET", "1.1"),
        (offer(b"websocket"), "POST", "1.1"),
        (offer(b"websocket"), "GET", "1.0"),
    ],
)
def test_every_other_offer_to_upgrade_is_no_handshake(headers: Pairs, method: str, version: str) -> None:
    assert not is_websocket_handshake(headers, method=method, http_version=version)
