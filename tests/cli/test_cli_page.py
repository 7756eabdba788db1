"""docs/cli.md: its commands, run as they stand and in their order, print what it shows."""

from __future__ import annotations

import pytest

from tests.support import own_network
from tests.support.command_page import PAGE, print_page
from tests.support.shown_commands import is_alike, read_shown, with_outputs


@pytest.mark.slow
@pytest.mark.timeout(330)
@pytest.mark.usefixtures("redis_binary")
def test_every_command_prints_what_the_page_shows() -> None:
    if not own_network.is_possible():
        pytest.skip("needs unshare, ip, and the right to use them")
    shown = [one for block in read_shown(PAGE.read_text(encoding="utf-8")) for one in block]
    printed = [one for block in print_page() for one in block]
    assert len(shown) > 20
    wrong = [(one, lines) for one, lines in zip(shown, printed, strict=True) if not is_alike(one.lines, lines)]
    assert wrong == []


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        (["gpu-1  0/4  1.4 s ago"], ["gpu-1    12/40    3 s ago"], True),
        (["leader 52aeb3d7c4af6d60"], ["leader 0192847566012345"], True),
        (["3 sessions wait"], ["3 sessions waited"], False),
        (["a", "…", "z"], ["a", "b", "c", "z"], True),
        (["a …"], ["a b c"], True),
        (["a"], ["a", "b"], False),
        ([], ["b"], False),
    ],
)
def test_outputs_are_compared_in_shape(shown: list[str], printed: list[str], expected: bool) -> None:
    assert is_alike(shown, printed) is expected


def test_new_outputs_are_written_into_a_page() -> None:
    page = "Text\n\n```console\n$ one\nold\n$ two\n1\n…\n```\n\nMore\n"
    renewed = with_outputs(page, [[["new", "lines"], ["2", "3"]]])
    assert renewed == page.replace("old", "new\nlines")
