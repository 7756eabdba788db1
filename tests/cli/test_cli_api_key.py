"""`shared-registry api-key`: a key for its owner, and a line for the router that does not contain it."""

from __future__ import annotations

import json

import pytest

from shared_registry.config.api_keys import check_api_keys, new_api_key
from tests.support.in_process import invoke

KEY = "sk-geheim0123456789"


def test_a_new_key_fits_its_line() -> None:
    done = invoke("api-key", "new", "team-a")
    assert done.code == 0
    key, line = done.err.strip(), done.out.strip()
    assert line == new_api_key("team-a", key).line()
    assert key not in line
    assert check_api_keys([line])[0].name == "team-a"
    assert invoke("api-key", "new").err != invoke("api-key", "new").err
    document = json.loads(invoke("api-key", "new", "team-a", "--json").out)
    assert document["line"] == new_api_key("team-a", document["key"]).line()


def test_a_key_is_hashed_from_standard_input() -> None:
    for words in (["team-a"], []):
        done = invoke("api-key", "hash", *words, piped=f"{KEY}\n")
        assert (done.code, done.out) == (0, new_api_key("".join(words), KEY).line() + "\n")
        assert KEY not in done.all


@pytest.mark.parametrize(("text", "words"), [("", []), ("geheim\n", []), (f"{KEY}\n", ["a/b"])])
def test_what_is_no_key_is_refused_without_showing_it(text: str, words: list[str]) -> None:
    done = invoke("api-key", "hash", *words, piped=text)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: api key: ")
    assert "geheim" not in done.all
