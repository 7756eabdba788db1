"""Where a session's name is found, and what is no name."""

from __future__ import annotations

import pytest

from shared_registry.proxy.session_key import MOST_CHARACTERS, SessionKey

HEADERS = ((b"x-session", b"ann"), (b"cookie", b"a=1; sid=bob; theme=dark"), (b"cookie", b"other=2"))


@pytest.mark.parametrize(
    ("place", "query", "found"),
    [
        ("header:X-Session", b"", "ann"),
        ("header:x-session", b"", "ann"),
        ("header:missing", b"", None),
        ("cookie:sid", b"", "bob"),
        ("cookie:other", b"", "2"),
        ("cookie:SID", b"", None),
        ("query:session", b"a=b&session=c%20d&session=e", "c d"),
        ("query:session", b"", None),
        ("query:session", b"session=", None),
        ("query:session", b"&".join([b"a=1"] * 1001), None),
        ("first_frame.client_id", b"client_id=1", None),
        (None, b"session=a", None),
    ],
)
def test_a_request_carries_its_session_name_where_configured(
    place: str | None, query: bytes, found: str | None
) -> None:
    assert SessionKey(place).of_request(HEADERS, query) == found


@pytest.mark.parametrize("cookie", [b'sid=a@b; x="unclosed', b"bad name=1; sid=a@b", b"sid=a@b"])
def test_cookies_are_read_beside_anything_that_browsers_send(cookie: bytes) -> None:
    assert SessionKey("cookie:sid").of_request([(b"cookie", cookie)], b"") == "a@b"


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        ('{"type": "session_init_v2", "client_id": "ann"}', "ann"),
        (b'{"client_id": "ann"}', "ann"),
        ('{"client_id": 7}', "7"),
        ('{"client_id": true}', None),
        ('{"client_id": null}', None),
        ('{"client_id": ["ann"]}', None),
        ('{"client_id": ""}', None),
        ('{"other": "ann"}', None),
        ('["client_id"]', None),
        ("not json", None),
        (b"\xff\xfe", None),
        ('{"client_id": "' + "x" * (MOST_CHARACTERS + 1) + '"}', None),
    ],
)
def test_a_first_frame_carries_the_session_name_in_a_field(frame: str | bytes, found: str | None) -> None:
    assert SessionKey("first_frame.client_id").of_frame(frame) == found


def test_the_field_may_be_nested() -> None:
    key = SessionKey("first_frame.user.id")
    assert key.is_in_first_frame
    assert key.of_frame('{"user": {"id": "ann"}}') == "ann"
    assert key.of_frame('{"user": "ann"}') is None


def test_only_a_first_frame_setting_makes_clients_speak_first() -> None:
    assert not SessionKey("header:a").is_in_first_frame
    assert not SessionKey(None).is_in_first_frame
    assert SessionKey("header:a").of_frame('{"a": "b"}') is None


def test_a_first_frame_nested_too_deeply_has_no_name() -> None:
    assert SessionKey("first_frame.client_id").of_frame(b"[" * 200_000) is None
