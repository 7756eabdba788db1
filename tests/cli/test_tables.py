"""Texts and tables as plain lines, and as rich draws them."""

from __future__ import annotations

import pytest

from shared_registry.cli.drawing import drawn, new_console
from shared_registry.cli.tables import Column, Group, Shown, Table, Text, fitted_table, lines_of

REPLICAS = Column("replica", ["gpu-1", Text("gpu-22", "red"), "日本"])
LOADS = Column("in flight", ["1", "10", "100"], is_number=True)
TABLES: list[Shown] = [
    Table([REPLICAS, LOADS]),
    fitted_table([REPLICAS, LOADS], 80),
    Table([REPLICAS, LOADS], has_headings=False),
    Group(Text("a sentence", "bold"), Table([LOADS, REPLICAS]), "the end"),
    Table([Column("setting", ["one", "two"]), Column("value", ["a\nb", ""]), Column("from", ["x", "y"])]),
]


@pytest.mark.parametrize("shown", TABLES, ids=range(len(TABLES)))
def test_plain_lines_are_those_that_rich_draws(shown: Shown) -> None:
    console = new_console(100)
    with console.capture() as capture:
        console.print(drawn(shown), crop=False)
    assert [*lines_of(shown)] == [line.rstrip() for line in capture.get().splitlines()]


def test_columns_align_by_what_a_terminal_shows() -> None:
    assert [*lines_of(Table([REPLICAS, LOADS]))] == [
        "replica  in flight",
        "gpu-1            1",
        "gpu-22          10",
        "日本           100",
    ]


def test_the_least_important_columns_are_left_out_first() -> None:
    columns = [Column("a", ["1" * 10]), Column("b", ["2" * 10], keep=1), Column("c", ["3" * 10], keep=2)]
    for width, shown in ((34, "abc"), (33, "ac"), (22, "ac"), (21, "a"), (1, "a"), (None, "abc")):
        assert "".join(next(iter(lines_of(fitted_table(columns, width)))).split()) == shown
