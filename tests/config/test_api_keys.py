"""API keys as they stand in settings and files: what is read, what is refused, and that no key is shown."""

from __future__ import annotations

import hashlib

import pytest

from shared_registry.config import RouterConfig
from shared_registry.config.api_keys import ApiKey, check_api_keys, read_api_keys
from shared_registry.errors import ConfigError

KEY = "sk-geheim0123456789"
DIGEST = hashlib.sha256(KEY.encode()).digest()
HASHED = f"sha256:{DIGEST.hex()}"
OTHER = "0" * 64
"""A key that looks like a digest, as `openssl rand -hex 32` makes them."""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((), ()),
        ("", ()),
        ([f"a: {KEY}"], [("a", DIGEST, ())]),
        ([f"a: {HASHED}"], [("a", DIGEST, ())]),
        ([f"a: {HASHED.replace('5', '5').upper().replace('SHA', 'sha')}"], [("a", DIGEST, ())]),
        ([KEY], [(f"key-{DIGEST.hex()[:8]}", DIGEST, ())]),
        ([HASHED], [(f"key-{DIGEST.hex()[:8]}", DIGEST, ())]),
        (
            [OTHER],
            [(f"key-{hashlib.sha256(OTHER.encode()).hexdigest()[:8]}", hashlib.sha256(OTHER.encode()).digest(), ())],
        ),
        ([f"a:  {KEY}  /v1/*   /status "], [("a", DIGEST, ("/v1/*", "/status"))]),
        (["# nothing", "", "  ", f"a: {KEY}"], [("a", DIGEST, ())]),
        (f"a: {KEY}, b: {OTHER} /x", [("a", DIGEST, ()), ("b", hashlib.sha256(OTHER.encode()).digest(), ("/x",))]),
        (f"a: {KEY}\n", [("a", DIGEST, ())]),
        ({"a": KEY}, [("a", DIGEST, ())]),
        ([{"a": f"{HASHED} /v1/*"}], [("a", DIGEST, ("/v1/*",))]),
        ([ApiKey("a", DIGEST)], [("a", DIGEST, ())]),
    ],
)
def test_keys_are_read_as_digests(value: object, expected: object) -> None:
    assert [(key.name, key.digest, key.paths) for key in check_api_keys(value)] == list(expected)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a: geheim", "its key is not usable; write NAME: KEY"),
        ("a:geheim-geheim-geheim", "its key is not usable; write NAME: KEY"),
        ("a: geheim+geheim+geheim!", "its key is not usable"),
        ("a:", "its key is not usable"),
        ("a b: geheim-geheim-geheim", "its key is not usable"),
        ("a/b: geheim-geheim-geheim", "its name is not usable"),
        ("a: sha256:0123geheim", "sha256: must be followed by 64 hex digits"),
        (f"a: {KEY} v1/*", "the path 'v1/*' is not usable"),
        (f"a: {KEY} /v*1", "the path '/v*1' is not usable"),
        (7, "must be text such as"),
        (None, "must be text such as"),
    ],
)
def test_a_refusal_names_the_line_and_not_the_key(line: object, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_api_keys(["# first", line], "keys line {}".format, first=1)
    assert str(refused.value).startswith("keys line 2: ")
    assert message in str(refused.value)
    assert "geheim" not in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        RouterConfig(api_keys=[line])  # type: ignore[arg-type]
    assert "geheim" not in str(refused.value)


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"api_keys\[1\]: repeats the key of a; remove one of them"):
        check_api_keys([f"a: {KEY}", f"b: {HASHED}"])


def test_a_key_is_shown_nowhere() -> None:
    config = RouterConfig(api_keys=[f"team: {KEY}"])  # type: ignore[arg-type]
    assert config.shown()["api_keys"] == ["team: ***"]
    for text in (repr(config), str(config.shown()), repr(config.api_keys)):
        assert "team" in text
        assert KEY not in text
        assert DIGEST.hex() not in text
        assert repr(DIGEST) not in text


def test_a_line_is_read_as_it_was_written() -> None:
    [key] = check_api_keys([f"a: {KEY} /v1/* /status"])
    assert check_api_keys([key.line()]) == (key,)
