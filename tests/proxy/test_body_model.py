"""The model in a JSON body, however the body is written and however it arrives."""

from __future__ import annotations

import json
import re

import pytest

from shared_registry.proxy import body_model
from shared_registry.proxy.body_model import ModelFinder

BODIES = [
    (b'{"model":"a"}', "a"),
    (b' \r\n{ "model" : "a/b-3" , "messages": [{"model": "no"}]}', "a/b-3"),
    (b'{"messages":[{"content":"say \\"model\\": \\"x\\" \\\\"}],"model":"late"}', "late"),
    (b'{"a":{"model":"inner"},"b":[["model"]],"model":"outer"}', "outer"),
    (b'{"mod\\u0065l":"escaped"}', "escaped"),
    (b'{"model":"\\u00fc\\n"}', "\u00fc\n"),
    ('{"x":"\u00fc\u2028","model":"\u00fc"}'.encode(), "\u00fc"),
    (b'{"n":-1.5e3,"t":true,"z":null,"model":"a"}', "a"),
    (b'{"model":"first","model":"second"}', "first"),
    (b'{"x":"model","y":"z"}', None),
    (b'{"model":7}', None),
    (b'{"model":null,"x":1}', None),
    (b'{"model":{"model":"inner"}}', None),
    (b'{"model":["a"]}', None),
    (b"{}", None),
    (b"", None),
    (b'["model","a"]', None),
    (b'"model"', None),
    (b'{"model', None),
    (b'{"model":"unended', None),
    (b"model=a&b=c ", None),
    (b'}{"model":"a"}', None),
    (b"\x00\xff{", None),
]


@pytest.mark.parametrize(("body", "model"), BODIES)
def test_a_model_is_found_at_every_split(body: bytes, model: str | None) -> None:
    for cut in range(len(body) + 1):
        finder = ModelFinder()
        if not finder.search(body[:cut]):
            finder.search(body)
        assert finder.model == model


@pytest.mark.parametrize(("body", "model"), BODIES)
def test_a_model_is_found_byte_by_byte(body: bytes, model: str | None) -> None:
    finder = ModelFinder()
    for end in range(len(body) + 1):
        if finder.search(body[:end]):
            break
    assert finder.model == model


def test_nothing_after_the_model_is_needed() -> None:
    finder = ModelFinder()
    assert finder.search(b'{"model":"a",')
    assert ModelFinder().search(b"--boundary ")


def test_a_long_text_before_the_model_is_read_quickly() -> None:
    body = json.dumps({"prompt": 'x\\"' * 300_000, "model": "a"}).encode()
    finder = ModelFinder()
    for end in range(65_536, len(body) + 65_536, 65_536):
        finder.search(body[:end])
    assert finder.model == "a"


@pytest.mark.parametrize("start", [b'{"x":"', b'{"x":', b'{"x":"\\', b'{"x":"\\a'])
@pytest.mark.parametrize("filler", [b"x", b"\\a", b" ", b"9", b"[1,"])
def test_no_byte_is_read_twice(start: bytes, filler: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def end(pattern: re.Pattern[bytes], data: bytes, begin: int) -> int:
        nonlocal read
        found = pattern.match(data, begin)
        assert found is not None
        read += found.end() - begin
        return found.end()

    monkeypatch.setattr(body_model, "_end", end)
    finder, body = ModelFinder(), start + filler * 1000
    for at in range(len(body) + 1):
        finder.search(body[:at])
    assert read <= len(body)


def test_many_tokens_are_read_in_several_turns() -> None:
    body = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"model":"a"}'
    finder, turns = ModelFinder(), 1
    while not finder.search(body) and finder.is_behind:
        turns += 1
    assert (finder.model, turns) == ("a", 1 + 200_006 // body_model.MOST_TOKENS)
