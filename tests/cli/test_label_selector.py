"""`-l`: replicas selected by their labels."""

from __future__ import annotations

import pytest

from shared_registry.model import EVERY_REPLICA, LabelSelector


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("zone=a", {"zone": "a"}, True),
        ("zone==a", {"zone": "a"}, True),
        ("zone=a", {"zone": "b"}, False),
        ("zone=a", {}, False),
        ("zone!=a", {"zone": "b"}, True),
        ("zone!=a", {}, True),
        ("zone!=a", {"zone": "a"}, False),
        ("zone", {"zone": "b"}, True),
        ("!zone", {"zone": "b"}, False),
        ("!zone", {}, True),
        (" zone = a , gpu != h100 ", {"zone": "a", "gpu": "a100"}, True),
        ("zone=a,gpu!=h100", {"zone": "a", "gpu": "h100"}, False),
        ("zone=", {"zone": ""}, True),
    ],
)
def test_all_terms_must_hold(text: str, labels: dict[str, str], matches: bool) -> None:
    assert LabelSelector.parse(text).matches(labels) is matches


@pytest.mark.parametrize("text", ["", ",", "=a", "a=b=c", "!a=b", "zone!", "zone=a,", "a b"])
def test_a_malformed_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be NAME=VALUE"):
        LabelSelector.parse(text)


def test_no_selector_selects_every_replica() -> None:
    assert EVERY_REPLICA.matches({})
