"""Texts and tables that commands print: plain lines into a file or a pipe, and drawn by rich on a terminal.

Rich is slow to import, so only a terminal imports it (see `drawing`). Plain lines are never folded or cut, because a
program may read them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest

TABLE_WIDTH = 250
"""The most columns of a table whose output is no terminal."""
GAP = 2
"""The spaces between two columns."""


class Text:
    """A text in one style.

    Attributes:
        plain: The text.
        style: A style of rich, such as `bold red`; empty for none.
    """

    __slots__ = ("plain", "style")

    def __init__(self, plain: str, style: str = "") -> None:
        self.plain = plain
        self.style = style

    def __str__(self) -> str:
        return self.plain


class Column:
    """One column of a table.

    Attributes:
        heading: Its heading.
        cells: Its texts, one for each row.
        is_number: Whether it is aligned at its right edge.
        keep: How important the column is. On a narrow terminal those with the highest numbers are shown that fit beside
            each other; `None` is never left out.
    """

    __slots__ = ("cells", "heading", "is_number", "keep")

    def __init__(
        self, heading: str, cells: Sequence[Text | str], *, is_number: bool = False, keep: int | None = None
    ) -> None:
        self.heading = heading
        self.cells = cells
        self.is_number = is_number
        self.keep = keep

    @property
    def width(self) -> int:
        """The columns of the terminal that it takes."""
        return max(text_width(line) for one in (self.heading, *self.cells) for line in str(one).split("\n"))


class Table:
    """A table.

    Attributes:
        columns: Its columns, all of the same length.
        has_headings: Whether the first line has the headings.
        may_fold: Whether a terminal that is too narrow shows a cell on several lines. Otherwise the terminal wraps
            the lines, so that a url can be copied.
    """

    __slots__ = ("columns", "has_headings", "may_fold")

    def __init__(self, columns: Sequence[Column], *, has_headings: bool = True, may_fold: bool = True) -> None:
        self.columns = columns
        self.has_headings = has_headings
        self.may_fold = may_fold


class Group:
    """Several things, one below the other."""

    __slots__ = ("parts",)

    def __init__(self, *parts: Shown) -> None:
        self.parts = parts


Shown = str | Text | Table | Group
"""What can be printed."""


def fitted_table(columns: Sequence[Column], width: int | None) -> Table:
    """Return a table with the columns that fit beside each other. No cell is folded or cut.

    Args:
        columns: In the order in which they are shown.
        width: The columns of the terminal; `None` to show all, however long the lines become.
    """
    shown = {column.heading for column in columns if width is None or column.keep is None}
    own_width = sum(column.width + GAP for column in columns if column.heading in shown) - GAP
    for column in sorted(columns, key=lambda one: -(one.keep or 0)):
        wider = own_width + GAP + column.width
        if column.heading not in shown and width is not None and wider <= width:
            shown.add(column.heading)
            own_width = wider
    return Table([column for column in columns if column.heading in shown], may_fold=False)


def facts_table(facts: Sequence[tuple[str, Text | str]]) -> Table:
    """Return a table of names and what each of them is, without headings."""
    names = Column("", [name for name, _ in facts])
    return Table([names, Column("", [fact for _, fact in facts])], has_headings=False)


def output_width() -> int:
    """Return the columns of the terminal, or those that `COLUMNS` says; a large number without a terminal."""
    return shutil.get_terminal_size((TABLE_WIDTH, 24)).columns


def is_drawn() -> bool:
    """Return whether standard output is a terminal, or is treated as one because of `FORCE_COLOR`."""
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))


def print_shown(shown: Shown) -> None:
    """Print on standard output, and flush it.

    Raises:
        BrokenPipeError: The reader has closed the pipe; typer then ends the command.
    """
    if is_drawn():
        from shared_registry.cli.drawing import draw  # noqa: PLC0415  rich

        draw(shown)
        return
    sys.stdout.writelines(line + "\n" for line in lines_of(shown))
    sys.stdout.flush()


def lines_of(shown: Shown) -> Iterator[str]:
    """Yield the plain lines."""
    if isinstance(shown, Group):
        for part in shown.parts:
            yield from lines_of(part)
    elif isinstance(shown, Table):
        yield from _table_lines(shown)
    else:
        yield str(shown)


def _table_lines(table: Table) -> Iterator[str]:
    widths = [one.width for one in table.columns]
    rows: list[tuple[Text | str, ...]] = list(zip(*(one.cells for one in table.columns), strict=True))
    if table.has_headings:
        rows.insert(0, tuple(one.heading for one in table.columns))
    for row in rows:
        for line in zip_longest(*(str(cell).split("\n") for cell in row), fillvalue=""):
            cells = [
                " " * (width - text_width(text)) + text if column.is_number else text + " " * (width - text_width(text))
                for column, width, text in zip(table.columns, widths, line, strict=True)
            ]
            yield (" " * GAP).join(cells).rstrip()


def text_width(text: str) -> int:
    """Return the columns of the terminal that a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415  names are ASCII nearly always

    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)
