"""Tables, and the console for them.

It imports rich, which is slow to import and which `serve` does not need. Commands import it where they print a table.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

TABLE_WIDTH = 250
"""The most columns of a table whose output is no terminal."""
GAP = 2


def output_width() -> int:
    """Return the columns of the terminal, or those that `COLUMNS` says; a large number without a terminal."""
    return shutil.get_terminal_size((TABLE_WIDTH, 24)).columns


def new_console(width: int | None = TABLE_WIDTH) -> Console:
    """Return a console on standard output. If the width is `None`, it takes the terminal's width."""
    return _Console(width=width, markup=False, emoji=False, highlight=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error of any write to a closed pipe: typer then ends the command. Rich would exit at once."""
        raise BrokenPipeError(errno.EPIPE, "the reader of standard output has closed it")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        heading: Its heading.
        cells: Its texts, one for each row.
        is_number: Whether it is aligned at its right edge.
        keep: How important the column is. On a narrow terminal those with the highest numbers are shown that fit beside
            each other; `None` is never left out.
    """

    heading: str
    cells: Sequence[Text | str]
    is_number: bool = False
    keep: int | None = None

    @property
    def width(self) -> int:
        """The columns of the terminal that it takes."""
        return max(cell_len(str(one)) for one in (self.heading, *self.cells))


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
    # A table of its own width: what is still too long is wrapped by the terminal, and can be copied.
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0), width=own_width)
    fitting = [column for column in columns if column.heading in shown]
    for one in fitting:
        table.add_column(one.heading, justify="right" if one.is_number else "left", no_wrap=True)
    for row in zip(*(one.cells for one in fitting), strict=True):
        table.add_row(*row)
    return table
