"""Which messages are recognized by their heads: whole ones only."""

from __future__ import annotations

from shared_registry.http1.known_heads import SEEN_FOR_EACH_KNOWN, KnownHeads

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"


def known(most: int = 4, longest: int = 100) -> KnownHeads[str]:
    heads: KnownHeads[str] = KnownHeads(most, longest)
    add_twice(heads, HEAD + b"ok", 2, "a post")
    return heads


def add_twice(heads: KnownHeads[str], data: bytes, body_length: int, meaning: str) -> None:
    for _ in range(2):
        heads.add(data, body_length, meaning)


def test_a_message_is_recognized_with_any_body() -> None:
    heads = known()
    assert heads.find(HEAD + b"no") == ("a post", b"no")
    add_twice(heads, b"GET / HTTP/1.1\r\n\r\n", 0, "a get")
    assert heads.find(b"GET / HTTP/1.1\r\n\r\n") == ("a get", b"")


def test_less_or_more_than_a_message_is_not_recognized() -> None:
    for data in (
        HEAD,
        HEAD + b"o",
        HEAD + b"ok ",
        HEAD + b"ok" + HEAD,
        HEAD[:-1],
        b"\r\n" + HEAD + b"ok",
        b"",
        b"\r\n\r\n",
    ):
        assert known().find(data) is None


def test_a_head_of_other_bytes_is_not_recognized() -> None:
    assert known().find(HEAD.replace(b"Host", b"host") + b"ok") is None


def test_a_message_that_is_not_whole_is_not_remembered() -> None:
    for data in (HEAD, HEAD + b"o", HEAD + b"ok ", b"\r\n\r\n" + HEAD + b"ok", b"ok", b""):
        heads: KnownHeads[str] = KnownHeads(4, 100)
        add_twice(heads, data, 2, "a post")
        assert heads.find(data) is None
        assert heads.find(HEAD + b"ok") is None


def test_a_long_head_is_not_remembered() -> None:
    assert known(longest=len(HEAD)).find(HEAD + b"ok") is not None
    assert known(longest=len(HEAD) - 1).find(HEAD + b"ok") is None


def test_the_oldest_head_is_forgotten_first() -> None:
    heads = known(most=2)
    others = [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(2)]
    for number, other in enumerate(others):
        add_twice(heads, other, 0, str(number))
    assert heads.find(HEAD + b"ok") is None
    assert [heads.find(other) for other in others] == [("0", b""), ("1", b"")]


def test_heads_that_come_once_displace_no_other() -> None:
    heads = known(most=2)
    for number in range(3 * 2 * SEEN_FOR_EACH_KNOWN):
        once = b"GET /%d HTTP/1.1\r\n\r\n" % number
        heads.add(once, 0, "a get")
        assert heads.find(once) is None
    assert heads.find(HEAD + b"ok") is not None
    assert len(heads._seen) <= 2 * SEEN_FOR_EACH_KNOWN
