"""What responses are compared with: statuses, nested JSON fields and conditions, texts and patterns."""

from __future__ import annotations

from typing import Any

import pytest

from shared_registry.config import RouterConfig
from shared_registry.config.probe_rules import CONDITIONS
from shared_registry.probing import expectations as module
from shared_registry.probing.connection import BODY_LIMIT, Response
from shared_registry.probing.expectations import Expectations, body_mismatch
from shared_registry.probing.text import MAX_ERROR_LENGTH, one_line

ENGINE = b'{"engine": {"state": "ready", "queue": 7, "gpus": [{"id": "a"}, {"id": "b"}]}, "a.b": 1, "on": true}'


def mismatch(response: Response, **settings: Any) -> str | None:
    config = RouterConfig(**{f"health_check_{name}": value for name, value in settings.items()})
    return Expectations(config).mismatch(response)


@pytest.mark.parametrize(
    ("statuses", "status", "expected"),
    [
        ("200-399", 200, None),
        ("200-399", 399, None),
        ("200-399", 400, "HTTP 400"),
        ("200", 204, "HTTP 204, expected 200"),
        ("200-299,404", 404, None),
        ("200-299,404", 405, "HTTP 405, expected 200-299,404"),
        ([200, "500-599"], 503, None),
        (503, 503, None),
        (503, 200, "HTTP 200, expected 503"),
        ("200-999", 999, None),
    ],
)
def test_statuses_are_single_ones_and_ranges(statuses: Any, status: int, expected: str | None) -> None:
    assert mismatch(Response(status, b""), statuses=statuses) == expected


@pytest.mark.parametrize(
    ("expect", "expected"),
    [
        ({"engine.state": "ready"}, None),
        ({"engine.gpus.1.id": "b"}, None),
        ({"engine.gpus.2.id": "b"}, "body: no engine.gpus.2.id, expected 'b'"),
        ({"engine.gpus.-1.id": "b"}, "body: no engine.gpus.-1.id, expected 'b'"),
        ({"engine.gpus.99999999999999999999.id": "b"}, "body: no engine.gpus.99999999999999999999.id, expected 'b'"),
        ({"engine.state.x": "ready"}, "body: no engine.state.x, expected 'ready'"),
        ({"engine..state": "ready"}, "body: no engine..state, expected 'ready'"),
        ({"a.b": 1}, None),
        ({"engine": "ready"}, "body: engine is an object, expected 'ready'"),
        ({"engine.queue": {"lt": 8}}, None),
        ({"engine.queue": {"lt": 7}}, "body: engine.queue is 7, expected less than 7"),
        ({"engine.queue": {"le": 7, "ge": 7}}, None),
        ({"engine.queue": {"ge": 1, "le": 6.5}}, "body: engine.queue is 7, expected at most 6.5"),
        ({"engine.queue": {"gt": 7}}, "body: engine.queue is 7, expected more than 7"),
        ({"engine.state": {"lt": 7}}, "body: engine.state is 'ready', expected less than 7"),
        ({"on": {"ge": 1}}, "body: on is true, expected at least 1"),
        ({"on": {"eq": 1}}, "body: on is true, expected 1"),
        ({"on": {"ne": 1}}, None),
        ({"engine.state": {"ne": "ready"}}, "body: engine.state is 'ready', expected anything but 'ready'"),
        ({"engine.mood": {"ne": "bad"}}, "body: no engine.mood, expected anything but 'bad'"),
        ({"engine.state": {"in": ["ready", "warm"]}}, None),
        ({"engine.queue": {"in": [True, "7"]}}, "body: engine.queue is 7, expected one of true, '7'"),
        ({"engine.state": {"matches": "^rea"}}, None),
        ({"engine.state": {"matches": "y$ "}}, "body: engine.state is 'ready', expected a match of 'y$ '"),
        ({"engine.queue": {"matches": "7"}}, "body: engine.queue is 7, expected a match of '7'"),
        ({"engine.error": {"exists": False}}, None),
        ({"engine.state": {"exists": False}}, "body: engine.state is 'ready', expected that it exists: false"),
        ({"engine.error": {"exists": True}}, "body: no engine.error, expected that it exists: true"),
    ],
)
def test_nested_fields_and_conditions(expect: dict[str, Any], expected: str | None) -> None:
    assert mismatch(Response(200, ENGINE), expect=expect) == expected


def test_every_condition_of_the_settings_is_known() -> None:
    assert CONDITIONS.keys() == module._WORDS.keys() == {*module._CONDITIONS, "exists"}


@pytest.mark.parametrize("condition", [{"lt": 5}, {"gt": 5}, {"eq": 5}, {"ne": 5}, {"in": [5]}])
def test_nan_fulfils_no_condition(condition: dict[str, Any]) -> None:
    assert body_mismatch(b'{"load": NaN}', {"load": condition}) is not None
    assert body_mismatch(b'{"load": NaN, "a": 1}', {"a": 1}) is None, "other fields may be NaN"


@pytest.mark.parametrize("condition", [{"gt": 5}, {"ge": 5}, {"ne": 5}])
@pytest.mark.parametrize("number", [b"Infinity", b"1e999", b"9" * 4000])
def test_endless_numbers_are_compared(condition: dict[str, Any], number: bytes) -> None:
    assert body_mismatch(b'{"load": %s}' % number, {"load": condition}) is None


@pytest.mark.parametrize(
    "body",
    [b'{"a":' * 20_000, b"[" * 60_000, b'{"a": 1' + b"0" * 60_000 + b"}", b'{"a": "\\ud800"}', b"\xff" * 60_000],
    ids=["deep object", "deep list", "long number", "half a surrogate pair", "no text"],
)
@pytest.mark.parametrize("wanted", [{"lt": 5}, {"matches": "x"}, "x"])
def test_odd_bodies_are_plain_failures(body: bytes, wanted: Any) -> None:
    error = body_mismatch(body, {"a": wanted, "a.a.a": wanted})
    assert error is not None
    assert len(one_line(error)) <= MAX_ERROR_LENGTH


@pytest.mark.parametrize(
    ("settings", "body", "expected"),
    [
        ({"expect_text": "ready"}, b"is ready now", None),
        ({"expect_text": "größer"}, "größer".encode(), None),
        ({"expect_text": "ready"}, b"warming", "body: 'warming', expected the text 'ready'"),
        ({"expect_text": "ready"}, b"", "body: '', expected the text 'ready'"),
        ({"expect_pattern": r"^status: (ok|fine)$"}, b"status: fine", None),
        ({"expect_pattern": r"(?m)^b$"}, b"a\nb\nc", None),
        ({"expect_pattern": "^b"}, b"a", "body: 'a', expected a match of '^b'"),
        ({"expect_text": "a", "expect_pattern": "b", "expect": {"a": "b"}}, b'{"a": "b"}', None),
        ({"expect_text": "a", "expect": {"a": "c"}}, b'{"a": "b"}', "body: a is 'b', expected 'c'"),
    ],
)
def test_texts_and_patterns(settings: dict[str, Any], body: bytes, expected: str | None) -> None:
    assert mismatch(Response(200, body), **settings) == expected


def test_a_cut_body_is_searched_as_far_as_it_goes() -> None:
    cut = Response(200, b"ready" + b"x" * (BODY_LIMIT - 5), is_truncated=True)
    assert mismatch(cut, expect_text="ready") is None
    error = mismatch(cut, expect_text="late")
    assert error is not None
    assert error.endswith(f"expected the text 'late' in the first {BODY_LIMIT} bytes")
