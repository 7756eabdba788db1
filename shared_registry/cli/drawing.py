"""Draws texts and tables on a terminal, with rich.

Rich is slow to import. Commands import this module only where standard output is a terminal.
"""

from __future__ import annotations

import errno

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.console import Group as RichGroup
from rich.table import Table as RichTable
from rich.text import Text as RichText

from shared_registry.cli.tables import GAP, TABLE_WIDTH, Group, Shown, Table, Text, output_width


def draw(shown: Shown) -> None:
    """Draw on standard output."""
    new_console(output_width()).print(drawn(shown), crop=False, soft_wrap=isinstance(shown, str))


def new_console(width: int | None = TABLE_WIDTH) -> Console:
    """Return a console on standard output. If the width is `None`, it takes the terminal's width."""
    return _Console(width=width, markup=False, emoji=False, highlight=False)


def drawn(shown: Shown) -> RenderableType:
    """Return what rich draws."""
    if isinstance(shown, Group):
        return RichGroup(*map(drawn, shown.parts))
    if isinstance(shown, Table):
        return _drawn_table(shown)
    return RichText(shown.plain, shown.style) if isinstance(shown, Text) else shown


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error of any write to a closed pipe: typer then ends the command. Rich would exit at once."""
        raise BrokenPipeError(errno.EPIPE, "the reader of standard output has closed it")


def _drawn_table(table: Table) -> RichTable:
    columns, width = table.columns, None
    if not table.may_fold:
        texts = [[str(one) for one in (column.heading, *column.cells)] for column in columns]
        # A table of its own width: what is still too long is wrapped by the terminal, and can be copied.
        width = sum(max(map(cell_len, each)) for each in texts) + GAP * (len(columns) - 1)
    found = RichTable(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, GAP, 0, 0),
        show_header=table.has_headings,
        width=width,
    )
    for one in columns:
        found.add_column(
            one.heading, justify="right" if one.is_number else "left", no_wrap=not table.may_fold, overflow="fold"
        )
    for row in zip(*(one.cells for one in columns), strict=True):
        found.add_row(*(drawn(cell) for cell in row))
    return found
