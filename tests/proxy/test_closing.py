"""Close codes: what one side's end means to the other."""

from __future__ import annotations

import pytest

from shared_registry.proxy.closing import Close, for_client, for_replica, shortened


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_close_codes_that_may_be_sent_are_passed(code: int) -> None:
    assert for_replica(Close(code, "why")) == for_client(Close(code, "why")) == Close(code, "why")


def test_a_missing_close_code_is_an_ordinary_end() -> None:
    assert for_replica(Close(1005)) == for_client(Close(1005)) == Close(1000)


def test_a_broken_connection_gives_each_side_its_close_code() -> None:
    """The replica receives that the client is going away, the client receives a failure."""
    assert for_replica(Close(None)) == Close(1001, "the client's connection was lost")
    assert for_client(Close(None)) is None


def test_a_reason_is_cut_between_characters() -> None:
    assert shortened("ü" * 100) == "ü" * 61
    assert shortened("a" * 123) == "a" * 123
