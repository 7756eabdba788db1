"""What a session says that it has tried is believed whatever holds it."""

from __future__ import annotations

import pytest

from shared_registry import UsageError
from shared_registry.leases.attempts import attempts_of
from shared_registry.selection import Selection
from tests.support.choices import record, url, view_of


def test_replicas_from_a_generator_are_excluded() -> None:
    view = view_of(Selection(), record(0), record(1))
    assert attempts_of((one for one in [url(0)]), view).excluded == {url(0)}  # type: ignore[arg-type]


def test_one_text_is_refused() -> None:
    with pytest.raises(UsageError):
        attempts_of("r0", view_of(Selection()))
